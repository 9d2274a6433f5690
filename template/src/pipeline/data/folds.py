"""The fold contract: `folds/<name>.csv` is written once and loaded by everything.

Beside it lie `folds/<name>.json` (how the folds were made, and their hash) and `folds/classes.json` (the order of the
classes). Only rows of the competition itself are scored and have a fold; rows of another `source` only train.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.labels import Labels, require_values
from pipeline.data.splitters import Splitter, assign_folds
from pipeline.data.tables import read_table
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_ONLY_FOLD, ROW_SOURCE, SOURCE_COMPETITION
from pipeline.project import Project
from pipeline.settings import Settings
from toolkit.errors import UserError, listed, nearest
from toolkit.files import atomic, read_json, write_json

CLASSES = "classes.json"
FOLDS = 5  # how many are made where none is asked for
NO_FOLD = -1  # the fold of a row that only trains


@dataclass(frozen=True)
class FoldTable:
    """Rows with their folds.

    Attributes:
        rows: the training rows with `fold` (int64); -1 for rows that are not scored.
        hash: of ids, groups and folds of the scored rows, and of the splitter.
        splitter: how they were divided; `by hand` for a fold file without its json, `given` for a single fold.
        warnings: what is worth knowing, one line each; a run records them.
    """

    rows: pd.DataFrame
    n_folds: int
    hash: str
    splitter: str
    seed: int | None = None
    demo: bool = False
    warnings: tuple[str, ...] = ()

    def sizes(self) -> list[int]:
        """How many scored rows each fold holds."""
        return [int((self.rows[ROW_FOLD] == fold).sum()) for fold in range(self.n_folds)]


def make_folds(
    rows: pd.DataFrame, labels: Labels, n_folds: int = FOLDS, seed: int = 0, splitter: Splitter = "auto"
) -> FoldTable:
    """Divide the scored rows, see `assign_folds`. One fold is a given validation split: it holds out all of them, and
    rows of other sources train."""
    scored = rows[is_scored(rows)]
    require_values(scored, labels)
    given = (np.zeros(len(scored), np.int64), "given", ())
    single = n_folds == 1 and len(scored) < len(rows)
    folds, used, notes = given if single else assign_folds(scored, labels, n_folds, seed, splitter)
    found = _with_folds(rows, folds, n_folds)
    return FoldTable(found, n_folds, fold_hash(found, used), used, seed, warnings=notes)


def write_folds(project: Project, name: str, folds: FoldTable, targets: Sequence[str]) -> Path:
    """Write `folds/<name>.csv` and its json; the csv comes last, so that it never stands without its contract."""
    path = fold_path(project, name)
    scored = folds.rows[folds.rows[ROW_FOLD] >= 0]
    columns = [column for column in dict.fromkeys([ROW_ID, ROW_FOLD, ROW_GROUP, *targets]) if column in scored]
    contract = {name: getattr(folds, name) for name in ("splitter", "seed", "n_folds", "hash", "demo")}
    write_json(path.with_suffix(".json"), contract | {"rows_per_fold": folds.sizes()})
    with atomic(path) as temporary:
        scored[columns].to_csv(temporary, index=False, lineterminator="\n")
    return path


def load_folds(project: Project, name: str, rows: pd.DataFrame, settings: Settings) -> FoldTable:
    """The training rows with the folds of `folds/<name>.csv`, which must be there and have been made for these rows.

    A label that was corrected since the folds were made, or a fold file that was edited, is a warning.
    """
    path = fold_path(project, name)
    where = project.shown(path)
    if not path.is_file():
        known = [file.stem for file in project.folds.glob("*.csv") if "." not in file.stem]
        hint = nearest(name, known) if known else "make it: scripts/make_folds.py" + name_option(name)
        raise UserError(f"there is no fold file {where}; {hint}")
    table, contract, scored = read_table(path, [ROW_ID, ROW_FOLD]), read_contract(path), rows[is_scored(rows)]
    demo = bool(contract.get("demo", False))
    what = "they were made for the demo; replace them" if demo else "restore the table, or make the folds anew"
    remedy = f"{what}: scripts/make_folds.py{name_option(name)}{'' if demo else ' --force'}"
    _check_rows(table, scored, where, remedy)
    table = table.set_index(ROW_ID).loc[scored[ROW_ID]].reset_index()
    n_folds = _count_folds(table[ROW_FOLD], contract.get("n_folds"), where)
    with_folds = _with_folds(rows, table[ROW_FOLD].to_numpy(np.int64), n_folds)
    if (with_folds[ROW_FOLD] == 0).all():
        remedy = "make two or more, or give the rows of a given training split the fold -1, or another source"
        raise UserError(f"{where} holds one fold only, so nothing is left to train on; {remedy} in tables.py")
    splitter = str(contract.get("splitter", "by hand"))
    found, notes = fold_hash(table, splitter), _changed_labels(table, scored, settings.target_columns, where)
    if contract and contract["hash"] != found:
        notes.append(f"{where} was edited after it was made: runs on the older folds cannot be compared with new ones")
    return FoldTable(with_folds, n_folds, found, splitter, contract.get("seed"), demo, tuple(notes))


def fold_hash(rows: pd.DataFrame, splitter: str) -> str:
    """The same for the same splitter, ids, groups and folds of the scored rows, in whatever order they stand."""
    scored = rows[rows[ROW_FOLD].astype("int64") >= 0]
    columns = [column for column in (ROW_ID, ROW_GROUP, ROW_FOLD) if column in scored]
    lines = sorted(zip(*(scored[column].astype(str) for column in columns), strict=True))
    return hashlib.sha256(repr((splitter, lines)).encode()).hexdigest()[:16]


def _check_rows(table: pd.DataFrame, scored: pd.DataFrame, where: str, remedy: str) -> None:
    """Refuse a fold file of other rows: ids that are lost, new, twice or of another group, and groups in several
    folds."""
    before, now = table[ROW_ID], scored[ROW_ID]
    if ROW_GROUP in table:
        before = before + "\0" + table[ROW_GROUP].fillna("")
        now = now + "\0" + (scored[ROW_GROUP].astype("str").fillna("") if ROW_GROUP in scored else "")
    parts = {
        "of its rows stand in it more than once": table[ROW_ID][table[ROW_ID].duplicated()],
        "of its rows are gone from the training table": table[ROW_ID][~before.isin(now)],
        "training rows are not in it": scored[ROW_ID][~now.isin(before)],
    }
    if ROW_GROUP in scored and ROW_GROUP not in table:
        fold_of = table.drop_duplicates(ROW_ID).set_index(ROW_ID)[ROW_FOLD]
        crossing = scored[ROW_ID].map(fold_of).groupby(scored[ROW_GROUP].astype(str)).nunique()
        parts["groups lie in several folds, so their rows leak"] = crossing.index[crossing > 1].to_series()
    differences = [f"{len(found)} {what} ({listed(found)})" for what, found in parts.items() if len(found)]
    if differences:
        raise UserError(f"{where} was made for other data: {' and '.join(differences)}; {remedy}")


def _count_folds(folds: pd.Series, expected: int | None, where: str) -> int:
    """The number of folds; every one of them holds rows. Rows of fold -1 only train."""
    for fold in folds[~folds.fillna("").str.fullmatch(r"-1|\d{1,4}")]:
        remedy = "folds are whole numbers from 0 on, or -1 of what only trains"
        raise UserError(f"{where} holds the fold '{fold}'; {remedy}")
    found = sorted(set(folds.astype("int64")) - {-1})
    count = max([0, *found]) + 1 if expected is None else int(expected)
    if found != list(range(count)):
        raise UserError(f"{where} holds rows of the folds ({listed(found, 12)}), and 0 to {count - 1} are expected")
    return count


def _changed_labels(table: pd.DataFrame, scored: pd.DataFrame, targets: Sequence[str], where: str) -> list[str]:
    """A warning for each target column whose labels are no longer those the folds were made with. Rows are aligned."""
    notes = []
    for column in [column for column in targets if column in table and column in scored]:
        cells = zip(table[ROW_ID], table[column].fillna(""), scored[column].fillna("").astype(str), strict=True)
        changed = [f"{name}: {before} -> {now}" for name, before, now in cells if before != now]
        if changed:
            notes.append(f"{len(changed)} labels in '{column}' differ from those in {where} ({listed(changed)})")
    return notes


def only_fold(rows: pd.DataFrame) -> pd.Series:
    """float64 (N,): the one fold in whose run a row trains, missing where it trains in all of them."""
    given = rows[ROW_ONLY_FOLD] if ROW_ONLY_FOLD in rows else pd.Series(np.nan, rows.index)
    return pd.to_numeric(given, errors="coerce").astype("float64")


def _with_folds(rows: pd.DataFrame, folds: np.ndarray, n_folds: int) -> pd.DataFrame:
    """The rows with `fold`: `folds` for the scored ones, in their order."""
    scored, found = is_scored(rows), np.full(len(rows), NO_FOLD, np.int64)
    if ROW_ONLY_FOLD in rows:
        fits = ~scored & only_fold(rows).between(0, n_folds, inclusive="left")
        for _, row in rows[rows[ROW_ONLY_FOLD].notna() & ~fits].iterrows():
            what = f"row '{row[ROW_ID]}' has the only_fold {row[ROW_ONLY_FOLD]}, which is no fold, or is scored"
            raise UserError(f"{what}; correct it, or give such rows another source in tables.py")
    found[scored.to_numpy()] = folds
    return rows.assign(**{ROW_FOLD: found})


def split(rows: pd.DataFrame, fold: str | int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows of a fold; for `full` all rows and none.

    Rows without a fold always train, those with `only_fold` in the run of that fold alone; -1 there stands for `full`.
    """
    only = only_fold(rows)
    number = int(fold) if str(fold).isdigit() else NO_FOLD
    held_out = (rows[ROW_FOLD] == number) & (number >= 0)
    if not held_out.any() and fold != "full":
        raise UserError(f"there is no fold '{fold}'; the folds are 0 to {rows[ROW_FOLD].max()}, and full")
    trains = ~held_out & (only.isna() | (only == number))
    return rows[trains].reset_index(drop=True), rows[held_out].reset_index(drop=True)


