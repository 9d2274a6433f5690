"""One pass over many images: which cannot be read, and what is needed to find copies among the others."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from toolkit.archives import missing, read_bytes
from toolkit.errors import UserError
from toolkit.files import digest, digest_of
from toolkit.images.damage import damage, has_picture_in_alpha
from toolkit.images.pixels import Size
from toolkit.images.readers import describe, size_of
from toolkit.images.row_reader import NO_ROW, Reader, Row, RowReader, Rows, row_reader
from toolkit.terminal import console, progress_bar

DECODE = 64  # images are decoded at no less than this height and width
LARGE_FILE = 1 << 26  # bytes; of a larger one the header is looked for in as many
SIDE = 16  # height and width of a thumbnail


@dataclass(frozen=True)
class Look:
    """What was seen of one image.

    Attributes:
        digest: fingerprint of what the image is known by: the bytes of its file, or where it is no file of its own, the
            pixels; empty if it is missing, and for such pixels that are all the same.
        form: `8-bit colour` and the like; empty where the header does not say.
        size: height and width of the file, as its header or the reader says; (0, 0) if it cannot be read.
        dtype, channels: what the reader made of it; empty and 0 if it cannot be read.
        thumbnail: float32 (256,), grey, of mean 0 and norm 1; zeros for an image without contrast.
        brightest: the largest value, over what is white.
        fault: why it cannot be read; empty if it can.
        constant: whether all its pixels are the same.
        alpha: whether they are, and the file has a picture in its alpha channel.
        damage: what of the file is lost, though it can be read; empty if nothing is.
        mean, square: float64 (C,), of the values and of their squares, from 0 to 1; empty for 8-bit RGB.
    """

    digest: str = ""
    form: str = ""
    size: Size = (0, 0)
    dtype: str = ""
    channels: int = 0
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros(SIDE * SIDE, np.float32))
    brightest: float = 1.0
    fault: str = ""
    constant: bool = False
    alpha: bool = False
    damage: str = ""
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    square: np.ndarray = field(default_factory=lambda: np.zeros(0))


def scan(paths: Sequence[Path], reader: Reader, label: str = "reading images", rows: Rows | None = None) -> list[Look]:
    """Look at every image, by several threads and with a progress bar; the result is in the order of `paths`.

    Args:
        rows: those of the images, for a reader that asks for them.
    """
    read = row_reader(reader)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress_bar(console()) as bar:
            looks = pool.map(
                lambda position: look(paths[position], read, NO_ROW if rows is None else rows[position]),
                range(len(paths)),
            )
            return list(bar.track(looks, total=len(paths), description=label))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued


def look(path: Path, reader: Reader, row: Row = NO_ROW) -> Look:
    """Look at one image. Whatever is wrong with it becomes `fault`, also an error in a reader of the user's own.

    What the reader makes of it counts: where there is no file of this path, or the reader asks for the row, nothing but
    the reader knows what an image is.
    """
    read = row_reader(reader)
    seen, data = "", b""
    try:
        if path.is_file() and not read.takes_row:
            seen, data = _fingerprint(path)
        pixels = _pixels(path, read, row)
    except UserError as error:
        return Look(seen, describe(data), fault=str(error))
    try:
        return _seen(seen, data, pixels)
    except Exception as error:  # values that nothing can be done with
        return Look(seen, describe(data), fault=_failed(path, error))


def _pixels(path: Path, reader: RowReader, row: Row) -> np.ndarray:
    """What the reader gives; every error of its own as a `UserError`."""
    try:
        pixels = reader(path, (DECODE, DECODE), row)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise missing(path) from error
        raise UserError(_failed(path, error)) from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or not pixels.size:
        made = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"the reader made {made} of {path.name}; uint8 or float32 of shape (H, W, C) is expected")
    return pixels


def _failed(path: Path, error: Exception) -> str:
    return f"the reader failed on {path.name}: {type(error).__name__}: {' '.join(str(error).split())}"


def _seen(seen: str, data: bytes, pixels: np.ndarray) -> Look:
    white = 255 if pixels.dtype == np.uint8 else 1
    constant = bool((pixels == pixels[0, 0]).all())
    if not data and not constant:
        seen = digest(f"{pixels.dtype} {pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    values = pixels.reshape(-1, pixels.shape[2])
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        values = np.zeros((1, 0))
    return Look(
        seen,
        describe(data),
        size_of(data) or (pixels.shape[0], pixels.shape[1]),
        str(pixels.dtype),
        pixels.shape[2],
        thumbnail(grey(pixels)),
        float(pixels.max()) / white,
        constant=constant,
        alpha=constant and has_picture_in_alpha(data),
        damage=damage(data) if len(data) < LARGE_FILE else "",
        mean=values.mean(axis=0, dtype=np.float64) / white,
        square=np.einsum("nc,nc->c", values, values, dtype=np.float64) / len(values) / white**2,
    )


def _fingerprint(path: Path) -> tuple[str, bytes]:
    """The digest of a file, and its bytes; of a large file only the first ones.

    Raises:
        UserError: it is missing or empty.
    """
    if path.is_file() and path.stat().st_size > LARGE_FILE:
        with path.open("rb") as file:
            return digest_of(file), file.read(LARGE_FILE)
    data = read_bytes(path)
    return digest(data), data


def grey(pixels: np.ndarray) -> np.ndarray:
    """float32 (H, W) from (H, W, C)."""
    if pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return pixels.astype(np.float32)
    mean: np.ndarray = pixels.mean(axis=2, dtype=np.float32)
    return mean


def thumbnail(image: np.ndarray) -> np.ndarray:
    """float32 (256,) from a grey image: mean 0 and norm 1, so that brightness and contrast do not count.

    A small image is enlarged first: averaging it over parts of pixels would make its copies of other sizes unlike it.
    """
    height, width = image.shape
    if min(height, width) < DECODE:
        image = cv2.resize(image, (max(width, DECODE), max(height, DECODE)), interpolation=cv2.INTER_CUBIC)
    return normalized(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def normalized(image: np.ndarray) -> np.ndarray:
    """The pixels in one row, float32, of mean 0 and norm 1; zeros for an image without contrast."""
    flat = image.astype(np.float32).ravel()
    flat = flat - flat.mean()
    norm = float(np.linalg.norm(flat))
    return flat / norm if norm > 1e-3 * len(flat) ** 0.5 * max(1.0, float(np.abs(image).max())) else np.zeros_like(flat)
