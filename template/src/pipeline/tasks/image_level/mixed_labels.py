"""Target columns of several kinds at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels, Labels
from pipeline.heads.label_sets import LabelSets


@dataclass(frozen=True, init=False)
class MixedLabels(ClassLabels):
    """Each part reads its own columns. An empty cell is no fault: it is no answer."""

    parts: Sequence[Labels]

    def __init__(self, parts: Sequence[Labels]) -> None:
        super().__init__([column for part in parts for column in part.targets])
        object.__setattr__(self, "parts", parts)

    @property
    def named(self) -> Sequence[str]:
        return [column for part in self.parts for column in part.named]

    @property
    def trains_each(self) -> bool:
        return all(part.trains_each for part in self.parts)

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        [part] = [part for part in self.parts if column in part.targets]
        return part.cells(rows, column).dropna()

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """int64 (N, strata): 1 for what holds of a row, as its parts have it; rows without an answer are a stratum."""
        columns, notes = [], []
        for part in self.parts:
            known = rows[list(part.targets)].notna().all(axis=1).to_numpy()
            found, noted = part.strata(rows[known], n_folds) if known.any() else (None, [])
            notes += noted
            if found is not None and found.ndim == 1:  # a stratum for each rare class would take too long
                counts = np.bincount(found)
                rare = counts[found] < n_folds
                found = None if rare.all() else np.where(rare, len(counts), found)
            if found is not None:
                each = pd.get_dummies(found).to_numpy() if found.ndim == 1 else found
                held = np.zeros((len(rows), each.shape[1]), np.int64)
                held[known] = each
                columns.append(np.column_stack([held, ~known]))
        return (np.concatenate(columns, axis=1).astype(np.int64) if columns else None), notes

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Divides rows so that each stratum of each part is as frequent in every fold."""
        return LabelSets(self.targets).splitter(n_folds, seed, grouped)

    def marked(self, rows: pd.DataFrame) -> pd.DataFrame:
        for part in self.parts:
            rows = part.marked(rows)
        return rows

    def faults(self, rows: pd.DataFrame) -> Iterator[Fault]:
        for part in self.parts:
            yield from part.faults(rows)

    def check_folds(self, rows: pd.DataFrame, where: str) -> None:
        for part in self.parts:
            part.check_folds(rows, where)
