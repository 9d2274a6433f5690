"""Windows of images, with their masks, as sample dicts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.augment import Augmenting
from pipeline.heads.mask import IGNORED, kind_of
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT, ROW_ID, ROW_IMAGE, ROW_WEIGHT
from pipeline.tasks.segmentation.settings import SegmentationSettings
from pipeline.tasks.segmentation.sources import WindowReader, check_size, label_window
from pipeline.tasks.segmentation.truth import Truth
from pipeline.tasks.segmentation.windows import INPUT_WINDOW, Size, Window, crop, windows
from pipeline.types import Index, SampleDataset
from toolkit.errors import UserError
from toolkit.images.pixels import INVERSE, stored_box, turned, turned_back, turned_size
from toolkit.images.row_reader import Place, Reader, Rows
from toolkit.masks.sizes import Frame

Sample = dict[str, Any]


class MaskDataset(SampleDataset):
    """One dict per row in training, and in the other stages one per window of each row.

    An item is asked for by (epoch, position, turn). Its keys: `INPUT_ID` str, `INPUT_ROW` int64 (of the table),
    `INPUT_IMAGE` uint8 (or float32 in [0, 1]) of shape (H, W, C), `INPUT_WINDOW` int64 (9,), `INPUT_WEIGHT` float32,
    and but for `test` the target of each head. Beyond its image a window shows it mirrored, and the target is 255; so
    it is throughout where a row has no truth for a head.

    The augmentations see image and masks in one call, and must keep their size. What they move in from outside is 0 in
    image and masks; `fill_mask=255` makes it ignored.

    Args:
        usual: which way the masks of training rows lie, asked where the image of a row without a truth is turned.

    Raises:
        UserError: an image is missing, cannot be read or has another size than its mask; its row and id are named.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        reader: Reader,
        augmentations: A.Compose,
        size: Size,
        settings: SegmentationSettings,
        heads: Sequence[Head],
        stage: str,
        seed: int,
        usual: Callable[[], Frame | None] = lambda: None,
    ) -> None:
        self.ids = rows[ROW_ID].to_numpy(dtype=object)
        cells = Rows(rows, reader)
        self.images = [Place(root / image, cells[row]) for row, image in enumerate(rows[ROW_IMAGE])]
        self.weights = rows[ROW_WEIGHT].to_numpy(np.float32) if ROW_WEIGHT in rows else np.ones(len(rows), np.float32)
        self.heads = [] if stage == "test" else [(head, kind_of(head)) for head in heads]
        self.truths = {head.name: _truths(rows, head) for head, _ in self.heads}
        self.reader = WindowReader(reader, size)
        self.augmentations = Augmenting(augmentations, size)
        self.size, self.settings, self.seed = size, settings, seed
        self.train = stage == "train"
        self.windows: list[tuple[int, Window]] = []
        self.usual: Frame | None = None
        if not self.train:
            if any(self._truth(row) is None and self._orientation(row) != 1 for row in range(len(rows))):
                self.usual = usual()
            for row in range(len(rows)):
                image, turn = self._seen(row)
                self.windows += [(row, replace(window, turn=turn)) for window in windows(image, size, settings)]

    def __len__(self) -> int:
        return len(self.ids) if self.train else len(self.windows)

    def __getitem__(self, index: Index) -> Sample:
        _, position, *_ = index
        seeds = np.random.SeedSequence([self.seed, *index])
        draw = _generator(seeds)
        row, window = (position, None) if self.train else self.windows[position]
        try:
            if window is None:
                window = self._training_window(row, draw)
            image = self._image(row, window)
            planes = [(head, self._planes(row, head, window)) for head, _ in self.heads]
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error
        masks = [plane for _, found in planes for plane in found]
        image, masks = self.augmentations(image, seeds, masks, draw)
        targets, first = {}, 0
        for (head, found), (_, kind) in zip(planes, self.heads, strict=True):
            targets[head.target_key] = kind.target(np.stack(masks[first : first + len(found)]))
            first += len(found)
        return {
            INPUT_ID: self.ids[row],
            INPUT_ROW: np.int64(row),
            INPUT_IMAGE: image,
            INPUT_WINDOW: window.numbers,
            INPUT_WEIGHT: self.weights[row],
            **targets,
        }

    def starts(self) -> Sequence[int]:
        if self.train:
            return range(len(self))
        return [position for position, (_, window) in enumerate(self.windows) if window.number == 0]

    def picture(self, row: int) -> np.ndarray:
        """The whole image, at most about as large as it is drawn, as its masks lie."""
        try:
            pixels = self.reader.whole(self.images[row], None)[0]
            return turned_back(pixels, self._seen(row)[1])
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error

    def _truth(self, row: int) -> Truth | None:
        return next((truths[row] for truths in self.truths.values() if truths[row] is not None), None)

    def _seen(self, row: int) -> tuple[Size, int]:
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

    def _training_window(self, row: int, draw: np.random.Generator) -> Window:
        image, turn = self._seen(row)
        if self.settings.view == "whole":
            return Window(image, 0, 0, *image, turn=turn)
        if self.settings.fixed_crops:
            draw = _generator(np.random.SeedSequence([self.seed, row]))
        truths = [truths[row] for truths in self.truths.values() if truths[row] is not None]
        centre = None
        if truths and draw.random() < self.settings.foreground:
            centre = truths[int(draw.integers(len(truths)))].foreground(draw)
        if centre is not None and turn != 1:
            back = INVERSE.get(turn, turn)
            centre = stored_box((*centre, 1, 1), turned_size(image, turn), back)[:2]
        return replace(crop(image, self.size, self.settings, draw, centre), turn=turn)

    def _image(self, row: int, window: Window) -> np.ndarray:
        if self.settings.view == "crops":
            return self.reader.window(self.images[row], window)
        image, _ = self.reader.whole(self.images[row], window.size)
        return image

    def _planes(self, row: int, head: Head, window: Window) -> np.ndarray:
        """uint8 (C, H, W) at the size the model sees."""
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


def _generator(seeds: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seeds))


def _truths(rows: pd.DataFrame, head: Head) -> list[Any]:
    """The truth of each row; none where there is none."""
    if head.name not in rows:
        raise UserError(f"the rows have no column '{head.name}'; put the masks into it in src/competition/tables.py")
    return [truth if hasattr(truth, "read") else None for truth in rows[head.name]]
