"""Numbers of rows, the limits they keep, and the grades they become."""

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed


def numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column's cells, float64 (N,); NaN where one is empty.

    Raises:
        UserError: a cell is no finite number; the rows are named by id.
    """
    values = pd.to_numeric(rows[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values) & rows[column].notna().to_numpy()
    if wrong.any():
        raise UserError(
            f"column '{column}': {int(wrong.sum())} rows (id {listed(rows.loc[wrong, ROW_ID])}) hold "
            f"'{rows[column][wrong].iloc[0]}', and a number is expected; correct it in src/competition/tables.py"
        )
    return values


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of what is known of values (N, ...); a deviation of 0 becomes 1."""
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return 0.0, 1.0
    return float(known.mean()), float(known.std()) or 1.0


def predicted(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The numbers of a head in a table of predictions, float64 (N,), inside its limits."""
    return clipped(predictions[head.name].to_numpy(np.float64), head)


def clipped(values: np.ndarray, head: Head) -> np.ndarray:
    """Values of any shape, inside the head's limits; NaN stays."""
    return values if head.limits is None else np.clip(values, *head.limits)


def grade_values(head: Head) -> np.ndarray:
    """The grades as numbers, float64 (classes,), rising.

    Raises:
        UserError: a class is no number, or they do not rise.
    """
    values = pd.to_numeric(pd.Series(list(head.classes), dtype="str"), errors="coerce").to_numpy(np.float64)
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise UserError(
            f"the classes of '{head.name}' ({listed(head.classes, 9)}) are no rising numbers; "
            "correct them in folds/classes.json or src/competition/targets.py"
        )
    return values


def cut_points(head: Head) -> np.ndarray:
    """From which numbers on each grade but the first is meant, float64 (classes - 1,), rising: half way between two,
    unless the head has thresholds."""
    values = grade_values(head)
    return np.sort(head.thresholds) if head.thresholds else (values[:-1] + values[1:]) / 2


def grades(values: np.ndarray, head: Head) -> np.ndarray:
    """Numbers (N,) as positions in the head's classes, int64 (N,)."""
    return np.searchsorted(cut_points(head), values, side="right").astype(np.int64)


def grade_names(values: np.ndarray, head: Head) -> np.ndarray:
    """Numbers (N,) as names of grades, (N,) of str."""
    return np.asarray(head.classes, dtype=object)[grades(values, head)]
