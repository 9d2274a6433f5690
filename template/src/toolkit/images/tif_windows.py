"""A part of a tif, or all of it shrunk, by tifffile, for images that are larger than memory: only tiles or strips are
decoded."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from toolkit.archives import missing, shown
from toolkit.errors import UserError
from toolkit.images.formats import require, tif_orientation
from toolkit.images.header import header_of
from toolkit.images.pixels import Size, stored_box, turned, turned_size

JPEG = {6, 7, 34892, 33007}  # compressions whose segments share tables that stand elsewhere in the file
PLAIN = {1, 2}  # photometric interpretations that need no conversion: grey whose 0 is black, RGB
LARGE = 2048 * 2048  # pixels; a tif of more is read by parts
GIANT = 1 << 26  # pixels; a tif of more is never decoded whole
ROWS = 512  # of a large tif that are shrunk together
Window = tuple[int, int, int, int]  # top, left, height, width


class TifWindows:
    """The first image of a tif, turned as its orientation says; its channels are samples or pages.

    Attributes:
        size: height and width.

    Raises:
        UserError: it is missing, damaged or a stack of images, or tifffile is not installed.
    """

    def __init__(self, path: Path) -> None:
        tifffile = require("tifffile", "a tif that is read by window")
        self.path = path
        if not path.is_file():
            raise missing(path)
        try:
            self.file = tifffile.TiffFile(path)
            series = self.file.series[0]
            self.pages, shape, axes = list(series.pages), series.shape, series.axes
        except Exception as error:  # tifffile raises whatever a broken file makes of it
            raise self._unreadable(error) from error
        if min(axes.find("Y"), axes.find("X")) < 0 or len(shape) > 3 or any(page is None for page in self.pages):
            raise UserError(f"{shown(path)} is a tif of shape {shape} ({axes}); write a reader of your own")
        self.stored: Size = (shape[axes.find("Y")], shape[axes.find("X")])
        self.orientation = tif_orientation(self.pages[0])
        self.size = turned_size(self.stored, self.orientation)
        self.channels = math.prod(shape) // math.prod(self.size)
        self.bytes_per_pixel = self.channels * series.dtype.itemsize

    def __enter__(self) -> "TifWindows":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, window: Window) -> np.ndarray:
        """(height, width, C) of the file's dtype; the window lies within the image.

        Raises:
            UserError: what it is compressed by cannot be decoded here, or the file is damaged.
        """
        return turned(self._stored(stored_box(window, self.size, self.orientation)), self.orientation)

    def _stored(self, window: Window) -> np.ndarray:
        """What `read` gives of a window of the image as it is stored, before it is turned."""
        try:
            parts = [self._page(page, window) for page in self.pages]
        except Exception as error:
            raise self._unreadable(error) from error
        return parts[0] if len(parts) == 1 else np.dstack(parts)

    def largest_segment(self) -> int:
        """Bytes of what has to be decoded at once: a tile, or a strip."""
        page = self.pages[0].keyframe
        return 0 if page.is_memmappable else math.prod(page.chunks) * page.dtype.itemsize

    def can_shrink(self) -> bool:
        """Whether it is one page, of colours or greys that can be averaged as they stand."""
        page = self.pages[0].keyframe
        plain = page.photometric in PLAIN or page.compression in JPEG
        return plain and len(self.pages) == 1 and self.channels <= 4 and page.dtype in (np.uint8, np.uint16, np.float32)

    def shrunk(self, factor: int) -> np.ndarray:
        """All of it, each pixel the mean of `factor` x `factor`, (height, width, C) of the file's dtype, rounded up;
        only some rows of the file are in memory at a time.

        Raises:
            UserError: as `read`.
        """
        parts = []
        for top in range(0, self.stored[0], max(1, ROWS // factor) * factor):
            rows = self._stored((top, 0, min(max(1, ROWS // factor) * factor, self.stored[0] - top), self.stored[1]))
            below, right = -rows.shape[0] % factor, -rows.shape[1] % factor
            rows = cv2.copyMakeBorder(rows, 0, below, 0, right, cv2.BORDER_REPLICATE)
            size = (rows.shape[1] // factor, rows.shape[0] // factor)
            parts.append(cv2.resize(rows, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], self.channels))
        return turned(np.concatenate(parts), self.orientation)

    def _page(self, page: Any, window: Window) -> np.ndarray:
        top, left, height, width = window
        frame = page.keyframe
        samples = frame.samplesperpixel
        if frame.is_memmappable:
            shape = (frame.imagelength, frame.imagewidth, samples)
            planar = samples > 1 and int(frame.planarconfig) == 2
            mapped = np.memmap(
                self.path,
                dtype=frame.parent.byteorder + frame.dtype.char,
                mode="r",
                offset=page.dataoffsets[0],
                shape=(samples, *shape[:2]) if planar else shape,
            )
            pixels = np.moveaxis(mapped, 0, 2) if planar else mapped
            part = pixels[top : top + height, left : left + width]
            return np.array(part, dtype=frame.dtype.newbyteorder("="))
        found = np.zeros((height, width, samples), frame.dtype)
        for segment, first, row, column in self._segments(page, window):
            above, before = max(row, top), max(column, left)
            below, behind = min(row + segment.shape[0], top + height), min(column + segment.shape[1], left + width)
            if below > above and behind > before:
                part = segment[above - row : below - row, before - column : behind - column]
                found[above - top : below - top, before - left : behind - left, first : first + part.shape[2]] = part
        return found

    def _segments(self, page: Any, window: Window) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """The decoded tiles or strips that the window touches: pixels, first channel, row and column."""
        top, left, height, width = window
        frame = page.keyframe
        tall, wide = (frame.tilelength, frame.tilewidth) if frame.is_tiled else (frame.rowsperstrip, frame.imagewidth)
        tall = min(tall, frame.imagelength) if not frame.is_tiled else tall
        down, across = -(-frame.imagelength // tall), -(-frame.imagewidth // wide)
        planes = len(page.dataoffsets) // (down * across)
        chosen = [
            (plane * down + i) * across + j
            for plane in range(planes)
            for i in range(top // tall, -(-(top + height) // tall))
            for j in range(left // wide, -(-(left + width) // wide))
        ]
        more: dict[str, Any] = {}
        if frame.compression in JPEG:
            more = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
        offsets, counts = [page.dataoffsets[k] for k in chosen], [page.databytecounts[k] for k in chosen]
        for data, index in self.file.filehandle.read_segments(offsets, counts, indices=chosen):
            pixels, (plane, _, row, column, _), _ = frame.decode(data, index, **more)
            if pixels is not None:  # a segment that was left out is empty
                yield pixels[0], plane, row, column

    def _unreadable(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())
        remedy = (
            "download it again, or add what the reason says is missing to the group `competition` in pyproject.toml"
        )
        return UserError(f"cannot read {shown(self.path)} as tif ({text}); {remedy}")


def shrunk_tif(path: Path, size: tuple[float, float]) -> np.ndarray | None:
    """A large tif at no less than this height and width, (h, w, C); none where it is to be decoded whole.

    Raises:
        UserError: it cannot be read by parts, and is too large to be decoded whole.
    """
    header = header_of(path)
    pixels = math.prod(header.stored) if header else 0
    if pixels <= LARGE:
        return None
    try:
        with TifWindows(path) as tif:
            factor = int(min(tif.size[0] // size[0], tif.size[1] // size[1]))
            return tif.shrunk(factor) if factor > 1 and tif.can_shrink() else None
    except UserError:
        if pixels > GIANT:
            raise
        return None
