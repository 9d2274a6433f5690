"""Side columns: what a table tells beside the image, as numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

Columns = Mapping[str, Sequence[str]]  # name -> its categories; none: numbers, or true and false
FLAGS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
MISSING = ("", "na", "n/a", "nan", "none", "null")


def chosen_columns(columns: Columns, names: Sequence[str] | None) -> dict[str, Sequence[str]]:
    """The side columns that an experiment names, in the competition's order; all where it names none.

    Raises:
        UserError: a name that is no side column.
    """
    for name in names or ():
        if name not in columns:
            raise UserError(
                f"model.side_columns: '{name}' is not among side_columns in competition.yaml; {nearest(name, columns)}"
            )
    return {name: categories for name, categories in columns.items() if names is None or name in names}


def input_names(columns: Columns) -> tuple[str, ...]:
    """What `INPUT_SIDE` holds, in order: a column, or each of its categories as `column:category`."""
    parts = [[f"{name}:{category}" for category in found] or [name] for name, found in columns.items()]
    return tuple(name for part in parts for name in part)


def side_inputs(rows: pd.DataFrame, columns: Columns, is_test: bool) -> np.ndarray:
    """float32 (N, inputs): numbers as they are, true and yes 1, false and no 0, a category 1 among zeros, NaN where a
    cell is empty. A category that is not listed is an error in a training table, and none of those that are in a test
    table, which may be hidden.

    Raises:
        UserError: a column that is not there, or a cell that is neither a number nor a category; rows are named by id.
    """
    parts = []
    for column, categories in columns.items():
        if column not in rows:
            raise UserError(f"the rows have no side column '{column}'; add it in src/competition/tables.py")
        found = _one_hot(rows, column, categories, is_test) if categories else _numbers(rows, column)
        parts.append(found.astype(np.float32))
    return np.concatenate(parts, axis=1)


def _words(rows: pd.DataFrame, column: str, categories: Sequence[str] = ()) -> pd.Series:
    """The cells as text without spaces around; missing where they say nothing."""
    words = rows[column].astype("str").str.strip()
    empty = rows[column].isna() | (words.str.lower().isin(MISSING) & ~words.isin(categories))
    return words.mask(empty)


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    words = _words(rows, column)
    numbers = words.str.lower().map(FLAGS).astype(np.float64).fillna(pd.to_numeric(words, errors="coerce"))
    strange = words.notna() & ~(numbers.abs() <= np.finfo(np.float32).max)
    if strange.any():
        found = listed(sorted(words[strange].unique()), 9)
        raise UserError(
            f"side column '{column}': {strange.sum()} rows (id {listed(rows.loc[strange, ROW_ID])}) hold neither a "
            f"number nor true or false ({found}); list categories in competition.yaml, side_columns: "
            f"{{{column}: [{found}]}}, or make numbers of them in src/competition/tables.py"
        )
    return numbers.to_numpy()[:, None]


def _one_hot(rows: pd.DataFrame, column: str, categories: Sequence[str], is_test: bool) -> np.ndarray:
    words = _words(rows, column, categories)
    unknown = words.notna() & ~words.isin(categories)
    if unknown.any() and not is_test:
        first = str(words[unknown].iloc[0])
        raise UserError(
            f"side column '{column}': {unknown.sum()} rows (id {listed(rows.loc[unknown, ROW_ID])}) hold what is none "
            f"of its categories in competition.yaml, such as '{first}'; {nearest(first, categories)}"
        )
    values = (words.to_numpy(object)[:, None] == np.array(categories, object)).astype(np.float64)
    values[words.isna()] = np.nan
    return values
