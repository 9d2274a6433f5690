"""Filling a cache: what is missing is decoded by several threads and appended in chunks."""

import functools
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from rich.filesize import decimal

from pipeline.data.cache_file import Form, Stamp, Store, Writer
from pipeline.project import Project
from toolkit.errors import UserError
from toolkit.files import write_json
from toolkit.images.row_reader import Row, RowReader
from toolkit.terminal import console, progress_bar

ABOUT = "about.json"  # for a person who looks into the folder
CHUNK_ROWS, CHUNK_BYTES = 512, 64 * 2**20  # appended at once, so this much is lost at most by a kill


class Source(NamedTuple):
    """Where an image comes from.

    Attributes:
        key: what it is known by in the store; the path, but for a reader that asks for the row.
        path: below the data folder.
        row: what such a reader is given.
        position, name: of a row that shows it, and its id.
    """

    key: str
    path: str
    row: Row
    position: int
    name: Any


class Filling:
    """Brings the images of some rows into a store.

    Args:
        reader: gives all images the same height and width.
        sources: by their keys.
    """

    def __init__(self, project: Project, store: Store, reader: RowReader, sources: dict[str, Source]) -> None:
        self.project, self.store, self.reader, self.sources = project, store, reader, sources
        stamp = functools.cache(lambda path: Stamp.of(project.data / path))
        # Before reading: a change is then seen.
        self.stamps: dict[str, Stamp] = {key: stamp(source.path) for key, source in sources.items()}

    def fill(self, about: dict[str, Any]) -> None:
        """Decode what is missing. Whatever ends it, what was decoded is kept."""
        if not self._missing():
            return
        with self.store.writer(f"cache: another process fills {self._folder()}; waiting for it") as writer:
            keys = self._missing()
            if not keys:  # the other process has read all of them
                return
            first = self._read(keys[0])
            form = self.store.form() or (str(first.dtype), first.shape)
            self._announce(len(keys), form)
            write_json(self.store.folder / ABOUT, about)
            self._append(writer, keys[:1], self._fitting(first, form, keys[0])[None])
            self._fill(writer, keys[1:], form)

    def _missing(self) -> list[str]:
        """Keys of what is not in the store as its file is now."""
        index = self.store.index()
        return [key for key, stamp in self.stamps.items() if key not in index or index[key][1] != stamp]

    def _announce(self, missing: int, form: Form) -> None:
        """Say how large the cache is going to be.

        Raises:
            UserError: the disk has not so much space.
        """
        dtype, shape = form
        there = f"; {len(self.sources) - missing:,} are there already" if missing < len(self.sources) else ""
        print(
            f"cache: {len(self.sources):,} images of {' x '.join(map(str, shape))}, {dtype}, "
            f"{decimal(len(self.sources) * _bytes(form))}, in {self._folder()}{there}",
            flush=True,
        )
        needed, free = missing * _bytes(form), shutil.disk_usage(self.store.folder).free
        if free < needed:
            raise UserError(
                f"the cache needs {decimal(needed)} more, and {decimal(free)} are free at {self._folder()}; "
                "free space (scripts/cache.py --clear removes old caches), choose a smaller image.cache_size, "
                "or set image.cache to false"
            )

    def _fill(self, writer: Writer, keys: list[str], form: Form) -> None:
        dtype, shape = form
        most = max(1, min(CHUNK_ROWS, CHUNK_BYTES // _bytes(form)))
        buffer = np.empty((min(most, len(keys)), *shape), dtype)
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            with progress_bar(console()) as bar:
                task = bar.add_task(
                    "filling the cache", total=len(self.sources), completed=len(self.sources) - len(keys)
                )
                for start in range(0, len(keys), most):
                    chunk, done = keys[start : start + most], 0
                    try:
                        for pixels in pool.map(self._read, chunk):
                            buffer[done] = self._fitting(pixels, form, chunk[done])
                            done += 1
                            bar.advance(task)
                    finally:
                        self._append(writer, chunk[:done], buffer[:done])
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued

    def _append(self, writer: Writer, keys: list[str], rows: np.ndarray) -> None:
        if keys:
            writer.append(keys, [self.stamps[key] for key in keys], rows)

    def _read(self, key: str) -> np.ndarray:
        source = self.sources[key]
        try:
            return self.reader(self.project.data / source.path, None, source.row)
        except UserError as error:
            raise UserError(f"row {source.position} (id {source.name}): {error}") from error

    def _fitting(self, pixels: np.ndarray, form: Form, key: str) -> np.ndarray:
        return _fitting(pixels, form, self.sources[key].path)

    def _folder(self) -> str:
        return self.project.shown(self.store.folder)


def _fitting(pixels: np.ndarray, form: Form, path: str) -> np.ndarray:
    """The image, if it can lie in one array with the others."""
    dtype, shape = form
    if str(pixels.dtype) != dtype:
        raise UserError(
            f"{path} is read as {pixels.dtype}, and the images before it as {dtype}; "
            "set image.reader.params.as_float to true"
        )
    if pixels.shape != shape:
        raise UserError(
            f"{path} has {pixels.shape[2]} channels, and the images before it {shape[2]}; "
            "set image.reader.params.channels to one number for all"
        )
    return pixels


def _bytes(form: Form) -> int:
    dtype, shape = form
    return math.prod(shape) * np.dtype(dtype).itemsize
