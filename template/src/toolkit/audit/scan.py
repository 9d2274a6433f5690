"""One pass over many images: which cannot be read, and what is needed to find copies among the others."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from toolkit.errors import UserError
from toolkit.files import digest, digest_of, missing, read_bytes
from toolkit.images.damage import damage, has_picture_in_alpha
from toolkit.images.header import describe, size_of
from toolkit.images.pixels import Size
from toolkit.images.readers import NO_ROW, Reader, Row, RowReader, Rows, row_reader
from toolkit.terminal import console, progress_bar

DECODE = 64  # images are decoded at no less than this height and width
LARGE_FILE = 1 << 26  # bytes; of a larger one the header is looked for in as many
SIDE = 16  # height and width of a thumbnail


@dataclass(frozen=True)
class Look:
    """What one image is; without a file of its own, its digest is of its pixels, and none where all are equal."""

    digest: str = ""
    form: str = ""  # `8-bit colour` and the like, as the header says
    size: Size = (0, 0)  # height and width of the file, or of what the reader gave; zeros where it cannot be read
    dtype: str = ""  # of what the reader made of it, as `channels`
    channels: int = 0
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros(SIDE * SIDE, np.float32))  # see `normalized`
    brightest: float = 1.0  # the largest value, over what is white
    fault: str = ""  # why it cannot be read, and what sort of fault that is
    kind: str = ""
    constant: bool = False  # all pixels are the same
    alpha: bool = False  # they are, and the file has a picture in its alpha channel
    damage: str = ""  # what of the file is lost, though it can be read
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))  # float64 (C,), from 0 to 1; empty for 8-bit RGB
    square: np.ndarray = field(default_factory=lambda: np.zeros(0))  # the mean of the squares


def scan(paths: Sequence[Path], reader: Reader, rows: Rows | None = None) -> list[Look]:
    """Look at every image, by several threads and with a progress bar; the result is in the order of `paths`.

    Args:
        rows: those of the images, for a reader that asks for them.
    """
    read = row_reader(reader)
    given = [NO_ROW] * len(paths) if rows is None else (rows[position] for position in range(len(paths)))
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress_bar(console()) as bar:
            looks = pool.map(lambda path, row: look(path, read, row), paths, given)
            return list(bar.track(looks, total=len(paths), description="reading images"))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued


def look(path: Path, read: RowReader, row: Row = NO_ROW) -> Look:
    """Look at one image. Whatever is wrong with it becomes `fault`, also an error in a reader of the user's own.

    Where there is no file of this path, or the reader asks for the row, only the reader knows what an image is.
    """
    fingerprint, data = "", b""
    try:
        if path.is_file() and not read.takes_row:
            if path.stat().st_size > LARGE_FILE:
                with path.open("rb") as file:
                    fingerprint, data = digest_of(file), file.read(LARGE_FILE)
            else:
                data = read_bytes(path)
                fingerprint = digest(data)
        pixels = read(path, (DECODE, DECODE), row)
        if np.ndim(pixels) != 3 or not np.size(pixels):
            made = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {np.shape(pixels)}"
            raise UserError(f"the reader made {made} of {path.name}; uint8 or float32 of shape (H, W, C) is expected")
        return _look(fingerprint, data, pixels)
    except Exception as error:
        fault: Exception = error
        if isinstance(error, FileNotFoundError) and not path.exists():
            fault = missing(path)
        elif not isinstance(error, UserError):
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            fault = UserError(f"the reader failed on {path.name}: {what}")
    return Look(fingerprint, describe(data), fault=str(fault), kind=getattr(fault, "kind", "unreadable image"))


def _look(fingerprint: str, data: bytes, pixels: np.ndarray) -> Look:
    white = 255 if pixels.dtype == np.uint8 else 1
    constant = bool((pixels == pixels[0, 0]).all())
    if not data and not constant:
        fingerprint = digest(f"{pixels.dtype} {pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    height, width, channels = pixels.shape
    values = pixels.reshape(-1, channels) if channels != 3 or white == 1 else np.zeros((1, 0))
    image = grey(pixels)
    if min(height, width) < DECODE:  # averaging it over parts of pixels would make its copies of other sizes unlike it
        image = cv2.resize(image, (max(width, DECODE), max(height, DECODE)), interpolation=cv2.INTER_CUBIC)
    return Look(
        fingerprint,
        describe(data),
        size_of(data) or (height, width),
        str(pixels.dtype),
        channels,
        normalized(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)),
        float(pixels.max()) / white,
        constant=constant,
        alpha=constant and has_picture_in_alpha(data),
        damage=damage(data) if len(data) < LARGE_FILE else "",
        mean=values.mean(axis=0, dtype=np.float64) / white,
        square=np.einsum("nc,nc->c", values, values, dtype=np.float64) / len(values) / white**2,
    )


def grey(pixels: np.ndarray) -> np.ndarray:
    """float32 (H, W) from (H, W, C)."""
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[2] == 3 else pixels.mean(axis=2, dtype=np.float32)
    return image.astype(np.float32, copy=False)


def normalized(image: np.ndarray) -> np.ndarray:
    """The pixels in one row, float32, of mean 0 and norm 1; zeros for an image without contrast."""
    flat = image.astype(np.float32).ravel()
    flat = flat - flat.mean()
    norm = float(np.linalg.norm(flat))
    return flat / norm if norm > 1e-3 * len(flat) ** 0.5 * max(1.0, float(np.abs(image).max())) else np.zeros_like(flat)
