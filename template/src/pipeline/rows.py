"""Rows of `tables.py` as the pipeline reads them: their columns are there, and ids, groups and labels are text.

A row is an image; where several stand for one prediction, what is scored and handed in has ids of its own.
"""

import datetime
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from pipeline.keys import ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_PREDICTION, ROW_SOURCE, ROW_WEIGHT, SOURCE_COMPETITION
from pipeline.settings import Settings
from toolkit.errors import UserError, listed

MOST_EXACT = 2**53  # beyond it a float64 is no exact whole number
NAMES = (ROW_ID, ROW_IMAGE, ROW_PREDICTION, ROW_GROUP, ROW_SOURCE)  # columns that hold nothing but text
FLOAT = (float, np.floating)


def received(rows: Any, table: str, settings: Settings) -> pd.DataFrame:
    """Rows of a table, with all columns that there must be; see `plain_rows`."""
    if not isinstance(rows, pd.DataFrame):
        made = f"tables.py returned {type(rows).__name__} for the rows of {table}"
        raise UserError(f"{made}; return a DataFrame (is there a return?)")
    for column in (ROW_ID, ROW_IMAGE, *settings.side_columns):
        if column not in rows:
            remedy = "add it in src/competition/tables.py, or take it out of side_columns in competition.yaml"
            raise UserError(f"the rows of {table} come without the column '{column}'; {remedy}")
    return plain_rows(rows.reset_index(drop=True), table, [*settings.target_columns, *settings.side_columns])


def checked(rows: Any, table: str, settings: Settings) -> pd.DataFrame:
    """The same, each with an id of its own."""
    rows = received(rows, table, settings)
    twice = rows[ROW_ID][rows[ROW_ID].duplicated()].unique()
    if len(twice):
        what = f"{table}: {len(twice)} ids stand more than once ({listed(twice)}); an id must name one row"
        raise UserError(f"{what}: choose another id_column in competition.yaml, or drop the copies in tables.py")
    return rows


def require_groups(rows: pd.DataFrame, settings: Settings) -> None:
    """Raise a `UserError` where training rows lack the groups that competition.yaml names: folds would leak."""
    if settings.group_column and ROW_GROUP not in rows:
        what = f"no column '{ROW_GROUP}', and competition.yaml names '{settings.group_column}' as group_column"
        remedy = "make it in tables.py before its rows are made, or empty it"
        raise UserError(f"the rows of {settings.train_csv} have {what}; {remedy}")


def plain_rows(rows: pd.DataFrame, table: str, columns: Iterable[str]) -> pd.DataFrame:
    """Rows whose names (`id`, `group`, ...) and `columns` (targets, side columns) are text, as if they came from a csv.

    A row without a source is the competition's own, and one without a weight counts 1, as without such a column. A name
    that is no text, a row without id or image, a weight that is no number from 0 on is a `UserError`.
    """
    rows = with_text(rows, [*NAMES, *columns])
    for column in [name for name in NAMES if name in rows]:
        strange = [cell for cell in rows[column].dropna() if not isinstance(cell, str)]
        empty = rows[rows[column].isna()]
        if strange:
            types = listed(sorted({type(cell).__name__ for cell in strange}))
            what = f"the column '{column}' of {table} holds no text in {len(strange)} rows, but {types}"
            raise UserError(f"{what}; make text of it in src/competition/tables.py")
        if column in (ROW_ID, ROW_IMAGE) and len(empty):
            of = "" if column == ROW_ID else f" (id {listed(empty[ROW_ID])})"
            what = f"{len(empty)} rows of {table} have no '{column}'{of}"
            raise UserError(f"{what}; fill or drop them in src/competition/tables.py")
    if ROW_SOURCE in rows:
        rows[ROW_SOURCE] = rows[ROW_SOURCE].fillna(SOURCE_COMPETITION)
    if ROW_WEIGHT in rows:
        given = rows[ROW_WEIGHT]
        numbers = pd.to_numeric(given, errors="coerce").astype("float64")
        wrong = given.notna() & ~(np.isfinite(numbers) & (numbers >= 0))
        if wrong.any():
            what = f"{wrong.sum()} rows of {table} (id {listed(rows.loc[wrong, ROW_ID])}) have the weight"
            remedy = "a number from 0 on is expected: correct it in src/competition/tables.py"
            raise UserError(f"{what} '{given[wrong].iloc[0]}'; {remedy}")
        rows[ROW_WEIGHT] = numbers.fillna(1.0)
    return rows


