"""Images decoded and resized once: `image.cache: true`.

The dataset then sees every image at the size of the cache (`image.cache_size`, or `image.size`), with the same pixels
whether they come from the cache or were decoded on the spot. So test rows, which are read once and not stored, are
predicted as the training rows were seen, and an image size that changes while training needs no other cache.

A cache is a folder with `images.bin`, an array of images of one dtype and shape (`about.json`), and `index.jsonl`, a
line `[key, *stamp]` for each of them. Both are only appended to, first the pixels and then the index, so an image that
the index names is whole: a process that is killed loses its last chunk at most, and readers never see half an image.
"""

import functools
import hashlib
import inspect
import json
import math
import os
import shutil
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.filesize import decimal

from pipeline.config import Experiment
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.project import Project
from pipeline.registry import Names
from toolkit.errors import UserError
from toolkit.files import digest, write_json, writing
from toolkit.images.readers import Size
from toolkit.images.row_reader import NO_ROW, Reader, Row, RowReader, Rows, image_key, row_reader
from toolkit.terminal import console, progress_bar

INDEX, IMAGES, ABOUT, LOCK = "index.jsonl", "images.bin", "about.json", "lock"
CHUNK_ROWS, CHUNK_BYTES = 512, 64 * 2**20  # appended at once, so this much is lost at most by a kill
OPENCV_CHANNELS = 4  # that it resizes at once with INTER_AREA
Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change: what tells a changed file from the one decoded


class ResizedReader(RowReader):
    """A reader whose images all have `size`, whatever size is asked for.

    Raises:
        UserError: what `reader` made is neither uint8 nor float32, or not (H, W, C).
    """

    def __init__(self, reader: RowReader, size: Size) -> None:
        self.reader, self.size, self.takes_row = reader, size, reader.takes_row

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        pixels = self.reader(path, self.size, row)
        if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.float32):
            raise UserError(
                f"the reader made {pixels.dtype} {pixels.shape} of {path.name}; "
                "uint8 or float32 of shape (H, W, C) is expected"
            )
        return resized(pixels, self.size)


class CachedImages(RowReader):
    """A reader that takes images out of a cache, and those that are not in it as `reader` gives them.

    A loader's process maps the file into its own memory when it first reads, so nothing is copied to it.

    Args:
        folder: of the cache.
        rows: what an image is known by (`image_key`) -> its row in the cache.
        reader: what decodes the others.
    """

    def __init__(self, folder: Path, rows: dict[str, int], reader: RowReader) -> None:
        self.folder, self.rows, self.reader = folder, rows, reader
        self.takes_row = reader.takes_row
        self.images: np.ndarray | None = _images(folder) if rows else None

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        """A copy of the image (H, W, C), which may be changed."""
        position = self.rows.get(image_key(str(path), row))
        if position is None:
            return self.reader(path, size, row)
        if self.images is None:
            self.images = _images(self.folder)
        return np.array(self.images[position])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "images": None}


def reader_for(experiment: Experiment, names: Names) -> RowReader:
    """The experiment's reader; where `image.cache` is on, its images are resized to the size of the cache."""
    reader = row_reader(names.bind("reader", experiment.image.reader))
    size = experiment.image.cache_size or experiment.image.size
    return ResizedReader(reader, size) if experiment.image.cache else reader


