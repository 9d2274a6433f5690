"""The windows of rows: where they lie in an image, and what image and masks hold there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask import IGNORED
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.tasks.segmentation.settings import SegmentationSettings
from pipeline.tasks.segmentation.sources import WindowReader, check_size, label_window
from pipeline.tasks.segmentation.truth import Truth
from pipeline.tasks.segmentation.windows import Size, Window, crop, windows
from toolkit.errors import UserError
from toolkit.images.pixels import INVERSE, stored_box, turned, turned_back, turned_size
from toolkit.images.row_reader import Place, Reader, Rows
from toolkit.masks.sizes import Frame


class RowWindows:
    """One window per row in training, drawn anew each time, and in the other stages all windows of each row.

    Beyond its image a window shows it mirrored, and the planes are 255.

    Args:
        size: height and width of a window as the model sees it.
        usual: which way the masks of training rows lie, asked where the image of a row without a truth is turned.

    Raises:
        UserError: an image is missing, cannot be read or has another size than its mask.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        reader: Reader,
        size: Size,
        settings: SegmentationSettings,
        heads: Sequence[Head],
        stage: str,
        seed: int,
        usual: Callable[[], Frame | None],
    ) -> None:
        self.ids = rows[ROW_ID].to_numpy(dtype=object)
        cells = Rows(rows, reader)
        self.images = [Place(root / image, cells[row]) for row, image in enumerate(rows[ROW_IMAGE])]
        self.truths = {head.name: _truths(rows, head) for head in heads}
        self.reader = WindowReader(reader, size)
        self.size, self.settings, self.seed = size, settings, seed
        self.train = stage == "train"
        self.windows: list[tuple[int, Window]] = []
        self.usual: Frame | None = None
        if not self.train:
            if any(self._truth(row) is None and self._orientation(row) != 1 for row in range(len(rows))):
                self.usual = usual()
            for row in range(len(rows)):
                image, turn = self._size_and_turn(row)
                self.windows += [(row, replace(window, turn=turn)) for window in windows(image, size, settings)]

    def __len__(self) -> int:
        return len(self.ids) if self.train else len(self.windows)

    def starts(self) -> Sequence[int]:
        """The positions of the first windows of the rows."""
        first = [position for position, (_, window) in enumerate(self.windows) if window.number == 0]
        return range(len(self)) if self.train else first

    def row(self, position: int) -> int:
        """The row of the window at a position."""
        return position if self.train else self.windows[position][0]

    def window(self, position: int, draw: np.random.Generator) -> Window:
        """The window at a position; in training a random one, around a pixel of some class as often as is wished."""
        if not self.train:
            return self.windows[position][1]
        image, turn = self._size_and_turn(position)
        if self.settings.view == "whole":
            return Window(image, 0, 0, *image, turn=turn)
        if self.settings.fixed_crops:
            draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, position])))
        truths = [truths[position] for truths in self.truths.values() if truths[position] is not None]
        centre = None
        if truths and draw.random() < self.settings.foreground:
            centre = truths[int(draw.integers(len(truths)))].foreground(draw)
        if centre is not None and turn != 1:
            back = INVERSE.get(turn, turn)
            centre = stored_box((*centre, 1, 1), turned_size(image, turn), back)[:2]
        return replace(crop(image, self.size, self.settings, draw, centre), turn=turn)

    def image(self, row: int, window: Window) -> np.ndarray:
        """uint8 or float32 (H, W, C) at the size the model sees."""
        if self.settings.view == "crops":
            return self.reader.window(self.images[row], window)
        image, _ = self.reader.whole(self.images[row], window.size)
        return image

    def planes(self, row: int, head: Head, window: Window) -> np.ndarray:
        """uint8 (C, H, W) at the size the model sees, 255 throughout where the row has no truth for the head."""
        truth = self.truths[head.name][row]
        if truth is None:
            return np.full((len(head.classes), *self.size), IGNORED, np.uint8)
        check_size(window.size, turned_size(truth.size, window.turn))
        box = None if self.settings.view == "whole" else stored_box(window.box, window.size, window.turn)
        planes: np.ndarray = truth.read(box)
        if window.turn != 1:
            planes = np.moveaxis(turned(np.moveaxis(planes, 0, 2), window.turn), 2, 0)
        if len(planes) != len(head.classes):
            raise UserError(f"its mask has {len(planes)} planes, and head '{head.name}' {len(head.classes)} classes")
        return label_window(planes, self.size)

    def whole(self, row: int) -> np.ndarray:
        """The whole image at the size the model sees, as its masks lie."""
        try:
            pixels = self.reader.whole(self.images[row], None)[0]
            return turned_back(pixels, self._size_and_turn(row)[1])
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error

    def _truth(self, row: int) -> Truth | None:
        return next((truths[row] for truths in self.truths.values() if truths[row] is not None), None)

    def _size_and_turn(self, row: int) -> tuple[Size, int]:
        """Height and width of a row's image as it is read, and the turn between its masks and it."""
        truth = self._truth(row)
        if truth is None:
            turn = self._orientation(row) if self.usual == "stored" else 1
            return self.reader.header(self.images[row]).size, turn
        known = self.reader.known(self.images[row])
        height, width = truth.size
        turn = truth.turn(known) if known and known.orientation != 1 else 1
        return turned_size((int(height), int(width)), turn), turn

    def _orientation(self, row: int) -> int:
        try:
            return self.reader.header(self.images[row]).orientation
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error


def _truths(rows: pd.DataFrame, head: Head) -> list[Any]:
    """The truth of each row; none where there is none."""
    if head.name not in rows:
        raise UserError(f"the rows have no column '{head.name}'; put the masks into it in src/competition/tables.py")
    return [truth if hasattr(truth, "read") else None for truth in rows[head.name]]
