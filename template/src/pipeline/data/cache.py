"""Images decoded and resized once: `image.cache: true`.

The dataset then sees every image at the size of the cache (`image.cache_size`, or `image.size`), whether it comes from
the cache or, as test rows, was decoded on the spot; a size that changes while training needs no other cache.

A cache is a folder with a npy file for each image, named by what the image is known by and by the size and the time of
change of its file. A file gets its name when it is whole, so a process that is killed loses no more than one image.
"""

import functools
import inspect
import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.filesize import decimal

from pipeline.config import Experiment
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.project import Project
from pipeline.registry import Registry
from toolkit.errors import UserError
from toolkit.files import digest, writing
from toolkit.images.pixels import Size
from toolkit.images.readers import NO_ROW, Reader, Row, RowReader, Rows, image_key, row_reader
from toolkit.terminal import console, progress_bar

LOCK = "lock"
OPENCV_CHANNELS = 4  # that it resizes at once with INTER_AREA
Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change: what tells a changed file from the one decoded


class ResizedReader(RowReader):
    """A reader whose images all have `size`, whatever size is asked for."""

    def __init__(self, reader: RowReader, size: Size) -> None:
        self.reader, self.size, self.takes_row = reader, size, reader.takes_row

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        pixels = self.reader(path, self.size, row)
        if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.float32):
            made = f"the reader made {pixels.dtype} {pixels.shape} of {path.name}"
            raise UserError(f"{made}; uint8 or float32 of shape (H, W, C) is expected")
        return resized(pixels, self.size)


class CachedImages(RowReader):
    """A reader that takes images out of a cache, and those that are not in it as `reader` gives them.

    Args:
        files: what an image is known by (`image_key`) -> its file in the cache.
    """

    def __init__(self, files: dict[str, Path], reader: RowReader) -> None:
        self.files, self.reader, self.takes_row = files, reader, reader.takes_row

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        file = self.files.get(image_key(str(path), row))
        if file is None:
            return self.reader(path, size, row)
        try:
            return np.asarray(np.load(file))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the cache is damaged ({file}: {error}); remove it: scripts/cache.py --clear") from error


class Source(NamedTuple):
    """An image that is to be in the cache: where it is, its row for a reader that asks for it, its file in the cache,
    and a row that shows it, for errors."""

    path: Path
    row: Row
    file: Path
    where: str

    def read(self, reader: RowReader) -> np.ndarray:
        """The image (H, W, C); an error names the row."""
        try:
            return reader(self.path, None, self.row)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error


def reader_for(experiment: Experiment, names: Registry) -> RowReader:
    """The experiment's reader; where `image.cache` is on, its images are resized to the size of the cache."""
    reader = row_reader(names.bind("reader", experiment.image.reader))
    size = experiment.image.cache_size or experiment.image.size
    return ResizedReader(reader, size) if experiment.image.cache else reader


def open_cache(project: Project, experiment: Experiment, names: Registry, *tables: pd.DataFrame) -> Reader:
    """What reads the images of some rows: the cache, once all are in it; without `image.cache` the plain reader.

    What is not in it, and what has another size or time of change than when it was read, is decoded now, by one process
    while others wait. The old file of a changed image takes up space until `scripts/cache.py --clear`.

    Args:
        tables: rows with `id` and `image`.

    Raises:
        UserError: an image cannot be read (its row and path are named) or is not like the others, or the disk is too
            small. What was decoded before stays.
    """
    reader = reader_for(experiment, names)
    if not experiment.image.cache:
        return reader
    folder = project.cache / _name(project, experiment, names)
    stamp = functools.cache(lambda path: stamp_of(project.data / path))  # before reading: a change is then seen
    sources: dict[str, Source] = {}
    for table in tables:
        rows = Rows(table, reader)
        for position, (row_id, path) in enumerate(zip(table[ROW_ID], table[ROW_IMAGE], strict=True)):
            row, full = rows[position], project.data / path
            file = folder / f"{digest(f'{image_key(path, row)} {stamp(path)}'.encode())}.npy"
            sources[image_key(str(full), row)] = Source(full, row, file, f"row {position} (id {row_id})")

    def missing() -> list[Source]:
        there = {path.name for path in folder.glob("*.npy")}
        return [source for source in sources.values() if source.file.name not in there]

    if missing():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print(f"cache: another process fills {project.shown(folder)}; waiting for it", flush=True)
            held = lock.acquire()
        with held:
            if lacking := missing():  # the other process may have read all of them
                _fill(folder, project.shown(folder), reader, lacking, len(sources))
    return CachedImages({key: source.file for key, source in sources.items()}, reader)