def open_cache(project: Project, experiment: Experiment, names: Names, *tables: pd.DataFrame) -> Reader:
    """What reads the images of some rows: the cache, once all are in it; without `image.cache` the plain reader.

    What is not in it, and what has another size or time of change than when it was read, is decoded now; everything
    else stays as it is. One process does it, and others wait. The old row of a changed image takes up space until
    `scripts/cache.py --clear`.

    Args:
        tables: rows with `id` and `image`.

    Raises:
        UserError: an image cannot be read (its row and path are named) or is not like the others, or the disk is too
            small. What was decoded before stays.
    """
    reader = reader_for(experiment, names)
    if not experiment.image.cache:
        return reader
    about = _describe(project, experiment, names)
    height, width = about["size"]
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder = project.cache / f"{height}x{width}-{name}"
    stamp = functools.cache(lambda path: stamp_of(project.data / path))  # before reading: a change is then seen
    sources: dict[str, Source] = {}
    for table in tables:
        rows = Rows(table, reader)
        for position, (row_id, path) in enumerate(zip(table[ROW_ID], table[ROW_IMAGE], strict=True)):
            row = rows[position]
            where = f"row {position} (id {row_id})"
            sources[image_key(path, row)] = Source(project.data / path, path, row, stamp(path), where)
    if _missing(folder, sources):
        filling = f"cache: another process fills {project.shown(folder)}; waiting for it"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print(filling, flush=True)
            held = lock.acquire()
        with held:
            if keys := _missing(folder, sources):  # the other process may have read all of them
                _fill(folder, project.shown(folder), reader, sources, keys, about)
    index = _index(folder)
    return CachedImages(folder, {image_key(str(s.path), s.row): index[key][0] for key, s in sources.items()}, reader)


def require_idle(folder: Path, name: str) -> None:
    """Raise a `UserError` if a process is filling the cache in a folder."""
    try:
        FileLock(folder / LOCK).acquire(timeout=0).lock.release()
    except Timeout as error:
        raise UserError(f"{name} is being filled by another process; wait for it, or end it") from error


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """An image (H, W, C) at another size, aspect ignored: averaged where it shrinks, linear where it grows."""
    smaller = (min(pixels.shape[0], size[0]), min(pixels.shape[1], size[1]))
    for target, interpolation in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if pixels.shape[:2] != target:
            parts = [
                cv2.resize(pixels[:, :, first : first + OPENCV_CHANNELS], target[::-1], interpolation=interpolation)
                for first in range(0, pixels.shape[2], OPENCV_CHANNELS)
            ]
            pixels = parts[0].reshape(*target, -1) if len(parts) == 1 else np.dstack(parts)
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


@dataclass(frozen=True)
class Source:
    """Where an image comes from.

    Attributes:
        name: its path below the data folder.
        row: what a reader that asks for it is given.
        stamp: of the file as it is now.
        where: a row that shows it, and its id.
    """

    path: Path
    name: str
    row: Row
    stamp: Stamp
    where: str

    def read(self, reader: RowReader) -> np.ndarray:
        """The image (H, W, C); an error names the row."""
        try:
            return reader(self.path, None, self.row)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error


def _fill(
    folder: Path, shown: str, reader: RowReader, sources: dict[str, Source], keys: list[str], about: dict[str, Any]
) -> None:
    """Decode what is missing (`keys`) by several threads. Whatever ends it, whole chunks are in the cache."""
    first = sources[keys[0]].read(reader)
    index = _whole_lines(folder)
    like = _images(folder) if index else first[None]
    dtype, shape = like.dtype, like.shape[1:]
    size = math.prod(shape) * dtype.itemsize
    there = len(sources) - len(keys)
    print(
        f"cache: {len(sources):,} images of {' x '.join(map(str, shape))}, {dtype}, "
        f"{decimal(len(sources) * size)}, in {shown}"
        f"{f'; {there:,} are there already' if there else ''}",
        flush=True,
    )
    needed, free = len(keys) * size, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the cache needs {decimal(needed)} more, and {decimal(free)} are free at {shown}; "
            "free space (scripts/cache.py --clear removes old caches), choose a smaller image.cache_size, "
            "or set image.cache to false"
        )
    write_json(folder / ABOUT, {**about, "dtype": str(dtype), "shape": list(shape)})
    _require_alike(first, dtype, shape, sources[keys[0]].name)
    with writing(folder):
        for name, end in ((IMAGES, index.count(b"\n") * size), (INDEX, len(index))):
            with (folder / name).open("ab") as file:
                file.truncate(end)  # what a killed process left
    _append(folder, {keys[0]: sources[keys[0]]}, [first])
    rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // size))
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress_bar(console()) as bar:
            task = bar.add_task("filling the cache", total=len(sources), completed=there + 1)
            for start in range(1, len(keys), rows):
                chunk = {key: sources[key] for key in keys[start : start + rows]}
                images: list[np.ndarray] = []
                try:
                    for source, pixels in zip(
                        chunk.values(), pool.map(lambda source: source.read(reader), chunk.values()), strict=True
                    ):
                        _require_alike(pixels, dtype, shape, source.name)
                        images.append(pixels)
                        bar.advance(task)
                finally:
                    _append(folder, chunk, images)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued


