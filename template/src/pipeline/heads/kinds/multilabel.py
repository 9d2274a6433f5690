"""Several labels for each image, or none. Each is a question of its own, with a logit."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.competition import Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.label_probabilities import LabelProbabilities
from pipeline.heads.label_sets import hard_targets, numbers


class Multilabel(HeadKind):
    """The truth is float32 (B, labels), from 0 to 1."""

    losses: ClassVar[Mapping[str, str]] = {"bce": "pipeline.losses.image_level:BinaryCrossEntropy"}
    column_type = LabelProbabilities
    logits = "sigmoid"

    @property
    def unknown(self) -> float:
        return 0.5

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """Float32 (N, labels), from 0 to 1; NaN where the cell of a label is empty.

        If the rows have the columns of the head's predictions (`labels:cat`, ...), those are the truth of the rows
        where some are filled, which need no other then.
        """
        soft = self.columns.names
        if not set(soft) <= set(rows.columns):
            return hard_targets(rows, self.head)
        given = rows[soft].notna().any(axis=1)
        found = np.empty((len(rows), len(soft)), np.float32)
        found[given.to_numpy()] = numbers(rows[given], soft)
        found[~given.to_numpy()] = hard_targets(rows[~given], self.head)
        return found

    def target_forms(self) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.float32, (self.width,)),)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        given = hard_targets(rows, self.head)
        held = np.where(np.isnan(given), np.nan, given >= 0.5)
        return pd.DataFrame(held, index=rows.index, columns=self.columns.names)

    def decode(self, logits: Tensor) -> np.ndarray:
        probabilities: np.ndarray = torch.sigmoid(logits.double()).float().numpy()
        return probabilities

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The share of rows for which each label holds."""
        shares: np.ndarray = np.nanmean(self.targets(rows), axis=0)
        return shares


HEAD = Multilabel
