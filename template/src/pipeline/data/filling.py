"""Filling a cache: what is missing is decoded by several threads and appended in chunks."""

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.filesize import decimal

from pipeline.data.scan import Reader
from pipeline.data.store import Form, Stamp, Store, Writer
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.project import Project
from pipeline.terminal import console, progress_bar

ABOUT = "about.json"  # for a person who looks into the folder
CHUNK_ROWS, CHUNK_BYTES = 512, 64 * 2**20  # appended at once, so this much is lost at most by a kill


class Filling:
    """Brings the images of some rows into a store.

    Args:
        reader: gives all images the same height and width.
        rows: path of an image below the data folder -> (position, id) of a row that shows it.
    """

    def __init__(self, project: Project, store: Store, reader: Reader, rows: dict[str, tuple[int, Any]]) -> None:
        self.project, self.store, self.reader, self.rows = project, store, reader, rows
        self.stamps = {path: Stamp.of(project.data / path) for path in rows}  # before reading: a change is then seen

    def fill(self, about: dict[str, Any]) -> None:
        """Decode what is missing. Whatever ends it, what was decoded is kept."""
        if not self._missing():
            return
        with self.store.writer(f"cache: another process fills {self._folder()}; waiting for it") as writer:
            paths = self._missing()
            if not paths:  # the other process has read all of them
                return
            first = self._read(paths[0])
            form = self.store.form() or (str(first.dtype), first.shape)
            self._announce(len(paths), form)
            write_json(self.store.folder / ABOUT, about)
            self._append(writer, paths[:1], _fitting(first, form, paths[0])[None])
            self._fill(writer, paths[1:], form)

    def _missing(self) -> list[str]:
        """Paths that are not in the store as their files are now."""
        index = self.store.index()
        return [path for path, stamp in self.stamps.items() if path not in index or index[path][1] != stamp]

    def _announce(self, missing: int, form: Form) -> None:
        """Say how large the cache is going to be.

        Raises:
            UserError: the disk has not so much space.
        """
        dtype, shape = form
        there = f"; {len(self.rows) - missing:,} are there already" if missing < len(self.rows) else ""
        print(
            f"cache: {len(self.rows):,} images of {' x '.join(map(str, shape))}, {dtype}, "
            f"{decimal(len(self.rows) * _bytes(form))}, in {self._folder()}{there}",
            flush=True,
        )
        needed, free = missing * _bytes(form), shutil.disk_usage(self.store.folder).free
        if free < needed:
            raise UserError(
                f"the cache needs {decimal(needed)} more, and {decimal(free)} are free at {self._folder()}; "
                "free space (scripts/cache.py --clear removes old caches), choose a smaller image.cache_size, "
                "or set image.cache to false"
            )

    def _fill(self, writer: Writer, paths: list[str], form: Form) -> None:
        dtype, shape = form
        most = max(1, min(CHUNK_ROWS, CHUNK_BYTES // _bytes(form)))
        buffer = np.empty((min(most, len(paths)), *shape), dtype)
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            with progress_bar(console()) as bar:
                task = bar.add_task("filling the cache", total=len(self.rows), completed=len(self.rows) - len(paths))
                for start in range(0, len(paths), most):
                    chunk, done = paths[start : start + most], 0
                    try:
                        for pixels in pool.map(self._read, chunk):
                            buffer[done] = _fitting(pixels, form, chunk[done])
                            done += 1
                            bar.advance(task)
                    finally:
                        self._append(writer, chunk[:done], buffer[:done])
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued

    def _append(self, writer: Writer, paths: list[str], rows: np.ndarray) -> None:
        if paths:
            writer.append(paths, [self.stamps[path] for path in paths], rows)

    def _read(self, path: str) -> np.ndarray:
        try:
            return self.reader(self.project.data / path, None)
        except UserError as error:
            position, name = self.rows[path]
            raise UserError(f"row {position} (id {name}): {error}") from error

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
