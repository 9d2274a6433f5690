"""Which part of an image a sample shows: all of it, a random crop, or one of the tiles that cover it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.tasks.segmentation.settings import SegmentationSettings
from toolkit.errors import UserError

INPUT_WINDOW = "input_window"  # int64 (B, 9): see `Window.numbers`
Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A part of an image in its pixels; what reaches beyond the image is padded.

    Attributes:
        size: of the image.
        number, count: which window of its image, and how many there are.
        turn: the EXIF orientation by which the image's masks, as the competition has them, become what is seen here.
    """

    size: Size
    top: int
    left: int
    height: int
    width: int
    number: int = 0
    count: int = 1
    turn: int = 1

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.top, self.left, self.height, self.width

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """The part of it that lies in the image: top, left, height, width."""
        top, left = max(self.top, 0), max(self.left, 0)
        below, right = min(self.top + self.height, self.size[0]), min(self.left + self.width, self.size[1])
        return top, left, max(below - top, 0), max(right - left, 0)

    @property
    def numbers(self) -> np.ndarray:
        """int64 (9,): height and width of the image, top, left, height and width of the window, number, count, turn."""
        return np.array([*self.size, *self.box, self.number, self.count, self.turn], np.int64)

    @classmethod
    def of(cls, numbers: Any) -> "Window":
        """The window of `numbers`."""
        height, width, *rest = (int(number) for number in numbers)
        return cls((height, width), *rest)


def tile_size(size: Size, settings: SegmentationSettings) -> Size:
    """Height and width, in pixels of the image, of what the model sees as `size`."""
    if settings.scale <= 0:
        raise UserError(f"task.params.scale must be more than 0 (it is {settings.scale})")
    return max(1, round(size[0] / settings.scale)), max(1, round(size[1] / settings.scale))


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin that cover `length`: evenly spread, neighbours share at least `overlap` of a tile. A tile that
    is larger than the image has it in its middle."""
    if not 0 <= overlap < 1:
        raise UserError(f"task.params.overlap must be in [0, 1) (it is {overlap})")
    if length <= tile:
        return [-((tile - length) // 2)]
    count = 1 + math.ceil((length - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def windows(image: Size, size: Size, settings: SegmentationSettings) -> list[Window]:
    """All windows of an image, in row-major order."""
    if settings.view == "whole":
        return [Window(image, 0, 0, *image)]
    height, width = tile_size(size, settings)
    rows, columns = starts(image[0], height, settings.overlap), starts(image[1], width, settings.overlap)
    places = [(row, column) for row in rows for column in columns]
    return [Window(image, *place, height, width, k, len(places)) for k, place in enumerate(places)]


def crop(
    image: Size, size: Size, settings: SegmentationSettings, draw: np.random.Generator, centre: tuple[int, int] | None
) -> Window:
    """A random window for training; with `centre` (row, column) that pixel lies anywhere in its middle half."""
    height, width = tile_size(size, settings)
    places = []
    for axis, tile in enumerate((height, width)):
        spare = image[axis] - tile
        if spare <= 0:
            places.append(-(-spare // 2))
        elif centre is None:
            places.append(int(draw.integers(0, spare + 1)))
        else:
            place = centre[axis] - tile // 4 - int(draw.integers(0, max(1, tile - 2 * (tile // 4))))
            places.append(min(max(place, 0), spare))
    return Window(image, places[0], places[1], height, width)
