"""What a fold file and the training rows have to agree on."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_ONLY_FOLD
from toolkit.errors import UserError, listed


def fold_hash(rows: pd.DataFrame, splitter: str) -> str:
    """The same for the same splitter, ids, groups and folds of the scored rows, in whatever order they stand."""
    scored = rows[rows[ROW_FOLD].astype("int64") >= 0]
    columns = [ROW_ID, *([ROW_GROUP] if ROW_GROUP in scored else []), ROW_FOLD]
    lines = sorted(zip(*(scored[column].astype(str) for column in columns), strict=True))
    return hashlib.sha256(repr((splitter, lines)).encode()).hexdigest()[:16]


def check_ids(table: pd.DataFrame, scored: pd.DataFrame, where: str, remedy: str) -> None:
    """Refuse a fold file that names an id twice, and scored rows that are lost or new since it was made."""
    twice = table[ROW_ID][table[ROW_ID].duplicated()]
    if len(twice):
        raise UserError(f"{where} names {twice.nunique()} ids more than once ({listed(twice.unique())}); mend it")
    lost = table[ROW_ID][~table[ROW_ID].isin(scored[ROW_ID])]
    new = scored[ROW_ID][~scored[ROW_ID].isin(table[ROW_ID])]
    differences = []
    if len(lost):
        differences.append(f"{len(lost)} of its rows are gone from the training table ({listed(lost)})")
    if len(new):
        differences.append(f"{len(new)} training rows are not in it ({listed(new)})")
    if differences:
        raise UserError(f"{where} was made for other data: {' and '.join(differences)}; {remedy}")


def check_numbers(folds: pd.Series, expected: int | None, where: str) -> int:
    """The number of folds; every one of them holds rows. Rows of fold -1 only train.

    Raises:
        UserError: a fold that is no number from 0 on, is out of range, or holds no row.
    """
    strange = folds[~folds.fillna("").str.fullmatch(r"-1|\d{1,4}")]
    if len(strange):
        raise UserError(
            f"{where} holds the fold '{strange.iloc[0]}'; folds are whole numbers from 0 on, or -1 for what only trains"
        )
    numbers = folds.astype("int64")
    count = int(numbers.max()) + 1 if expected is None else int(expected)
    if numbers.max() >= count:
        raise UserError(f"{where} holds fold {numbers.max()}, and it was made with {count} folds (0 to {count - 1})")
    empty = sorted(set(range(max(count, 1))) - set(numbers))
    if empty:
        raise UserError(f"{where} holds no row of fold {listed(empty)}; number the folds from 0 on without gaps")
    return count


def check_groups(table: pd.DataFrame, scored: pd.DataFrame, where: str, remedy: str) -> None:
    """Refuse groups that changed since the folds were made, and groups that lie in several folds. Rows are aligned."""
    if ROW_GROUP in table:
        groups = scored[ROW_GROUP] if ROW_GROUP in scored else pd.Series(pd.NA, index=scored.index, dtype="str")
        before, now = (  # numbers were written as 7.0 once
            column.fillna("").astype(str).str.replace(r"^(\d+)\.0$", r"\1", regex=True).to_numpy()
            for column in (table[ROW_GROUP], groups)
        )
        same = before == now
        changed = table[ROW_ID][~same]
        if len(changed):
            raise UserError(
                f"{where} was made with other groups: {len(changed)} rows differ ({listed(changed)}); {remedy}"
            )
    elif ROW_GROUP in scored:
        folds = pd.Series(table[ROW_FOLD].to_numpy(), index=scored[ROW_GROUP].to_numpy())
        crossing = folds.groupby(level=0).nunique()
        torn = crossing.index[crossing > 1]
        if len(torn):
            raise UserError(
                f"{where} tears {len(torn)} groups apart ({listed(torn)}): rows of one group leak; {remedy}"
            )


def only_fold(rows: pd.DataFrame, n_folds: int | None = None) -> pd.Series:
    """float64 (N,): the one fold in whose run a row trains, missing where it trains in all of them."""
    if ROW_ONLY_FOLD not in rows:
        return pd.Series(float("nan"), index=rows.index)
    numbers = pd.to_numeric(rows[ROW_ONLY_FOLD], errors="coerce")
    wrong = rows[ROW_ONLY_FOLD].notna() & ~(numbers >= 0)
    if n_folds is not None:
        wrong |= numbers >= n_folds
    if wrong.any():
        value = rows.loc[wrong, ROW_ONLY_FOLD].iloc[0]
        raise UserError(f"row '{rows.loc[wrong, ROW_ID].iloc[0]}' has the only_fold '{value}', which is no fold")
    return numbers.astype("float64")


def changed_labels(table: pd.DataFrame, scored: pd.DataFrame, targets: Sequence[str], where: str) -> list[str]:
    """A warning for each target column whose labels are no longer those the folds were made with. Rows are aligned."""
    notes = []
    for column in targets:
        if column in table and column in scored:
            before, now = table[column].fillna(""), scored[column].fillna("").astype(str)
            changed = (before.to_numpy() != now.to_numpy()).nonzero()[0]
            if len(changed):
                examples = listed(
                    f"{table[ROW_ID].iloc[row]}: {before.iloc[row]} -> {now.iloc[row]}" for row in changed[:4]
                )
                notes.append(f"{len(changed)} labels in '{column}' differ from those in {where} ({examples})")
    return notes
