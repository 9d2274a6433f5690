"""How scored rows are divided into folds."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold

from pipeline.data.labels import Labels, require_values
from pipeline.data.spellings import alike, loose, strict
from pipeline.keys import ROW_GROUP
from toolkit.errors import UserError, listed

Splitter = Literal["auto", "plain", "stratified", "group", "stratified_group"]


def assign_folds(
    rows: pd.DataFrame, labels: Labels, n_folds: int, seed: int, splitter: Splitter
) -> tuple[np.ndarray, Splitter, tuple[str, ...]]:
    """Divide scored rows.

    Args:
        rows: `id`, the target columns, and `group` where rows belong together.
        labels: what is stratified by.
        splitter: `auto` stratifies, and keeps groups together where there are any.

    Returns:
        int64 (N,) fold of each row; the splitter that was used; warnings, one line each.

    Raises:
        UserError: more folds than rows or groups, a missing group or label, or a splitter that ignores the groups.
    """
    if n_folds < 2:
        raise UserError(
            f"{n_folds} folds leave nothing to train or to score on; ask for 2 or more (for a given validation split, "
            "give the rows that train another source in src/competition/tables.py, and ask for 1)"
        )
    if len(rows) < n_folds:
        raise UserError(f"{len(rows)} rows cannot make {n_folds} folds; ask for fewer with --n-folds")
    require_values(rows, labels)
    strata, notes = labels.strata(rows, n_folds)
    used = _choose(splitter, ROW_GROUP in rows, strata is not None)
    groups = None
    if "group" in used:
        groups, noted = _group_codes(rows, n_folds, seed)
        notes += noted
    notes += _class_notes(rows, labels)
    if "stratified" in used and strata is None:
        raise UserError("classes have too few rows to be stratified; use --splitter plain or group")
    folds = np.full(len(rows), -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # our own note names the rare classes
        held_out = _splits(used, labels, n_folds, seed, strata, groups, len(rows))
    for fold, positions in enumerate(held_out):
        folds[positions] = fold
    if labels.trains_each and (splitter == "auto" or "stratified" in used):
        folds = spread_classes(folds, rows, labels, np.arange(len(rows)) if groups is None else groups, seed)
    sizes = np.bincount(folds, minlength=n_folds)
    if sizes.min() == 0:
        raise UserError(
            f"the groups are too uneven for {n_folds} folds: one stayed empty; ask for fewer with --n-folds"
        )
    if sizes.max() > 1.5 * sizes.mean():
        notes.append(f"the folds are uneven ({listed(sizes, 20)} rows), since large groups stay together")
    return folds, used, tuple(notes)


def _choose(splitter: Splitter, grouped: bool, stratifiable: bool) -> Splitter:
    if splitter == "auto":
        if stratifiable:
            return "stratified_group" if grouped else "stratified"
        return "group" if grouped else "plain"
    if "group" in splitter and not grouped:
        raise UserError(
            f"the splitter '{splitter}' needs groups; name their column as group_column in competition.yaml"
        )
    if grouped and "group" not in splitter:
        raise UserError(
            f"the splitter '{splitter}' would tear groups apart; use group or stratified_group, "
            "or empty group_column in competition.yaml"
        )
    return splitter


def _class_notes(rows: pd.DataFrame, labels: Labels) -> list[str]:
    """A note for each column with classes that are one in several spellings, as they cannot mean two things."""
    notes = []
    for column in labels.named:
        same = alike(labels.cells(rows, column).dropna().astype(str).unique(), strict)
        if same:
            examples = listed((" and ".join(map(repr, names)) for names in same), 2)
            notes.append(f"classes of '{column}' are one in several spellings ({examples}); see scripts/check_data.py")
    return notes


def _group_codes(rows: pd.DataFrame, n_folds: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """int64 (N,) number of each row's group, numbered by the seed: equally large groups go to folds in that order.

    Groups whose names differ by case, spaces or zeros only are one, and a note.
    """
    groups, notes = rows[ROW_GROUP].astype(str), []
    same = alike(groups.unique())
    if same:
        groups = groups.map(loose)
        examples = listed((" and ".join(map(repr, names)) for names in same), 2)
        notes.append(
            f"{len(same)} groups stand in spellings that differ by case, spaces or zeros only ({examples}) and were "
            "kept together; give each one name in src/competition/tables.py"
        )
    codes, names = pd.factorize(groups, sort=True)
    if len(names) < n_folds:
        raise UserError(f"{len(names)} groups cannot make {n_folds} folds; ask for fewer with --n-folds")
    return np.random.default_rng(seed).permutation(len(names))[codes], notes


def _splits(
    splitter: Splitter,
    labels: Labels,
    n_folds: int,
    seed: int,
    strata: np.ndarray | None,
    groups: np.ndarray | None,
    count: int,
) -> list[np.ndarray]:
    """The positions that each fold holds out."""
    if splitter == "plain":
        divider: Any = KFold(n_folds, shuffle=True, random_state=seed)
    elif splitter == "group":
        divider = GroupKFold(n_folds)
    else:
        divider = labels.splitter(n_folds, seed, "group" in splitter)
    return [valid for _, valid in divider.split(np.zeros(count), strata, groups)]


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
    table = pd.DataFrame({"unit": units, "fold": folds}, index=rows.index)
    cells = labels.cells(rows, column).dropna().astype(str)
    found = table.loc[cells.index].assign(name=cells.to_numpy()).drop_duplicates()
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
