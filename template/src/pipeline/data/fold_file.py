"""What a fold file and the training rows have to agree on."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_ONLY_FOLD
from toolkit.errors import UserError, listed


def fold_hash(rows: pd.DataFrame, splitter: str) -> str:
    """The same for the same splitter, ids, groups and folds of the scored rows, in whatever order they stand."""
    scored = rows[rows[ROW_FOLD].astype("int64") >= 0]
    columns = [column for column in (ROW_ID, ROW_GROUP, ROW_FOLD) if column in scored]
    lines = sorted(zip(*(scored[column].astype(str) for column in columns), strict=True))
    return hashlib.sha256(repr((splitter, lines)).encode()).hexdigest()[:16]


def check_rows(table: pd.DataFrame, scored: pd.DataFrame, where: str, remedy: str) -> None:
    """Refuse a fold file that was made for other rows: ids that are lost, new, twice or of another group, and groups
    that lie in several folds."""
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


def count_folds(folds: pd.Series, expected: int | None, where: str) -> int:
    """The number of folds; every one of them holds rows. Rows of fold -1 only train."""
    strange = folds[~folds.fillna("").str.fullmatch(r"-1|\d{1,4}")]
    if len(strange):
        what = "folds are whole numbers from 0 on, or -1 of what only trains"
        raise UserError(f"{where} holds the fold '{strange.iloc[0]}'; {what}")
    found = sorted(set(folds.astype("int64")) - {-1})
    count = max([0, *found]) + 1 if expected is None else int(expected)
    if found != list(range(count)):
        raise UserError(f"{where} holds rows of the folds ({listed(found, 12)}), and 0 to {count - 1} are expected")
    return count


def changed_labels(table: pd.DataFrame, scored: pd.DataFrame, targets: Sequence[str], where: str) -> list[str]:
    """A warning for each target column whose labels are no longer those the folds were made with. Rows are aligned."""
    notes = []
    for column in [column for column in targets if column in table and column in scored]:
        before, now = table[column].fillna("").to_numpy(), scored[column].fillna("").astype(str).to_numpy()
        changed = (before != now).nonzero()[0]
        if len(changed):
            examples = listed(f"{table[ROW_ID].iloc[row]}: {before[row]} -> {now[row]}" for row in changed[:4])
            notes.append(f"{len(changed)} labels in '{column}' differ from those in {where} ({examples})")
    return notes


def only_fold(rows: pd.DataFrame) -> pd.Series:
    """float64 (N,): the one fold in whose run a row trains, missing where it trains in all of them."""
    if ROW_ONLY_FOLD not in rows:
        return pd.Series(float("nan"), index=rows.index)
    numbers = pd.to_numeric(rows[ROW_ONLY_FOLD], errors="coerce").astype("float64")
    wrong = rows[ROW_ONLY_FOLD].notna() & ~(numbers >= 0)
    if wrong.any():
        value = rows.loc[wrong, ROW_ONLY_FOLD].iloc[0]
        raise UserError(f"row '{rows.loc[wrong, ROW_ID].iloc[0]}' has the only_fold '{value}', which is no fold")
    return numbers
