"""A row, or a window of it, becomes a sample dict: read image and masks, augment both in one call, name what is there.

Whatever a sample holds under a key of its own goes through collate to the model: arrays and numbers are stacked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.augment import Augmenting
from pipeline.heads.mask import kind_of
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT, ROW_ID, ROW_WEIGHT
from pipeline.tasks.segmentation.row_windows import RowWindows
from pipeline.tasks.segmentation.settings import SegmentationSettings
from pipeline.tasks.segmentation.windows import INPUT_WINDOW
from pipeline.types import Index, SampleDataset
from toolkit.errors import UserError
from toolkit.images.row_reader import Reader
from toolkit.masks.sizes import Frame


class MaskDataset(SampleDataset):
    """One sample per row in training, and in the other stages one per window of each row.

    A sample is asked for by (epoch, position, turn), or in a notebook by its position alone. Settings of an experiment
    (`dataset: {params: {...}}`) are parameters after a `*`.

    The augmentations must keep the size. What they move in from outside is 0 in image and masks; `fill_mask=255` makes
    it ignored, as it is beyond the image and throughout where a row has no truth for a head.

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
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        reader: Reader,
        augmentations: A.Compose,
        size: tuple[int, int],
        settings: SegmentationSettings,
        heads: Sequence[Head],
        stage: str,
        seed: int,
        usual: Callable[[], Frame | None] = lambda: None,
    ) -> None:
        self.ids = rows[ROW_ID].to_numpy(dtype=object)
        self.weights = rows[ROW_WEIGHT].to_numpy(np.float32) if ROW_WEIGHT in rows else np.ones(len(rows), np.float32)
        self.heads = [] if stage == "test" else list(heads)
        self.windows = RowWindows(rows, root, reader, size, settings, self.heads, stage, seed, usual)
        self.augmentations, self.seed = Augmenting(augmentations, size), seed

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Index | int) -> dict[str, Any]:
        index = index if isinstance(index, tuple) else (0, index)
        seeds = np.random.SeedSequence([self.seed, *index])  # the same sample, whichever process asks
        draw = np.random.Generator(np.random.PCG64(seeds))
        row = self.windows.row(index[1])
        try:
            window = self.windows.window(index[1], draw)
            image = self.windows.image(row, window)  # (H, W, C)
            planes = [self.windows.planes(row, head, window) for head in self.heads]  # uint8 (classes, H, W) each
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error
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
        return self.windows.starts()

    def picture(self, row: int) -> np.ndarray:
        """The whole image, at most about as large as it is drawn, as its masks lie."""
        return self.windows.whole(row)