def is_scored(rows: pd.DataFrame) -> pd.Series:
    """bool (N,): the rows that are validated and scored, those of the competition itself."""
    return rows[ROW_SOURCE] == SOURCE_COMPETITION if ROW_SOURCE in rows else pd.Series(True, index=rows.index)


def class_order(labels: Iterable[str]) -> list[str]:
    """Distinct labels: in numeric order if all are numbers, else sorted as text."""
    names = sorted(set(labels))
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return names
    return sorted(names, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else names


def write_classes(project: Project, *tables: tuple[pd.DataFrame, Labels]) -> dict[str, list[str]]:
    """Write the classes of each target column that names some to `folds/classes.json`; an order edited by hand stays.

    Args:
        tables: the training rows, and those of each stage of the competition.
    """
    path = project.folds / CLASSES
    before = read_json(path) if path.is_file() else {}
    classes: dict[str, list[str]] = {}
    for rows, labels in tables:
        scored = rows[is_scored(rows)]
        require_values(scored, labels)
        for column in labels.named:
            found, by_hand = class_order(labels.cells(scored, column).astype(str)), before.get(column)
            if len(found) < labels.fewest_classes:
                what = f"one class only ('{found[0]}')" if found else "no class"
                raise UserError(f"column '{column}' holds {what}; there is nothing to learn from it")
            classes[column] = by_hand if isinstance(by_hand, list) and sorted(by_hand) == sorted(found) else found
    if classes != before or not path.is_file():
        write_json(path, classes)
    return classes


def read_classes(project: Project) -> dict[str, list[str]]:
    """The class order of each target column."""
    path = project.folds / CLASSES
    if not path.is_file():
        raise UserError(f"there is no {project.shown(path)}, which holds the classes; make it: scripts/make_folds.py")
    return dict(read_json(path))


def fold_path(project: Project, name: str) -> Path:
    """`folds/<name>.csv`; a `UserError` for what cannot be a file name."""
    if not name.replace("-", "").replace("_", "").isalnum() or f"{name}.json" == CLASSES:
        raise UserError(f"'{name}' cannot name a fold file; use letters, digits, '-' and '_', and not 'classes'")
    return project.folds / f"{name}.csv"


def name_option(name: str) -> str:
    """What `scripts/make_folds.py` needs besides for these folds."""
    return "" if name == "folds" else f" --name {name}"


def read_contract(path: Path) -> dict[str, Any]:
    """How the folds at `path` were made; empty for a file made by hand."""
    contract = path.with_suffix(".json")
    found = read_json(contract) if contract.is_file() else {}
    if not isinstance(found, dict) or (found and not {"hash", "n_folds"} <= set(found)):
        raise UserError(f"{contract} does not say how the folds were made; restore it from git, or delete it")
    return found
