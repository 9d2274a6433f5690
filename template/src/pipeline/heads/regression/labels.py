"""How columns of numbers are divided into folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.labels import ClassLabels
from pipeline.heads.regression.numbers import numbers

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
        # Combinations are not equally frequent: with fewer rows each on average, most of them would be pooled.
        rows_each = n_folds if len(self.targets) == 1 else 2 * n_folds
        bins = int(np.clip((len(rows) / rows_each) ** (1 / len(self.targets)), 2, MOST_BINS))
        ranks = pd.DataFrame({column: numbers(rows, column) for column in self.targets}).rank(method="min")
        codes, _ = self.numbered((ranks - 1) * bins // len(rows), n_folds, pool=True)
        return codes, []
