"""Classes that a fold holds out as a whole, so that its run never trains them, are spread over folds."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.data.labels import Labels

FEW = 50  # units of a class that exchanges could bring into one fold


def spread_classes(folds: np.ndarray, rows: pd.DataFrame, labels: Labels, units: np.ndarray, seed: int) -> np.ndarray:
    """The folds, with as few exchanges as it takes for each class of several units to be in several folds.

    Args:
        folds: int64 (N,), each of its units in one fold.
        rows: the scored ones.
        units: int64 (N,), what stays together: the number of a row's group, or of the row.

    Returns:
        int64 (N,); the same folds where no class is held out as a whole.
    """
    members = [found for column in labels.named for found in _units_of_classes(rows, labels, column, units, folds)]
    count = int(units.max()) + 1
    fold_of = np.zeros(count, np.int64)
    fold_of[units] = folds
    torn = [number for number, found in enumerate(members) if len(set(fold_of[found])) == 1]
    if torn:
        _Exchange(members, fold_of, np.bincount(units, minlength=count), int(folds.max()) + 1, seed).mend(torn)
    return fold_of[units]


def _units_of_classes(
    rows: pd.DataFrame, labels: Labels, column: str, units: np.ndarray, folds: np.ndarray
) -> Iterator[np.ndarray]:
    """The units of each class that is in one fold, or could come to be by exchanges: those with few units."""
    places = pd.DataFrame({"unit": units, "fold": folds}, index=rows.index)
    cells = labels.cells(rows, column).dropna().astype(str)
    found = places.loc[cells.index].assign(name=cells.to_numpy()).drop_duplicates()
    counts = found.groupby("name").agg({"unit": "size", "fold": "nunique"})
    wanted = counts.index[(counts["unit"] > 1) & ((counts["unit"] <= FEW) | (counts["fold"] == 1))]
    for _, same in found[found["name"].isin(wanted)].groupby("name"):
        yield same["unit"].to_numpy()


class _Exchange:
    """Exchanges units of equal size, or nearly so, between folds."""

    def __init__(
        self, members: list[np.ndarray], fold_of: np.ndarray, sizes: np.ndarray, n_folds: int, seed: int
    ) -> None:
        self.members, self.fold_of, self.sizes, self.n_folds = members, fold_of, sizes, n_folds
        self.random = np.random.default_rng(seed)
        self.counts = np.zeros((len(members), n_folds), np.int64)  # units of each class in each fold
        self.classes: defaultdict[int, list[int]] = defaultdict(list)
        for number, found in enumerate(members):
            np.add.at(self.counts[number], fold_of[found], 1)
            for unit in found:
                self.classes[int(unit)].append(number)

    def mend(self, torn: list[int]) -> None:
        """Spread these classes; what cannot be mended without tearing another one is left."""
        for number in torn:
            if np.count_nonzero(self.counts[number]) > 1:  # an exchange for another class has mended it
                continue
            units = sorted(self.members[number], key=lambda unit: self.sizes[unit])
            for unit in units:
                partner = self._partner(int(unit))
                if partner is not None:
                    self._swap(int(unit), partner)
                    break

    def _partner(self, unit: int) -> int | None:
        others = self.random.permutation(np.flatnonzero(self.fold_of != self.fold_of[unit]))
        nearest = others[np.argsort(np.abs(self.sizes[others] - self.sizes[unit]), kind="stable")]
        for other in map(int, nearest):
            self._swap(unit, other)
            whole = any(
                self.counts[number].sum() > 1 and np.count_nonzero(self.counts[number]) == 1
                for number in (*self.classes[unit], *self.classes[other])
            )
            self._swap(unit, other)
            if not whole:
                return other
        return None

    def _swap(self, one: int, other: int) -> None:
        for unit, fold in ((one, self.fold_of[other]), (other, self.fold_of[one])):
            for number in self.classes[unit]:
                self.counts[number, self.fold_of[unit]] -= 1
                self.counts[number, fold] += 1
        self.fold_of[one], self.fold_of[other] = self.fold_of[other], self.fold_of[one]
