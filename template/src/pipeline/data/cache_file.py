"""A npy file that grows by rows, and an index that says what each row is: the files of one cache.

Both are only ever appended to, first the pixels and then the index, so a row that the index names is whole: whoever is
killed while writing loses the rows since the last append, and whoever reads at the same time never sees half of one.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from toolkit.archives import archive_at
from toolkit.errors import UserError

INDEX, IMAGES, LOCK = "index.jsonl", "images.npy", "lock"
CLEAR = "remove it with scripts/cache.py --clear"
Form = tuple[str, tuple[int, ...]]  # dtype and shape (H, W, C) of every row


@dataclass(frozen=True)
class Stamp:
    """What tells a changed file from the one that was read: bytes, and nanoseconds of its last change.

    A file in an archive is told by its checksum instead of the time: a download again of the same changes nothing. A
    folder is told by all files in it.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file; of what is none (a reader may make its path of anything), one that no file has."""
        within = archive_at(path)
        if within is not None:
            member = within[0].find(within[1])
            return cls(member.file_size, member.CRC) if member else cls(-1, -1)
        try:
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                files = [file.stat() for file in path.rglob("*") if file.is_file()]
                latest = max([found, *files], key=lambda each: each.st_mtime_ns)
                return cls(sum(each.st_size for each in files), latest.st_mtime_ns)
        except OSError:
            return cls(-1, -1)
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Store:
    """Rows (H, W, C) of one dtype and shape in `images.npy`, and a line for each of them in `index.jsonl`.

    A line is `[path, size, mtime_ns]`, the path being what `image_key` makes of it. Where several lines have the same
    path, the last one is valid.
    """

    folder: Path

    def index(self) -> dict[str, tuple[int, Stamp]]:
        """path -> (its row, the stamp of the file that was read).

        Raises:
            UserError: the index is damaged.
        """
        try:
            lines = enumerate(json.loads(line) for line in _whole_lines(self.folder / INDEX).splitlines())
            return {path: (row, Stamp(size, mtime_ns)) for row, (path, size, mtime_ns) in lines}
        except ValueError as error:
            raise UserError(f"the cache {self.folder} is damaged ({INDEX}: {error}); {CLEAR}") from error

    def images(self) -> np.ndarray:
        """(rows, H, W, C), read-only, mapped into memory; the index must name a row.

        Raises:
            UserError: the file is gone or damaged.
        """
        try:
            return np.asarray(np.load(self.folder / IMAGES, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise UserError(f"the cache {self.folder} is damaged ({IMAGES}: {error}); {CLEAR}") from error

    def form(self) -> Form | None:
        """Dtype and shape of its rows; none while it has no row."""
        if not _whole_lines(self.folder / INDEX):
            return None
        images = self.images()
        return str(images.dtype), images.shape[1:]

    @contextlib.contextmanager
    def writer(self, waiting: str) -> Iterator["Writer"]:
        """Be the only process that writes; `waiting` is printed if another one has to be waited for."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print(waiting, flush=True)
            held = lock.acquire()
        with held:
            yield Writer(self.folder)

    def require_idle(self, name: str) -> None:
        """Raise a `UserError` if a process is writing."""
        try:
            FileLock(self.folder / LOCK).acquire(timeout=0).lock.release()
        except Timeout as error:
            raise UserError(f"{name} is being filled by another process; wait for it, or end it") from error


class Writer:
    """Appends to a store; made by `Store.writer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = _whole_lines(folder / INDEX)
        self.count, self.end = lines.count(b"\n"), len(lines)

    def append(self, paths: Sequence[str], stamps: Sequence[Stamp], rows: np.ndarray) -> None:
        """Add rows (N, H, W, C) and what they were read from.

        Raises:
            UserError: the disk is full or the folder cannot be written; what was there before is untouched.
        """
        named = zip(paths, stamps, strict=True)
        lines = "".join(json.dumps([path, stamp.size, stamp.mtime_ns]) + "\n" for path, stamp in named).encode()
        header = _header(rows.dtype, (self.count + len(rows), *rows.shape[1:]))
        with writing(self.folder):
            with _opened(self.folder / IMAGES) as file:
                file.seek(len(header) + self.count * rows[:1].nbytes)  # over what a killed process left unnamed
                file.write(np.ascontiguousarray(rows).data)
            with _opened(self.folder / IMAGES) as file:  # only now: a header must not promise more than there is
                file.write(header)
            with _opened(self.folder / INDEX) as file:
                file.seek(self.end)
                file.write(lines)
                file.truncate()
        self.count, self.end = self.count + len(rows), self.end + len(lines)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full or forbidden disk as a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free space or choose another disk, "
            "and the same command goes on"
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file to change in place, made if need be, and on disk when the block ends."""
    path.touch()
    with path.open("r+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What a npy file begins with. Its length is the same for any number of rows, so that an array can grow."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _whole_lines(index: Path) -> bytes:
    """The index without a last line that was cut off; empty where there is none."""
    try:
        data = index.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]
