"""A row, or a window of it, becomes a sample dict: read image and masks, augment both in one call, name what is there.

Whatever a sample holds under a key of its own goes through collate to the model: arrays and numbers are stacked.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.augment import Augmenting
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import IGNORED
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT, ROW_ID, ROW_IMAGE, ROW_WEIGHT
from pipeline.tasks.segmentation.sources import Place, WindowReader, check_size
from pipeline.tasks.segmentation.truth import Truth
from pipeline.tasks.segmentation.windows import INPUT_WINDOW, SegmentationSettings, Size, Window, crop, windows
from pipeline.types import Index, SampleDataset
from toolkit.errors import UserError
from toolkit.images.pixels import INVERSE, stored_box, turned, turned_back, turned_size
from toolkit.images.readers import Reader, Rows
from toolkit.masks.sizes import Frame


class MaskDataset(SampleDataset):
    """One sample per row in training, a window that is drawn anew each time, and in the other stages one for each
    window of each row.

    A sample is asked for by (epoch, position, turn), or in a notebook by its position alone. Settings of an experiment
    (`dataset: {params: {...}}`) are parameters after a `*`.

    The augmentations must keep the size. What they move in from outside is 0 in image and masks; `fill_mask=255` makes
    it ignored, as it is beyond the image, which is mirrored there, and throughout where a row has no truth for a head.

    Args:
        rows: of the stage, with all columns of `tables.py`.
        root: the data folder.
        reader: makes an array (H, W, C) of a path, uint8 or float32 in [0, 1]; it may be the image cache.
        augmentations: those of the stage.
        size: height and width of what the model sees.
        settings: those of `task` in the experiment.
        heads: of masks.
        stage: `train`, `valid` or `test`; a test sample has no targets.
        seed: of the experiment.
        usual: which way the masks of training rows lie, asked where the image of a row without a truth is turned.

    Raises:
        UserError: an image is missing, cannot be read or has another size than its mask.
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
        self.weights = rows[ROW_WEIGHT].to_numpy(np.float32) if ROW_WEIGHT in rows else np.ones(len(rows), np.float32)
        self.heads = [] if stage == "test" else list(heads)
        cells = Rows(rows, reader)
        self.images = [Place(root / image, cells[row]) for row, image in enumerate(rows[ROW_IMAGE])]
        missing = [head.name for head in self.heads if head.name not in rows]
        if missing:
            raise UserError(
                f"the rows have no column '{missing[0]}'; put the masks into it in src/competition/tables.py"
            )
        self.truths: dict[str, list[Any]] = {  # of each row; none where there is none
            head.name: [truth if hasattr(truth, "read") else None for truth in rows[head.name]] for head in self.heads
        }
        self.reader, self.augmentations = WindowReader(reader, size), Augmenting(augmentations, size)
        self.size, self.settings, self.seed = size, settings, seed
        self.train = stage == "train"
        self.windows: list[tuple[int, Window]] = []
        self.usual: Frame | None = None
        if not self.train:
            unknown = [row for row in range(len(rows)) if self._truth(row) is None]
            if any(self._size_and_turn(row, "stored")[1] != 1 for row in unknown):
                self.usual = usual()
            for row in range(len(rows)):
                image, turn = self._size_and_turn(row, self.usual)
                self.windows += [(row, window) for window in windows(image, size, settings, turn)]

    def __len__(self) -> int:
        return len(self.ids) if self.train else len(self.windows)

    def __getitem__(self, index: Index | int) -> dict[str, Any]:
        index = index if isinstance(index, tuple) else (0, index)
        seeds = np.random.SeedSequence([self.seed, *index])  # the same sample, whichever process asks
        draw = np.random.Generator(np.random.PCG64(seeds))
        row = index[1] if self.train else self.windows[index[1]][0]
        with self._named(row):
            window = self._crop(row, draw) if self.train else self.windows[index[1]][1]
            whole = self.settings.view == "whole"
            place = self.images[row]
            image = self.reader.whole(place, window.size) if whole else self.reader.window(place, window)  # (H, W, C)
            planes = [self._planes(row, head, window) for head in self.heads]  # uint8 (classes, H, W) each
        image, masks = self.augmentations(image, seeds, [mask for each in planes for mask in each], draw)
        targets = {}
        for head, each in zip(self.heads, planes, strict=True):
            targets[head.target_key] = kind_of(head).target(np.stack(masks[: len(each)]))
            masks = masks[len(each) :]
        return {
            INPUT_ID: self.ids[row],
            INPUT_ROW: np.int64(row),
            INPUT_IMAGE: image,  # normalised on the device
            INPUT_WINDOW: window.numbers,
            INPUT_WEIGHT: self.weights[row],
            **targets,
        }

    def starts(self) -> Sequence[int]:
        first = [position for position, (_, window) in enumerate(self.windows) if window.number == 0]
        return range(len(self)) if self.train else first

    def picture(self, row: int) -> np.ndarray:
        """The whole image, at most about as large as it is drawn, as its masks lie."""
        with self._named(row):
            return turned_back(self.reader.whole(self.images[row], None), self._size_and_turn(row, self.usual)[1])

    @contextlib.contextmanager
    def _named(self, row: int) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error

    def _truth(self, row: int) -> Truth | None:
        return next((truths[row] for truths in self.truths.values() if truths[row] is not None), None)

    def _size_and_turn(self, row: int, usual: Frame | None) -> tuple[Size, int]:
        """Height and width of a row's image as it is read, and the turn between its masks and it."""
        truth = self._truth(row)
        if truth is None:
            with self._named(row):
                header = self.reader.header(self.images[row])
            return header.size, header.orientation if usual == "stored" else 1
        known = self.reader.known(self.images[row])
        turn = truth.turn(known) if known and known.orientation != 1 else 1
        return turned_size((int(truth.size[0]), int(truth.size[1])), turn), turn

    def _crop(self, row: int, draw: np.random.Generator) -> Window:
        """A random window of a row, around a pixel of some class as often as is wished."""
        image, turn = self._size_and_turn(row, self.usual)
        if self.settings.view == "whole":
            return windows(image, self.size, self.settings, turn)[0]
        if self.settings.fixed_crops:
            draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, row])))
        truths = [truths[row] for truths in self.truths.values() if truths[row] is not None]
        centre = None
        if truths and draw.random() < self.settings.foreground:
            centre = truths[int(draw.integers(len(truths)))].foreground(draw)
        if centre is not None and turn != 1:
            centre = stored_box((*centre, 1, 1), turned_size(image, turn), INVERSE.get(turn, turn))[:2]
        return crop(image, self.size, self.settings, draw, centre, turn)

    def _planes(self, row: int, head: Head, window: Window) -> np.ndarray:
        """uint8 (C, H, W) at the size the model sees, by their nearest pixels; 255 throughout without a truth."""
        truth = self.truths[head.name][row]
        if truth is None:
            return np.full((len(head.classes), *self.size), IGNORED, np.uint8)
        check_size(window.size, turned_size(truth.size, window.turn))
        box = None if self.settings.view == "whole" else stored_box(window.box, window.size, window.turn)
        planes: np.ndarray = truth.read(box)
        if len(planes) != len(head.classes):
            raise UserError(f"its mask has {len(planes)} planes, and head '{head.name}' {len(head.classes)} classes")
        if window.turn != 1:
            planes = np.moveaxis(turned(np.moveaxis(planes, 0, 2), window.turn), 2, 0)
        if planes.shape[1:] == self.size:
            return planes
        size = self.size[::-1]
        return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST_EXACT) for plane in planes])