def clear_caches(project: Project) -> None:
    """Remove `data/cache`, which no process may be filling."""
    folders = [path.parent for path in project.cache.glob(f"*/{LOCK}")]
    for folder in folders:
        try:
            FileLock(folder / LOCK).acquire(timeout=0).lock.release()
        except Timeout as error:
            raise UserError(f"{project.shown(folder)} is being filled by another process; wait, or end it") from error
    size = sum(path.stat().st_size for path in project.cache.rglob("*") if path.is_file())
    with writing(project.cache):
        if project.cache.is_dir():
            shutil.rmtree(project.cache)
    print(f"caches removed from {project.shown(project.cache)}: {len(folders)} ({decimal(size)})")


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """An image (H, W, C) at another size, aspect ignored: averaged where it shrinks, linear where it grows."""
    smaller = (min(pixels.shape[0], size[0]), min(pixels.shape[1], size[1]))
    for target, interpolation in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if pixels.shape[:2] != target:
            groups = np.split(pixels, range(OPENCV_CHANNELS, pixels.shape[2], OPENCV_CHANNELS), axis=2)
            pixels = np.dstack([cv2.resize(group, target[::-1], interpolation=interpolation) for group in groups])
    return pixels


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file, or of all files in a folder; (-1, -1) of what is none: a reader may read anything."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            files = [file.stat() for file in path.rglob("*") if file.is_file()]
            return sum(each.st_size for each in files), max(each.st_mtime_ns for each in [found, *files])
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _fill(folder: Path, where: str, reader: RowReader, missing: list[Source], total: int) -> None:
    """Decode what is missing by several threads. Whatever ends it, what is in the cache is whole."""
    first, stored = missing[0].read(reader), next(folder.glob("[!.]*.npy"), None)
    like = first if stored is None else np.load(stored)
    there, form = total - len(missing), f"{' x '.join(map(str, like.shape))}, {like.dtype}"
    already = f"; {there:,} are there already" if there else ""
    print(f"cache: {total:,} images of {form}, {decimal(total * like.nbytes)}, in {where}{already}", flush=True)
    needed, free = len(missing) * like.nbytes, shutil.disk_usage(folder).free
    if free < needed:
        what = f"the cache needs {decimal(needed)} more, and {decimal(free)} are free at {where}"
        remedy = "choose a smaller image.cache_size, or set image.cache to false"
        raise UserError(f"{what}; free space (scripts/cache.py --clear), {remedy}")

    def store(source: Source) -> None:
        pixels = first if source is missing[0] else source.read(reader)
        if (pixels.dtype, pixels.shape) != (like.dtype, like.shape):  # a batch could not hold both
            made = f"{source.path.name} is read as {pixels.dtype} with {pixels.shape[2]} channels, and others as"
            remedy = "set image.reader.params.as_float to true, or image.reader.params.channels to one number for all"
            raise UserError(f"{source.where}: {made} {like.dtype} with {like.shape[2]}; {remedy}")
        part = source.file.with_name(f".{source.file.name}")
        try:
            with writing(folder):
                content = BytesIO()  # a full disk goes unnoticed where numpy itself writes a small array to a file
                np.save(content, pixels)
                part.write_bytes(content.getbuffer())
                part.replace(source.file)
        finally:
            part.unlink(missing_ok=True)

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress_bar(console()) as bar:
            task = bar.add_task("filling the cache", total=total, completed=there)
            for _ in pool.map(store, missing):
                bar.advance(task)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued


def _name(project: Project, experiment: Experiment, names: Registry) -> str:
    """The name of a cache, of what decides its pixels: reader, its params and code, the size, and the data folder.

    The code is the source file in which the reader is defined; any change of that file counts. What it imports is not
    looked at: after a change there, `scripts/cache.py --clear`.
    """
    entry, size = names.resolve("reader", experiment.image.reader), experiment.image.cache_size or experiment.image.size
    function = inspect.unwrap(names.find("reader", entry.name))
    defined = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    source = inspect.getsourcefile(defined)
    code = Path(source).read_bytes() if source else b""
    about = [entry.name, entry.params, digest(code), size, project.shown(project.data)]
    return f"{size[0]}x{size[1]}-{digest(json.dumps(about, sort_keys=True, default=str).encode())[:12]}"