def with_text(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A copy whose cells are text in those of the columns that it has; see `as_text`."""
    return table.assign(**{column: as_text(table[column]) for column in columns if column in table})


def as_text(values: pd.Series) -> pd.Series:
    """Cells as a csv would hold them, str (N,): 1 is `1`, True is `True`, and 1.0 is `1` where all floats are whole.

    None, NaN and NaT are missing; a list is the text of a Python list. Objects that no csv can hold stay what they are.
    """
    if values.dtype == "str":
        return values
    values = values.infer_objects()
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values.astype("str").where(values.notna())
    cells = [cell if known else None for cell, known in zip(values.astype(object), values.notna(), strict=True)]
    floats = [float(cell) for cell in cells if isinstance(cell, FLOAT)]
    whole = all(number.is_integer() and abs(number) <= MOST_EXACT for number in floats)
    texts = [None if cell is None else _text(cell, whole) for cell in cells]
    plain = all(text is None or isinstance(text, str) for text in texts)
    return pd.Series(texts, index=values.index, name=values.name, dtype="str" if plain else object)


def _text(cell: Any, whole: bool) -> Any:
    """One cell as text, or itself where it is nothing that a csv holds."""
    if isinstance(cell, FLOAT):
        return str(int(cell)) if whole else str(cell)
    if isinstance(cell, list | tuple | np.ndarray):
        return str([_text(part, whole=False) for part in cell])
    if isinstance(cell, set | frozenset):
        return str(sorted(str(_text(part, whole=False)) for part in cell))
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, os.PathLike):
        return PurePath(cell).as_posix()
    return str(cell) if np.isscalar(cell) or isinstance(cell, datetime.date | datetime.time) else cell


def by_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """The first image of each prediction id, as its `id`, with its index; all rows where there are no such ids."""
    if ROW_PREDICTION not in rows:
        return rows
    first = rows.drop_duplicates(ROW_PREDICTION)
    return first.assign(**{ROW_ID: first[ROW_PREDICTION]}).drop(columns=ROW_PREDICTION)


def with_predictions(rows: pd.DataFrame, targets: Sequence[str] = ()) -> pd.DataFrame:
    """Rows whose prediction ids are whole: a row that only trains stands for itself, since nothing is predicted for it.

    Args:
        targets: columns that must agree between the images of one id. With them, the images of one id get a common
            `group` where the rows have no groups, so that they never lie in two folds.
    """
    if ROW_PREDICTION not in rows:
        return rows
    ids = rows[ROW_PREDICTION]
    is_scored = rows[ROW_SOURCE] == SOURCE_COMPETITION if ROW_SOURCE in rows else rows[ROW_ID].notna()
    empty = rows[ROW_ID][ids.isna() & is_scored]
    if len(empty):
        what = f"{len(empty)} rows (id {listed(empty)}) have an empty '{ROW_PREDICTION}'"
        raise UserError(f"{what}; fill it in tables.py")
    rows = rows.assign(**{ROW_PREDICTION: ids.where(is_scored, rows[ROW_ID])})
    for column in [name for name in (ROW_GROUP, *targets) if targets and name in rows]:
        scored = rows[is_scored]
        counts = scored.groupby(ROW_PREDICTION, sort=False)[column].nunique(dropna=False)
        torn = counts.index[counts > 1]
        if len(torn):
            values = scored[column][scored[ROW_PREDICTION] == torn[0]].astype(str).unique()
            what = f"the images of {len(torn)} prediction ids ({listed(torn)}) differ in '{column}'"
            remedy = "make them agree in src/competition/tables.py, or name another prediction_column"
            raise UserError(f"{what} ('{torn[0]}': {listed(values)}); {remedy}")
    return rows.assign(**{ROW_GROUP: ids.fillna(rows[ROW_ID])}) if targets and ROW_GROUP not in rows else rows
