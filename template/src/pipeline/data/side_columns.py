"""Side columns: what a table tells beside the image, as numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

Columns = Mapping[str, Sequence[str]]  # name -> its categories; none: numbers, or true and false
FLAGS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
MISSING = ("", "na", "n/a", "nan", "none", "null")


def selected_columns(columns: Columns, names: Sequence[str] | None) -> dict[str, Sequence[str]]:
    """The side columns that an experiment names, in the competition's order; all where it names none."""
    for name in names or ():
        if name not in columns:
            where = "is not among side_columns in competition.yaml"
            raise UserError(f"model.side_columns: '{name}' {where}; {nearest(name, columns)}")
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
    parts = [np.empty((len(rows), 0), np.float32)]
    for column, categories in columns.items():
        if column not in rows:
            raise UserError(f"the rows have no side column '{column}'; add it in src/competition/tables.py")
        words = rows[column].astype("str").str.strip()
        empty = rows[column].isna() | (words.str.lower().isin(MISSING) & ~words.isin(categories))
        words = words.mask(empty)
        if categories:
            strange = words.notna() & ~words.isin(categories) & (not is_test)
            values = (words.to_numpy(object)[:, None] == np.array(categories, object)).astype(np.float64)
            values[words.isna()] = np.nan
        else:
            numbers = words.str.lower().map(FLAGS).astype(np.float64).fillna(pd.to_numeric(words, errors="coerce"))
            strange = words.notna() & ~(numbers.abs() <= np.finfo(np.float32).max)
            values = numbers.to_numpy()[:, None]
        if strange.any():
            found, which = sorted(words[strange].unique()), f"{strange.sum()} rows (id {listed(rows[ROW_ID][strange])})"
            what = "none of its categories" if categories else "neither a number nor true or false"
            hint = f"list categories in competition.yaml, side_columns: {{{column}: [{listed(found, 9)}]}}"
            hint = nearest(found[0], categories) if categories else hint
            raise UserError(f"side column '{column}': {which} hold {what} ({listed(found, 9)}); {hint}")
        parts.append(values.astype(np.float32))
    return np.concatenate(parts, axis=1)
