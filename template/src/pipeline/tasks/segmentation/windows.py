"""Which part of an image a sample shows: all of it, a random crop, or one of the tiles that cover it."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.config import Experiment
from pipeline.registry import Registry
from toolkit.errors import UserError

INPUT_WINDOW = "input_window"  # in a batch lists of `Window.numbers`, on the host
Size = tuple[int, int]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """How images are looked at, and what of the masks is kept: `task: {params: {view: whole}}`.

    Attributes:
        view: `crops`: training on random windows, validation and prediction on overlapping tiles; `whole`: every image
            is resized to `image.size`.
        scale: images are scaled by this before they are cropped.
        overlap: what neighbouring tiles share, over the size of a tile.
        foreground: share of the training crops that lie around a pixel of some class.
        fixed_crops: a row is always seen through the same window, to be known by heart.
        gate: the column of an earlier stage's predictions that says how likely a class is there at all, with `{class}`
            for its name: `gate:present:{class}`, or one column for all, `gate:filled:yes`; empty: none.
        store: what the files of out-of-fold predictions hold: `probabilities`, decided `masks`, or `none`.
        store_scale: size of stored probabilities over that of the image.
    """

    view: Literal["crops", "whole"] = "crops"
    scale: Annotated[float, Field(gt=0)] = 1.0
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    foreground: Share = 0.5
    fixed_crops: bool = False
    gate: str = ""
    store: Literal["probabilities", "masks", "none"] = "probabilities"
    store_scale: Annotated[float, Field(gt=0, le=1)] = 1.0


def settings_of(experiment: Experiment, names: Registry) -> SegmentationSettings:
    """The experiment's; a `UserError` for crops from a cache of images of one size."""
    settings: SegmentationSettings = names.bind("task", experiment.task)()
    if experiment.image.cache and settings.view == "crops":
        raise UserError(
            "image.cache holds whole images of one size, and crops are cut from images as they are; "
            "set image.cache: false, or task.params.view: whole"
        )
    return settings


@dataclass(frozen=True)
class Window:
    """A part of an image in its pixels; what reaches beyond the image is padded."""

    size: Size  # of the image
    top: int
    left: int
    height: int
    width: int
    number: int = 0  # which window of its image, of how many
    count: int = 1
    turn: int = 1  # the EXIF orientation by which the masks, as the competition has them, become what is seen here

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
    return max(1, round(size[0] / settings.scale)), max(1, round(size[1] / settings.scale))


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin that cover `length`: evenly spread, neighbours share at least `overlap` of a tile. A tile that
    is larger than the image has it in its middle."""
    if length <= tile:
        return [-((tile - length) // 2)]
    count = 1 + math.ceil((length - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def windows(image: Size, size: Size, settings: SegmentationSettings, turn: int = 1) -> list[Window]:
    """All windows of an image, in row-major order."""
    if settings.view == "whole":
        return [Window(image, 0, 0, *image, turn=turn)]
    height, width = tile_size(size, settings)
    rows, columns = starts(image[0], height, settings.overlap), starts(image[1], width, settings.overlap)
    places = [(row, column) for row in rows for column in columns]
    return [Window(image, *place, height, width, k, len(places), turn) for k, place in enumerate(places)]


def crop(
    image: Size,
    size: Size,
    settings: SegmentationSettings,
    draw: np.random.Generator,
    centre: tuple[int, int] | None,
    turn: int = 1,
) -> Window:
    """A random window for training; with `centre` (row, column) that pixel lies anywhere in its middle half."""
    tiles, places = tile_size(size, settings), []
    for axis, tile in enumerate(tiles):
        spare = image[axis] - tile
        if spare <= 0:
            places.append(-(-spare // 2))
        elif centre is None:
            places.append(int(draw.integers(0, spare + 1)))
        else:
            place = centre[axis] - tile // 4 - int(draw.integers(0, max(1, tile - 2 * (tile // 4))))
            places.append(min(max(place, 0), spare))
    return Window(image, places[0], places[1], *tiles, turn=turn)
