"""One pass over many images: which cannot be read, and what is needed to find copies among the others."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.images import describe, size_of
from pipeline.data.marker import digest, digest_of
from pipeline.data.pixels import Size
from pipeline.data.places import archive_at, read_bytes
from pipeline.errors import UserError
from pipeline.terminal import console, progress_bar

Reader = Callable[[Path, Size | None], np.ndarray]

DECODE = 64  # images are decoded at no less than this height and width
LARGE_FILE = 1 << 26  # bytes; of a larger one the header is looked for in as many
SIDE = 16  # height and width of a thumbnail


@dataclass(frozen=True)
class Look:
    """What was seen of one image.

    Attributes:
        digest: fingerprint of the file's bytes; empty if it is missing.
        form: `8-bit colour` and the like; empty where the header does not say.
        size: height and width of the file, as its header or the reader says; (0, 0) if it cannot be read.
        dtype, channels: what the reader made of it; empty and 0 if it cannot be read.
        thumbnail: float32 (256,), grey, of mean 0 and norm 1; zeros for an image without contrast.
        brightest: the largest value, over what is white.
        fault: why it cannot be read; empty if it can.
    """

    digest: str = ""
    form: str = ""
    size: Size = (0, 0)
    dtype: str = ""
    channels: int = 0
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros(SIDE * SIDE, np.float32))
    brightest: float = 1.0
    fault: str = ""


def scan(paths: Sequence[Path], reader: Reader, label: str = "reading images") -> list[Look]:
    """Look at every image, by several threads and with a progress bar; the result is in the order of `paths`."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress_bar(console()) as bar:
            looks = pool.map(lambda path: look(path, reader), paths)
            return list(bar.track(looks, total=len(paths), description=label))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what is queued


def look(path: Path, reader: Reader) -> Look:
    """Look at one image. Whatever is wrong with it becomes `fault`, also an error in a reader of the user's own."""
    try:
        seen, data = _fingerprint(path)
    except UserError as error:
        return Look(fault=str(error))
    form, size = describe(data), size_of(data)
    try:
        pixels = reader(path, (DECODE, DECODE))
        brightest = float(pixels.max()) / (255 if pixels.dtype == np.uint8 else 1)
        looks = str(pixels.dtype), pixels.shape[2], thumbnail(grey(pixels)), brightest
        return Look(seen, form, size or pixels.shape[:2], *looks)
    except UserError as error:
        return Look(seen, form, fault=str(error))
    except Exception as error:
        return Look(seen, form, fault=f"the reader failed on {path.name}: {type(error).__name__}: {error}")


def _fingerprint(path: Path) -> tuple[str, bytes]:
    """The digest of a file, and its bytes; of a large file only the first ones.

    Raises:
        UserError: it is missing or empty.
    """
    if archive_at(path) is None and path.is_file() and path.stat().st_size > LARGE_FILE:
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
