"""Map cells: the probabilities of one class of one image as bytes that describe themselves, and go into parquet so.

A cell is a header (kind, height and width of the image, height and width as stored) and compressed pixels. A
probability p is stored as round(255 p); every row as its difference to the row above, which halves what is left of
smooth maps. A mask is stored as bits.
"""

import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

HEADER = struct.Struct("<B4I")
PROBABILITY, MASK = 1, 2
LEVEL = 1
Size = tuple[int, int]


class MapWriter:
    """Writes a cell from bands of rows, so that a map larger than memory is never whole.

    Args:
        size: height and width of the image.
        stored: height and width of the map.
    """

    def __init__(self, size: Size, stored: Size) -> None:
        self.size, self.stored = size, stored
        self._packer = zlib.compressobj(LEVEL)
        self._parts = [HEADER.pack(PROBABILITY, *size, *stored)]
        self._above = np.zeros((1, stored[1]), np.uint8)
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        """The next rows from the top, uint8 (k, w)."""
        if rows.shape[1] != self.stored[1] or rows.dtype != np.uint8:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, the map is uint8 {self.stored}")
        if not len(rows):
            return
        differences = rows - np.concatenate([self._above, rows[:-1]])
        self._above, self._rows = rows[-1:].copy(), self._rows + len(rows)
        self._parts.append(self._packer.compress(differences.tobytes()))

    def finish(self) -> bytes:
        """The cell."""
        if self._rows != self.stored[0]:
            raise ValueError(f"{self._rows} rows were written of a map of {self.stored[0]}")
        return b"".join([*self._parts, self._packer.flush()])


def encode(probability: np.ndarray, size: Size) -> bytes:
    """A cell of probabilities uint8 (h, w) of an image of `size`."""
    writer = MapWriter(size, (probability.shape[0], probability.shape[1]))
    writer.add(probability)
    return writer.finish()


def encode_mask(mask: np.ndarray) -> bytes:
    """A cell of a mask, bool (H, W)."""
    return HEADER.pack(MASK, *mask.shape, *mask.shape) + zlib.compress(np.packbits(mask, axis=1).tobytes(), LEVEL)


def size_of(cell: bytes) -> Size:
    """Height and width of the image."""
    _, height, width, _, _ = HEADER.unpack_from(cell)
    return height, width


def probability(cell: bytes) -> np.ndarray:
    """Probabilities as they are stored, uint8 (h, w); of a mask 0 and 255."""
    kind, _, _, height, width = HEADER.unpack_from(cell)
    raw = np.frombuffer(zlib.decompress(memoryview(cell)[HEADER.size :]), np.uint8).reshape(height, -1)
    if kind == MASK:
        return np.unpackbits(raw, axis=1, count=width) * np.uint8(255)
    return np.cumsum(raw, axis=0, dtype=np.uint8)


def at_image_size(cell: bytes) -> np.ndarray:
    """Probabilities uint8 (H, W), bilinear where they are stored smaller."""
    return _resized(probability(cell), size_of(cell))


def average(cells: Sequence[bytes]) -> bytes:
    """The mean of cells of one image, at the size of the largest of them."""
    if len(cells) == 1:
        return cells[0]
    maps = [probability(cell) for cell in cells]
    stored = max(each.shape for each in maps)
    total = np.zeros(stored, np.uint16 if len(maps) < 256 else np.uint32)
    for each in maps:
        total += _resized(each, (stored[0], stored[1]))
    return encode(((total + len(maps) // 2) // len(maps)).astype(np.uint8), size_of(cells[0]))


def _resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    if pixels.shape == size:
        return pixels
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
