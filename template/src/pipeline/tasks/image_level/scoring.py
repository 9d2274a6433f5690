"""What the scores of all kinds of heads have in common."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning

from pipeline.competition import Head
from pipeline.errors import UserError, listed


@dataclass(frozen=True)
class Score:
    """A score of one head: `(truth, predictions, head) -> float`. The other attributes are those of a `Metric`."""

    name: str
    function: Callable[[pd.DataFrame, pd.DataFrame, Head], float]
    needs: Literal["labels", "probabilities"]
    greater_is_better: bool


def finite_predictions(
    truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, targets: Sequence[str], columns: Sequence[str]
) -> np.ndarray | None:
    """The predictions of a head, float64 (N, columns). None, with a warning, where no score can be had from them.

    Args:
        targets: what must be in the truth.
        columns: what must be in the predictions.

    Raises:
        UserError: a column is missing, or the tables are not in the same order.
    """
    for name, table, needed in (("truth", truth, targets), ("predictions", predictions, columns)):
        missing = [column for column in needed if column not in table]
        if missing:
            has = "has" if name == "truth" else "have"
            raise UserError(
                f"the {name} {has} no column '{missing[0]}'; the classes or target columns changed: predict again"
            )
    if not truth.index.equals(predictions.index):
        raise UserError(
            "truth and predictions do not hold the same ids in the same order; use predictions.loc[truth.index]"
        )
    given = predictions[list(columns)].to_numpy(np.float64)
    broken = ~np.isfinite(given).all(axis=1)
    if len(given) and not broken.any():
        return given
    ids = listed(truth.index[broken])
    undefined(
        head, f"{broken.sum()} rows of the predictions are not finite ({ids})" if len(given) else "there are no rows"
    )
    return None


def undefined(head: Head, reason: str) -> float:
    """NaN, and a warning that says why: never a number that looks like a score."""
    warnings.warn(f"head '{head.name}': {reason}; the score is NaN", UndefinedMetricWarning, stacklevel=2)
    return float("nan")
