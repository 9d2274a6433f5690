"""A part of a tif, or all of it shrunk, by tifffile, for images that are larger than memory: only tiles or strips are
decoded."""

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from toolkit.errors import UserError
from toolkit.files import missing, shown
from toolkit.images.formats import REMEDY, require, tif_orientation, unreadable
from toolkit.images.header import header_of
from toolkit.images.pixels import Size, stored_box, turned, turned_size

JPEG = {6, 7, 34892, 33007}  # compressions whose segments share tables that stand elsewhere in the file
PLAIN = {1, 2}  # photometric interpretations that need no conversion: grey whose 0 is black, RGB
LARGE = 2048 * 2048  # pixels; a tif of more is read by parts
GIANT = 1 << 26  # pixels; a tif of more is never decoded whole
ROWS = 512  # of a large tif that are shrunk together
Window = tuple[int, int, int, int]  # top, left, height, width


class TifWindows:
    """The first image of a tif, of height and width `size` as its orientation turns it; channels are samples or pages.

    Raises:
        UserError: it is missing, damaged or a stack of images, or tifffile is not installed.
    """

    def __init__(self, path: Path) -> None:
        tifffile = require("tifffile", "a tif that is read by window")
        self.path = path
        if not path.is_file():
            raise missing(path)
        with ExitStack() as files:
            try:
                self.file = files.enter_context(tifffile.TiffFile(path))
                series = self.file.series[0]
                self.pages, shape, axes = list(series.pages), series.shape, series.axes
            except Exception as error:  # tifffile raises whatever a broken file makes of it
                raise self._unreadable(error) from error
            if min(axes.find("Y"), axes.find("X")) < 0 or len(shape) > 3 or any(page is None for page in self.pages):
                raise UserError(f"{shown(path)} is a tif of shape {shape} ({axes}); write a reader of your own")
            files.pop_all()  # it is sound, and stays open
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
        """(height, width, C) of the file's dtype; the window lies within the image."""
        return turned(self._stored(stored_box(window, self.size, self.orientation)), self.orientation)

    def largest_segment(self) -> int:
        """Bytes of what has to be decoded at once: a tile, or a strip."""
        page = self.pages[0].keyframe
        return 0 if page.is_memmappable else math.prod(page.chunks) * page.dtype.itemsize

    def shrunk(self, size: tuple[float, float]) -> np.ndarray | None:
        """All of it at no less than this height and width, each pixel the mean of a square, (H, W, C) of the file's
        dtype; none where nothing is to be shrunk, or it cannot be averaged as it stands. Only some rows of the file are
        in memory at a time.
        """
        page, factor = self.pages[0].keyframe, int(min(self.size[0] // size[0], self.size[1] // size[1]))
        plain = (page.photometric in PLAIN or page.compression in JPEG) and len(self.pages) == 1 and self.channels <= 4
        if factor < 2 or not plain or page.dtype not in (np.uint8, np.uint16, np.float32):
            return None
        parts, step = [], max(1, ROWS // factor) * factor
        for top in range(0, self.stored[0], step):
            rows = self._stored((top, 0, min(step, self.stored[0] - top), self.stored[1]))
            below, right = -rows.shape[0] % factor, -rows.shape[1] % factor
            rows = cv2.copyMakeBorder(rows, 0, below, 0, right, cv2.BORDER_REPLICATE)
            width, height = rows.shape[1] // factor, rows.shape[0] // factor
            small = cv2.resize(rows, (width, height), interpolation=cv2.INTER_AREA)
            parts.append(small.reshape(height, width, self.channels))
        return turned(np.concatenate(parts), self.orientation)

    def _stored(self, window: Window) -> np.ndarray:
        """What `read` gives of a window of the image as it is stored, before it is turned."""
        try:
            parts = [self._page(page, window) for page in self.pages]
        except Exception as error:
            raise self._unreadable(error) from error
        return parts[0] if len(parts) == 1 else np.dstack(parts)

    def _page(self, page: Any, window: Window) -> np.ndarray:
        top, left, height, width = window
        frame, file = page.keyframe, self.file.filehandle
        planes, tall, wide, samples = frame.shaped[0], frame.imagelength, frame.imagewidth, frame.shaped[4]
        if frame.is_memmappable:
            dtype, shape = frame.parent.byteorder + frame.dtype.char, (planes, tall, wide, samples)
            mapped = file.memmap_array(dtype, shape, page.dataoffsets[0])
            part = mapped[:, top : top + height, left : left + width]
            part = np.moveaxis(part, 0, 2).reshape(height, width, planes * samples)
            return np.array(part, dtype=frame.dtype.newbyteorder("="))
        found = np.zeros((height, width, planes * samples), frame.dtype)
        high, across = (frame.tilelength, frame.tilewidth) if frame.is_tiled else (min(frame.rowsperstrip, tall), wide)
        down, right = -(-tall // high), -(-wide // across)
        numbers = [
            (plane * down + i) * right + j
            for plane in range(planes)
            for i in range(top // high, -(-(top + height) // high))
            for j in range(left // across, -(-(left + width) // across))
        ]
        tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if frame.compression in JPEG else {}
        offsets, counts = [page.dataoffsets[k] for k in numbers], [page.databytecounts[k] for k in numbers]
        for data, index in file.read_segments(offsets, counts, indices=numbers):
            segment, (first, _, row, column, _), _ = frame.decode(data, index, **tables)
            if segment is not None:  # one that was left out is empty
                row, column = row - top, column - left
                above, before = max(-row, 0), max(-column, 0)
                part = segment[0][above : height - row, before : width - column]
                place = found[row + above :, column + before :, first : first + part.shape[2]]
                place[: part.shape[0], : part.shape[1]] = part
        return found

    def _unreadable(self, error: Exception) -> UserError:
        with self.path.open("rb") as file:
            return unreadable(file.read(40), self.path, "tif", f"{error}; {REMEDY}")


def shrunk_tif(path: Path, size: tuple[float, float]) -> np.ndarray | None:
    """A large tif at no less than this height and width, (H, W, C); none where it is to be decoded whole.

    Raises:
        UserError: it cannot be read by parts, and is too large to be decoded whole.
    """
    header = header_of(path)
    pixels = math.prod(header.stored) if header else 0
    if pixels <= LARGE:
        return None
    try:
        with TifWindows(path) as tif:
            return tif.shrunk(size)
    except UserError:
        if pixels > GIANT:
            raise
        return None
