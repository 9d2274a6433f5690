"""How scored rows are divided into folds."""

import warnings
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold

from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, loose, strict
from pipeline.keys import ROW_GROUP
from toolkit.errors import UserError, listed

Splitter = Literal["auto", "plain", "stratified", "group", "stratified_group"]
FEW = 50  # units of a class that exchanges could bring into one fold


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
    """
    if not 2 <= n_folds <= len(rows):
        given = "for a given validation split, give the rows that train another source in tables.py, and ask for 1"
        raise UserError(f"{len(rows)} rows cannot make {n_folds} folds; ask for 2 or more with --n-folds ({given})")
    strata, notes = labels.strata(rows, n_folds)
    used = _usable(splitter, ROW_GROUP in rows, strata is not None)
    groups = _group_codes(rows, n_folds, seed, notes) if "group" in used else None
    for column in labels.named:  # classes whose spellings cannot mean two things
        same = alike(labels.cells(rows, column).dropna().astype(str).unique(), strict)
        if same:
            examples = listed((" and ".join(map(repr, names)) for names in same), 2)
            notes.append(f"classes of '{column}' are one in several spellings ({examples}); see scripts/check_data.py")
    divider: Any = GroupKFold(n_folds) if used == "group" else KFold(n_folds, shuffle=True, random_state=seed)
    if "stratified" in used:
        divider = labels.splitter(n_folds, seed, "group" in used)
    folds = np.full(len(rows), -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # our own note names the rare classes
        for fold, (_, held_out) in enumerate(divider.split(np.zeros(len(rows)), strata, groups)):
            folds[held_out] = fold
    if labels.trains_each and (splitter == "auto" or "stratified" in used):
        folds = _spread_classes(folds, rows, labels, np.arange(len(rows)) if groups is None else groups, seed)
    sizes = np.bincount(folds, minlength=n_folds)
    if sizes.min() == 0:
        raise UserError(f"the groups are too uneven for {n_folds} folds, one stayed empty; ask for fewer: --n-folds")
    if sizes.max() > 1.5 * sizes.mean():
        notes.append(f"the folds are uneven ({listed(sizes, 20)} rows), since large groups stay together")
    return folds, used, tuple(notes)


def _usable(splitter: Splitter, grouped: bool, stratifiable: bool) -> Splitter:
    """The splitter that is asked for, where it respects the groups and there is something to stratify by."""
    if splitter == "auto":
        if stratifiable:
            return "stratified_group" if grouped else "stratified"
        return "group" if grouped else "plain"
    if grouped != ("group" in splitter):
        why = "would tear groups apart" if grouped else "needs groups"
        raise UserError(f"the splitter '{splitter}' {why}; use another, or correct group_column in competition.yaml")
    if "stratified" in splitter and not stratifiable:
        raise UserError("classes have too few rows to be stratified; use --splitter plain or group")
    return splitter


def _group_codes(rows: pd.DataFrame, n_folds: int, seed: int, notes: list[str]) -> np.ndarray:
    """int64 (N,) number of each row's group, numbered by the seed: equally large groups go to folds in that order.

    Groups whose names differ by case, spaces or zeros only are one, and one of the `notes`.
    """
    groups = rows[ROW_GROUP].astype(str)
    if same := alike(groups.unique()):
        groups = groups.map(loose)
        examples = listed((" and ".join(map(repr, names)) for names in same), 2)
        what = f"{len(same)} groups stand in spellings that differ by case, spaces or zeros only ({examples})"
        notes.append(f"{what} and were kept together; give each one name in src/competition/tables.py")
    codes, names = pd.factorize(groups, sort=True)
    if len(names) < n_folds:
        raise UserError(f"{len(names)} groups cannot make {n_folds} folds; ask for fewer with --n-folds")
    return np.random.default_rng(seed).permutation(len(names))[codes]


def _spread_classes(folds: np.ndarray, rows: pd.DataFrame, labels: Labels, units: np.ndarray, seed: int) -> np.ndarray:
    """The folds, with as few exchanges of equally large units as it takes for each class of several units to be in
    several folds; where that would tear another class, it is left.

    Args:
        folds: int64 (N,), each of its units in one fold.
        units: int64 (N,), what stays together: the number of a row's group, or of the row.
    """
    random, sizes = np.random.default_rng(seed), np.bincount(units)
    fold_of = np.zeros(len(sizes), np.int64)
    fold_of[units] = folds
    classes: list[np.ndarray] = []  # the units of each that is in one fold, or could come to be by exchanges
    for column in labels.named:
        cells = labels.cells(rows, column).dropna().astype(str)
        of_cells = pd.Series(units, rows.index).loc[cells.index]
        for same in (each.unique() for _, each in of_cells.groupby(cells.to_numpy())):
            if len(same) > 1 and (len(same) <= FEW or len(set(fold_of[same])) == 1):
                classes.append(same)
    of_unit: dict[int, list[np.ndarray]] = {}
    for members in classes:
        for unit in members:
            of_unit.setdefault(int(unit), []).append(members)

    def exchange(unit: int) -> bool:
        others = random.permutation(np.flatnonzero(fold_of != fold_of[unit]))
        for other in map(int, others[np.argsort(np.abs(sizes[others] - sizes[unit]), kind="stable")]):
            fold_of[[unit, other]] = fold_of[[other, unit]]
            if all(len(set(fold_of[members])) > 1 for members in of_unit[unit] + of_unit.get(other, [])):
                return True
            fold_of[[unit, other]] = fold_of[[other, unit]]
        return False

    for members in [members for members in classes if len(set(fold_of[members])) == 1]:
        if len(set(fold_of[members])) == 1:  # no exchange for another class has mended it
            any(exchange(int(unit)) for unit in sorted(members, key=lambda unit: sizes[unit]))
    return fold_of[units]
