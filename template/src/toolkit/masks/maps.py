"""Map cells: the probabilities of one class of one image as bytes that describe themselves, and go into parquet so.

A cell is a header (kind, height and width of the image, height and width as stored) and compressed pixels. A
probability p is stored as round(255 p); every row as its difference to the row above, which halves what is left of
smooth maps. A mask is stored as bits.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from toolkit.images import pixels

HEADER = struct.Struct("<B4I")
PROBABILITY, MASK = 1, 2
LEVEL = 1
STRIP = 1 << 22  # pixels of a map, or of what is made of it, that are looked at together
PIECE = 1 << 16  # bytes that are decompressed at once
Size = tuple[int, int]


class MapWriter:
    """Writes a cell from bands of rows, so that a map larger than memory is never whole; given height and width of the
    image, and of the map as it is stored."""

    def __init__(self, size: Size, stored: Size) -> None:
        self.stored, self._rows = stored, 0
        self._packer = zlib.compressobj(LEVEL)
        self._parts = [HEADER.pack(PROBABILITY, *size, *stored)]
        self._above = np.zeros((1, stored[1]), np.uint8)

    def add(self, rows: np.ndarray) -> None:
        """The next rows from the top, uint8 (k, w)."""
        if rows.shape[1] != self.stored[1] or rows.dtype != np.uint8:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, the map is uint8 {self.stored}")
        if len(rows):
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
    return HEADER.unpack_from(cell)[1:3]


def stored_size(cell: bytes) -> Size:
    """Height and width of the map."""
    return HEADER.unpack_from(cell)[3:5]


def strips(size: Size) -> Iterator[slice]:
    """The rows of a map or mask, a few million pixels at a time."""
    rows = max(1, STRIP // max(size[1], 1))
    return (slice(top, min(top + rows, size[0])) for top in range(0, size[0], rows))


def bands(cell: bytes, size: Size | None = None) -> Iterator[np.ndarray]:
    """Probabilities uint8 (k, w) of the rows of `strips`, one after the other; of a mask 0 and 255. At another size
    than they are stored, bilinear, the map is whole in memory meanwhile."""
    stored = stored_size(cell)
    if size is not None and size != stored:
        whole = _resized(probability(cell), size)
        yield from (whole[rows] for rows in strips(size))
        return
    is_mask = cell[0] == MASK
    width = -(-stored[1] // 8) if is_mask else stored[1]
    above = np.zeros(width, np.uint8)
    for data in _unpacked(memoryview(cell)[HEADER.size :], [(r.stop - r.start) * width for r in strips(stored)]):
        raw = np.frombuffer(data, np.uint8).reshape(-1, width)
        if is_mask:
            yield np.unpackbits(raw, axis=1, count=stored[1]) * np.uint8(255)
            continue
        band = np.cumsum(raw, axis=0, dtype=np.uint8)
        band += above
        above = band[-1].copy()
        yield band


def probability(cell: bytes) -> np.ndarray:
    """Probabilities as they are stored, uint8 (h, w); of a mask 0 and 255."""
    whole = np.empty(stored_size(cell), np.uint8)
    for rows, band in zip(strips(whole.shape), bands(cell), strict=True):
        whole[rows] = band
    return whole


def at_image_size(cell: bytes) -> np.ndarray:
    """Probabilities uint8 (H, W), bilinear where they are stored smaller."""
    return _resized(probability(cell), size_of(cell))


def turned_back(cell: bytes, turn: int) -> bytes:
    """The cell of an image as it was before this EXIF orientation turned it."""
    if turn == 1:
        return cell
    return encode(pixels.turned_back(probability(cell), turn), pixels.turned_size(size_of(cell), turn))


def average(cells: Sequence[bytes]) -> bytes:
    """The mean of cells of one image, at the size of the largest of them."""
    if len(cells) == 1:
        return cells[0]
    size = max(stored_size(cell) for cell in cells)
    writer = MapWriter(size_of(cells[0]), size)
    for parts in zip(*(bands(cell, size) for cell in cells), strict=True):
        total = np.stack(parts).sum(axis=0, dtype=np.uint32)
        writer.add(((total + len(parts) // 2) // len(parts)).astype(np.uint8))
    return writer.finish()


def _unpacked(data: memoryview, sizes: Sequence[int]) -> Iterator[bytearray]:
    """What was compressed, in parts of these numbers of bytes."""
    unpacker, rest, position = zlib.decompressobj(), b"", 0
    for size in sizes:
        part = bytearray()
        while len(part) < size:
            if not rest:
                rest, position = bytes(data[position : position + PIECE]), position + PIECE
            more = unpacker.decompress(rest, size - len(part))
            if not more and not rest:
                raise ValueError("a map cell ends before its last row")
            part += more
            rest = unpacker.unconsumed_tail
        yield part


def _resized(values: np.ndarray, size: Size) -> np.ndarray:
    return values if values.shape == size else cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
