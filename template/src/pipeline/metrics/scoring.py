"""What the scores of all kinds of heads have in common."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.metrics import undefined
from toolkit.errors import UserError, listed


def score(
    read: Callable[[pd.DataFrame, pd.DataFrame, Head], tuple[Any, ...] | None],
    name: str,
    formula: Callable[..., float],
    needs: Literal["labels", "probabilities"] = "probabilities",
    greater: bool = True,
    may_cut: bool = False,
    top_k: int = 1,
    check_heads: Callable[[Sequence[Head]], None] = lambda heads: None,
) -> Metric:
    """A metric of one head: `formula(*read(truth, predictions, head), head)`, NaN where that reads none."""

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        found = read(truth, predictions, heads[0])
        return float("nan") if found is None else float(formula(*found, heads[0]))

    return Metric(name, function, greater, needs, check_heads, may_cut, top_k)


def finite_predictions(
    truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, targets: Sequence[str], columns: Sequence[str]
) -> np.ndarray | None:
    """The predictions of a head, float64 (N, columns). None, with a warning, where no score can be had from them; a
    `UserError` where `targets` are not in the truth, `columns` not in the predictions, or ids not in the same order."""
    for name, table, needed in (("the truth has", truth, targets), ("the predictions have", predictions, columns)):
        missing = [column for column in needed if column not in table]
        if missing:
            raise UserError(f"{name} no column '{missing[0]}'; the classes or target columns changed: predict again")
    if not truth.index.equals(predictions.index):
        raise UserError(
            "truth and predictions do not hold the same ids in the same order; use predictions.loc[truth.index]"
        )
    given = predictions[list(columns)].to_numpy(np.float64)
    broken = ~np.isfinite(given).all(axis=1)
    if len(given) and not broken.any():
        return given
    rows = f"{broken.sum()} rows of the predictions are not finite ({listed(truth.index[broken])})"
    undefined(head, rows if len(given) else "no row has a truth")
    return None


def grade_kappa(truth: np.ndarray, predicted: np.ndarray, head: Head) -> float:
    """Cohen's kappa of positions in the classes, int64 (N,), with squared distances between grades (J. Cohen, "Weighted
    kappa", Psychological Bulletin, 1968). NaN when truth and prediction are one and the same single grade.

    Grades are the classes themselves where all are whole numbers (a gap counts as distance), else their positions.
    """
    if len(np.unique(np.concatenate([truth, predicted]))) < 2:
        return undefined(head, f"kappa needs two grades, all rows are '{head.classes[truth[0]]}'")
    size = len(head.classes)
    grades = np.arange(size)
    try:
        values = np.array([int(name) for name in head.classes])
        grades = values if np.ptp(values) < 1000 else grades  # far apart they are codes rather than grades
    except ValueError:
        pass
    # Tuning asks some thousand times, and scikit-learn's function takes a hundred times as long.
    counts = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / len(truth)
    distance = (grades[:, None] - grades) ** 2
    return float(1 - (distance * counts).sum() / (distance * by_chance).sum())
