"""What stands in the target columns, as those who divide, list and check rows have to know it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from pipeline.competition import Competition
from pipeline.data.faults import Fault
from pipeline.keys import ROW_GROUP, ROW_ID
from toolkit.errors import UserError, listed


@dataclass(frozen=True)
class ClassLabels:
    """The target columns of a competition, where each cell names one class. Other kinds of cells override what differs.

    Attributes:
        targets: the columns. Several are stratified by their combination.
    """

    targets: Sequence[str]
    fewest_classes: ClassVar[int] = 2  # with fewer in a column there is nothing to learn
    of_whole_images: ClassVar[bool] = True  # side columns may help them, and several may be for one prediction

    @property
    def named(self) -> Sequence[str]:
        """Columns whose cells name classes, which `folds/classes.json` lists; the others are measured."""
        return self.targets

    @property
    def trains_each(self) -> bool:
        """Whether a class with several rows is to train in each fold, and not to be held out as a whole."""
        return True

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Every label in a column, with the index of its row; missing where a row lacks what it should have."""
        return rows[column]

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """What is stratified by, int64 (N, ...), or none where all of it is too rare; and notes, one line each."""
        return self.numbered(rows, n_folds, pool=len(self.targets) > 1)

    def numbered(self, rows: pd.DataFrame, n_folds: int, pool: bool) -> tuple[np.ndarray | None, list[str]]:
        """The number of each row's class, or combination of classes; with `pool` all rare ones are one stratum, else
        only those of a single row are."""
        targets = list(self.targets)
        keys = rows[targets].astype(str).agg(" / ".join, axis=1) if len(targets) > 1 else rows[targets[0]].astype(str)
        codes, names = pd.factorize(keys, sort=True)
        counts = np.bincount(codes)
        rare = counts < n_folds
        if not rare.any():
            return codes, []
        what = f"classes of '{targets[0]}'" if len(targets) == 1 else f"combinations of {', '.join(targets)}"
        note = f"{rare.sum()} of {len(names)} {what} have fewer rows than there are folds ({listed(names[rare])})"
        pooled = rare if pool else counts == 1
        return (None if pooled.all() else np.where(pooled[codes], len(names), codes)), [note]

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Divides strata as scikit-learn's splitters do: `split(X, strata, groups)`."""
        return Stratified(n_folds, seed, grouped)

    def marked(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The training rows with what the truth of held-out ones depends on besides."""
        return rows

    def asked(self, ids: pd.Series) -> pd.Series:
        """Of what stands in the id column of a sample submission, the ids of what is predicted."""
        return ids

    def faults(self, rows: pd.DataFrame) -> Iterable[Fault]:
        """What is wrong in the target columns of training rows (with their folds), besides what is true of any."""
        return ()

    def check_folds(self, rows: pd.DataFrame, where: str) -> None:
        """Refuse folds, of the file `where`, on which such rows (with their folds) cannot be scored."""


Labels = ClassLabels


@dataclass(frozen=True)
class Stratified:
    """scikit-learn's stratified splitters, which refuse strata that all have fewer rows than there are folds: those are
    dealt out one after the other, or as groups."""

    n_folds: int
    seed: int
    grouped: bool

    def split(self, x: Any, strata: np.ndarray, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions that train and positions that are held out, for each fold."""
        cls = StratifiedGroupKFold if self.grouped else StratifiedKFold
        made: Any = cls(self.n_folds, shuffle=True, random_state=self.seed)
        if np.bincount(strata).max() < self.n_folds:
            made = GroupKFold(self.n_folds) if self.grouped else Spread(self.n_folds, self.seed)
        yield from made.split(x, strata, groups)


@dataclass(frozen=True)
class Spread:
    """Deals rows out, class after class: one with n rows is in as many folds as it can be, evenly.

    scikit-learn's `StratifiedKFold` does so only where some class has as many rows as there are folds.
    """

    n_folds: int
    seed: int

    def split(self, _: Any, classes: np.ndarray, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions that train and positions that are held out, for each fold."""
        random = np.random.default_rng(self.seed)
        shuffled = random.permutation(classes.max() + 1)[classes]
        order = np.lexsort([random.random(len(classes)), shuffled])
        fold_of = np.empty(len(order), np.int64)
        fold_of[order] = np.arange(len(order)) % self.n_folds
        for fold in range(self.n_folds):
            yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def labels_of(competition: Competition) -> Labels:
    """What `targets.labels` of the competition says; without it, each cell names one class."""
    found: Labels | None = competition.labels()
    return ClassLabels(competition.settings.target_columns) if found is None else found


def require_values(rows: pd.DataFrame, labels: Labels) -> None:
    """Raise a `UserError` that names rows where a label, or the group, is missing."""
    columns = {column: labels.cells(rows, column) for column in labels.targets}
    if ROW_GROUP in rows:
        columns[ROW_GROUP] = rows[ROW_GROUP]
    for column, values in columns.items():
        missing = rows[ROW_ID].loc[values.index[values.isna()]]
        if len(missing):
            what = f"column '{column}' is empty in {len(missing)} training rows (id {listed(missing)})"
            raise UserError(f"{what}; fill or drop them in src/competition/tables.py")
