"""A row becomes a sample dict: read its image, augment it, name what is there.

Whatever a sample holds under a key of its own goes through collate to the model: arrays and numbers are stacked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd

from pipeline.data.augment import Augmenting
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT, ROW_ID, ROW_IMAGE, ROW_WEIGHT
from pipeline.types import Index, SampleDataset
from toolkit.errors import UserError
from toolkit.images.readers import Reader, Rows, row_reader


class ImageDataset(SampleDataset):
    """One sample per row, asked for by (epoch, row, turn), or in a notebook by the row alone.

    Settings of an experiment (`dataset: {params: {...}}`) are parameters after a `*`.

    Args:
        rows: of the stage, with all columns of `tables.py`.
        root: the data folder.
        reader: makes an array (H, W, C) of a path, uint8 or float32 in [0, 1]; it may be the image cache.
        augmentations: those of the stage.
        size: height and width that they end with.
        values: key -> array with an entry for each row: targets (none in `test`), side columns.
        seed: of the experiment.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        reader: Reader,
        augmentations: A.Compose,
        size: tuple[int, int],
        values: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        self.ids = rows[ROW_ID].to_numpy(dtype=object)
        self.images = rows[ROW_IMAGE].to_numpy(dtype=object)  # paths below `root`
        self.weights = rows[ROW_WEIGHT].to_numpy(np.float32) if ROW_WEIGHT in rows else np.ones(len(rows), np.float32)
        self.root, self.size, self.values, self.seed = root, size, values, seed
        self.reader, self.rows = row_reader(reader), Rows(rows, reader)
        self.augmentations = Augmenting(augmentations, size)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Index | int) -> dict[str, Any]:
        index = index if isinstance(index, tuple) else (0, index)
        row = index[1]
        seeds = np.random.SeedSequence([self.seed, *index])  # the same sample, whichever process asks
        image, _ = self.augmentations(self.read(row, self.images[row]), seeds)
        return {
            INPUT_ID: self.ids[row],
            INPUT_ROW: np.int64(row),
            INPUT_IMAGE: image,  # (H, W, C); normalised on the device
            INPUT_WEIGHT: self.weights[row],
            **{key: values[row] for key, values in self.values.items()},
        }

    def read(self, row: int, path: str) -> np.ndarray:
        """An image of a row, (H, W, C); a `UserError` names the row where it is missing or cannot be read."""
        try:
            return self.reader(self.root / path, self.size, self.rows[row])
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error

    def picture(self, row: int) -> np.ndarray:
        """What figures show of a row."""
        image: np.ndarray = self[0, row][INPUT_IMAGE]
        return image
