"""Where the pixels of a window come from: a file that is read whole, or a large tif of which only a part is."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.cache import CachedImages, ResizedReader, resized
from pipeline.tasks.segmentation.windows import Size, Window
from toolkit.errors import UserError
from toolkit.images.formats import require
from toolkit.images.header import Header, header_of
from toolkit.images.pixels import scaled, with_channels
from toolkit.images.readers import TIF_SUFFIXES, OwnReader, Reader, Row, image_key, row_reader
from toolkit.images.readers import image as read_image
from toolkit.images.tif_windows import LARGE, TifWindows


@dataclass(frozen=True)
class Place:
    """Where an image is: a path, and the row for a reader that asks for it. Equal where both are."""

    path: Path = field(compare=False)
    row: Row = field(default_factory=dict, compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", image_key(str(self.path), self.row))


class WindowReader:
    """Windows of image files at the size the model sees, uint8 or float32 (H, W, C).

    Of what is read whole, the last image is kept: the tiles of an image come one after the other. A large tif is read
    by window where the experiment's reader is the pipeline's own, with the same params.
    """

    def __init__(self, reader: Reader, size: Size) -> None:
        self.reader, self.size = row_reader(reader), size
        self.resizes = isinstance(reader, CachedImages | ResizedReader)
        self.last: tuple[Place, np.ndarray] | None = None
        self.headers: dict[Place, Header | None] = {}  # to open a tif takes as long as to read a window of it
        self.params = window_params(reader.reader if isinstance(reader, CachedImages | ResizedReader) else reader)

    def header(self, place: Place) -> Header:
        """Size and orientation of an image as the reader gives it: from its header, else by reading it."""
        return self.known(place) or Header(self._whole(place).shape[:2])

    def known(self, place: Place) -> Header | None:
        """`header`, as far as the file says it. Whether a reader of the user's own turns an image is told by the size
        of what it gives, if at all."""
        if place not in self.headers:
            own = self.reader.takes_row or (self.params is None and not place.path.is_file())
            found = self.headers[place] = None if own else header_at(place.path)  # only the reader knows what it is
            if found is not None and found.orientation != 1 and self.params is None and not self.resizes:
                size = self._whole(place).shape[:2]
                self.headers[place] = found if size == found.size else Header(size)
        return self.headers[place]

    def whole(self, place: Place, image: Size | None) -> np.ndarray:
        """All of an image at the size the model sees; `image` is the size it must have, if any."""
        if (header := self.known(place)) is not None:
            check_size(header.size, image)
        elif not self.resizes:
            check_size(self._whole(place).shape[:2], image)
        whole = header is None and not self.resizes
        return resized(self._whole(place) if whole else self.reader(place.path, self.size, place.row), self.size)

    def window(self, place: Place, window: Window) -> np.ndarray:
        """A window at the size the model sees; beyond the image its pixels are mirrored."""
        if self.resizes:
            raise UserError("windows are cut from whole images; set image.cache: false, or task.params.view: whole")
        check_memory(window.height * window.width * 3)
        top, left, height, width = window.inside
        header = self.known(place) if place.path.suffix.lower() in TIF_SUFFIXES else None
        if header is not None and self.params is not None and header.size[0] * header.size[1] > LARGE:
            check_size(header.size, window.size)
            pixels = tif_part(place.path, window.inside, self.params)
        else:
            whole = self._whole(place)
            check_size(whole.shape[:2], window.size)
            pixels = whole[top : top + height, left : left + width]
        above, before = top - window.top, left - window.left
        below, behind = window.height - height - above, window.width - width - before
        if above or before or below or behind:
            pixels = np.pad(pixels, ((above, below), (before, behind), (0, 0)), mode="symmetric")
        return resized(pixels, self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last": None}

    def _whole(self, place: Place) -> np.ndarray:
        if self.last is None or self.last[0] != place:
            if (header := self.known(place)) is not None:
                check_memory(header.size[0] * header.size[1] * 3)
            self.last = (place, self.reader(place.path, None, place.row))
        return self.last[1]


def header_at(path: Path) -> Header | None:
    """The header of an image; none where it does not say a size. Without tifffile, which a tif needs, a slide would be
    decoded for each window."""
    if path.suffix.lower() in TIF_SUFFIXES:
        require("tifffile", "a tif that is read by window")
    return header_of(path)


def window_params(reader: Reader) -> Mapping[str, Any] | None:
    """What the pipeline's own reader was given; none for any other."""
    reader = reader.function if isinstance(reader, OwnReader) else reader
    function: Callable[..., Any] = reader.func if isinstance(reader, functools.partial) else reader
    if function is not read_image:
        return None
    return reader.keywords if isinstance(reader, functools.partial) else {}


def tif_part(path: Path, box: tuple[int, int, int, int], params: Mapping[str, Any]) -> np.ndarray:
    """A part of a tif as the pipeline's reader would make it."""
    with TifWindows(path) as tif:
        check_memory(box[2] * box[3] * tif.bytes_per_pixel + tif.largest_segment())
        pixels = with_channels(tif.read(box), params.get("channels", 3), path, len(tif.pages))
    return scaled(pixels, params.get("low"), params.get("high"), params.get("as_float", False), path)


def check_size(found: Size, wanted: Size | None) -> None:
    """Raise a `UserError` where an image has not the size of its mask."""
    if wanted is not None and tuple(found) != tuple(wanted):
        raise UserError(
            f"the image has {found[0]}x{found[1]} pixels and its mask {wanted[0]}x{wanted[1]} (height x width); "
            "correct the sizes in src/competition/tables.py, or drop the row"
        )


def check_memory(needed: int) -> None:
    """Raise a `UserError` where reading takes more than half of the memory that is free."""
    free = free_memory()
    if free is not None and needed > free / 2:
        raise UserError(
            f"this part of the image takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free; "
            "choose a smaller image.size or a larger task.params.scale, or store the image as a tiled tif"
        )


def free_memory() -> int | None:
    """Bytes that can be had without swapping; none where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
