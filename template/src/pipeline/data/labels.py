"""What stands in the target columns, as those who divide, list and check rows have to know it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.competition import Competition
from pipeline.errors import UserError, listed
from pipeline.keys import ROW_GROUP, ROW_ID

if TYPE_CHECKING:
    from pipeline.data.faults import Fault


class Labels(Protocol):
    """The target columns of a competition."""

    @property
    def targets(self) -> Sequence[str]:
        """Their names."""
        ...

    @property
    def named(self) -> Sequence[str]:
        """Those whose cells name classes, which `folds/classes.json` lists; the others are measured."""
        ...

    @property
    def fewest_classes(self) -> int:
        """With fewer classes in a column there is nothing to learn."""
        ...

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Every label in a column, with the index of its row; missing where a row lacks what it should have."""
        ...

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """What is stratified by, int64 (N, ...), or none where all of it is too rare; and notes, one line each."""
        ...

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Divides strata as scikit-learn's splitters do: `split(X, strata, groups)`."""
        ...

    def marked(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The training rows with what the truth of held-out ones depends on besides."""
        ...

    def asked(self, ids: pd.Series) -> pd.Series:
        """Of what stands in the id column of a sample submission, the ids of what is predicted."""
        ...

    def faults(self, rows: pd.DataFrame) -> "Iterable[Fault]":
        """What is wrong with what stands in the target columns of training rows, besides what is true of any labels.

        Args:
            rows: with their folds.
        """
        ...

    def check_folds(self, rows: pd.DataFrame, where: str) -> None:
        """Refuse folds on which such rows cannot be scored.

        Args:
            rows: with their folds.
            where: the fold file, as errors name it.
        """
        ...


@dataclass(frozen=True)
class ClassLabels:
    """Each cell names one class. Several columns are stratified by their combination."""

    targets: Sequence[str]

    @property
    def named(self) -> Sequence[str]:
        return self.targets

    @property
    def fewest_classes(self) -> int:
        return 2

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        return rows[column]

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        targets = list(self.targets)
        keys = rows[targets].astype(str).agg(" / ".join, axis=1) if len(targets) > 1 else rows[targets[0]].astype(str)
        codes, names = pd.factorize(keys, sort=True)
        counts = np.bincount(codes)
        rare = counts < n_folds
        if not rare.any():
            return codes, []
        what = f"classes of '{targets[0]}'" if len(targets) == 1 else f"combinations of {', '.join(targets)}"
        note = f"{rare.sum()} of {len(names)} {what} have fewer rows than there are folds ({listed(names[rare])})"
        if rare.all():
            return None, [note]
        return np.where(rare[codes], len(names), codes), [note]

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        made = StratifiedGroupKFold if grouped else StratifiedKFold
        return made(n_folds, shuffle=True, random_state=seed)

    def marked(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows

    def asked(self, ids: pd.Series) -> pd.Series:
        return ids

    def faults(self, rows: pd.DataFrame) -> "Iterable[Fault]":
        return ()

    def check_folds(self, rows: pd.DataFrame, where: str) -> None:
        """Any will do."""


def labels_of(competition: Competition) -> Labels:
    """What `targets.labels` of the competition says; without it, each cell names one class."""
    found: Labels | None = competition.labels()
    return ClassLabels(competition.settings.target_columns) if found is None else found


def require_values(rows: pd.DataFrame, labels: Labels) -> None:
    """Raise a `UserError` that names rows where a label, or the group, is missing."""
    cells = {column: labels.cells(rows, column) for column in labels.targets}
    for column, values in {**cells, **({ROW_GROUP: rows[ROW_GROUP]} if ROW_GROUP in rows else {})}.items():
        missing = rows[ROW_ID].loc[values.index[values.isna()]]
        if len(missing):
            raise UserError(
                f"column '{column}' is empty in {len(missing)} training rows (id {listed(missing)}); "
                "fill or drop them in src/competition/tables.py"
            )
