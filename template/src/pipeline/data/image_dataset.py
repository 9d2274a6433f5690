"""Rows as sample dicts, samples as batch dicts."""

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
from toolkit.images.row_reader import Reader, Rows, row_reader

Sample = dict[str, Any]


class ImageDataset(SampleDataset):
    """One dict per row.

    An item is asked for by (epoch, row, turn). Its keys: `INPUT_ID` str, `INPUT_ROW` int64, `INPUT_IMAGE` uint8 (or
    float32 in [0, 1]) of shape (H, W, C), `INPUT_WEIGHT` float32, and each of `values` by its key: targets,
    `INPUT_SIDE`.

    Raises:
        UserError: an image is missing or cannot be read; its row and path are named.
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
        self.images = rows[ROW_IMAGE].to_numpy(dtype=object)
        self.weights = rows[ROW_WEIGHT].to_numpy(np.float32) if ROW_WEIGHT in rows else np.ones(len(rows), np.float32)
        self.root = root
        self.reader, self.rows = row_reader(reader), Rows(rows, reader)
        self.augmentations = Augmenting(augmentations, size)
        self.size = size
        self.values = values
        self.seed = seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Index) -> Sample:
        _, row, *_ = index
        return {
            INPUT_ID: self.ids[row],
            INPUT_ROW: np.int64(row),
            INPUT_IMAGE: self._image(row, np.random.SeedSequence([self.seed, *index])),
            INPUT_WEIGHT: self.weights[row],
            **{key: values[row] for key, values in self.values.items()},
        }

    def picture(self, row: int) -> np.ndarray:
        image: np.ndarray = self[0, row][INPUT_IMAGE]
        return image

    def _image(self, row: int, seeds: np.random.SeedSequence) -> np.ndarray:
        try:
            image = self.reader(self.root / self.images[row], self.size, self.rows[row])
        except UserError as error:
            raise UserError(f"row {row} (id {self.ids[row]}): {error}") from error
        return self.augmentations(image, seeds)[0]