def _require_alike(pixels: np.ndarray, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> None:
    """Refuse an image that cannot lie in one array with the others."""
    if pixels.dtype != dtype:
        raise UserError(
            f"{name} is read as {pixels.dtype}, and the images before it as {dtype}; "
            "set image.reader.params.as_float to true"
        )
    if pixels.shape != shape:
        raise UserError(
            f"{name} has {pixels.shape[2]} channels, and the images before it {shape[2]}; "
            "set image.reader.params.channels to one number for all"
        )


def _append(folder: Path, sources: dict[str, Source], images: Sequence[np.ndarray]) -> None:
    """Add images and what they were read from; there may be more sources than images.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    if not len(images):
        return
    lines = "".join(json.dumps([key, *source.stamp]) + "\n" for key, source in list(sources.items())[: len(images)])
    with writing(folder):
        for name, data in ((IMAGES, np.ascontiguousarray(images).data), (INDEX, lines.encode())):
            with (folder / name).open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def _missing(folder: Path, sources: dict[str, Source]) -> list[str]:
    """Keys of what is not in the cache as its file is now."""
    index = _index(folder)
    return [key for key, source in sources.items() if key not in index or index[key][1] != source.stamp]


def _index(folder: Path) -> dict[str, tuple[int, Stamp]]:
    """key -> (its row, the stamp of the file that was read); of several lines with one key the last is valid."""
    try:
        lines = enumerate(json.loads(line) for line in _whole_lines(folder).splitlines())
        return {key: (row, (size, mtime_ns)) for row, (key, size, mtime_ns) in lines}
    except ValueError as error:
        raise _damaged(folder, INDEX, error) from error


def _whole_lines(folder: Path) -> bytes:
    """The index without a last line that was cut off; empty where there is none."""
    try:
        data = (folder / INDEX).read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _images(folder: Path) -> np.ndarray:
    """(rows, H, W, C), read-only, mapped into memory; the index must name a row."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        shape = (_whole_lines(folder).count(b"\n"), *about["shape"])
        return np.memmap(folder / IMAGES, about["dtype"], mode="r", shape=shape)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, IMAGES, error) from error


def _damaged(folder: Path, name: str, error: Exception) -> UserError:
    return UserError(f"the cache {folder} is damaged ({name}: {error}); remove it with scripts/cache.py --clear")


def _describe(project: Project, experiment: Experiment, names: Names) -> dict[str, Any]:
    """What decides the pixels in a cache: reader, its params and code, the size, and the data folder.

    The code is the source file in which the reader (a function, a class, or the class of an object) is defined; any
    change of that file counts, so a reader is best kept in a file of its own. What it imports is not looked at: after a
    change there, `scripts/cache.py --clear`.
    """
    entry = names.resolve("reader", experiment.image.reader)
    function = inspect.unwrap(names.find("reader", entry.name))
    defined = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    source = inspect.getsourcefile(defined)
    return {
        "reader": entry.name,
        "params": json.loads(json.dumps(entry.params, default=str)),
        "code": digest(Path(source).read_bytes()) if source else "",
        "size": list(experiment.image.cache_size or experiment.image.size),
        "data": project.shown(project.data),
    }
