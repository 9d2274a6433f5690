"""How columns of numbers are divided into folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.labels import ClassLabels
from pipeline.tasks.image_level.kinds.regression.numbers import numbers

MOST_BINS = 32


@dataclass(frozen=True)
class NumberLabels(ClassLabels):
    """Each cell is a number. Several columns are stratified by the combination of their bins.

    Attributes:
        graded: the numbers are grades, whose names `folds/classes.json` lists.
    """

    graded: bool = False

    @property
    def named(self) -> Sequence[str]:
        return self.targets if self.graded else ()

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """Bins that hold equally many rows; equal numbers share one. What is too rare is pooled."""
        bins = min(MOST_BINS, int((len(rows) / n_folds) ** (1 / len(self.targets)) + 1e-9))
        ranks = pd.DataFrame({column: numbers(rows, column) for column in self.targets}).rank(method="min")
        codes, _ = super().strata((ranks - 1) * bins // len(rows), n_folds)
        return codes, []
