"""Scores of numbers, on whole tables, by scikit-learn.

A score reads the truth and the predictions, a column of numbers each.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

from functools import partial

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head
from pipeline.heads.numbers import clipped, grade_values, grades
from pipeline.metrics import undefined
from pipeline.metrics.scoring import finite_predictions, grade_kappa, score
from toolkit.errors import UserError


def _arrays(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, np.ndarray] | None:
    """Truth and predictions inside the head's limits, float64 (N,) each."""
    given = finite_predictions(truth, predictions, head, [head.name], [head.name])
    return None if given is None else (truth[head.name].to_numpy(np.float64), clipped(given[:, 0], head))


_score = partial(score, _arrays)


def rmsle(truth: np.ndarray, predictions: np.ndarray, head: Head) -> float:
    """Root of the mean squared difference of log(1 + y). NaN where a number is -1 or less, which has no such log."""
    if min(truth.min(), predictions.min()) <= -1:
        return undefined(head, "rmsle needs numbers above -1; give the head limits in src/competition/targets.py")
    return float(sk.root_mean_squared_log_error(truth, predictions))


def r2(truth: np.ndarray, predictions: np.ndarray, head: Head) -> float:
    """Share of the truth's variance that is explained, 1 - SSE / SST. NaN where the truth is the same in all rows."""
    if np.ptp(truth) == 0:
        return undefined(head, f"r2 needs two different numbers in the truth, all rows are {truth[0]:g}")
    return float(sk.r2_score(truth, predictions))


def quadratic_weighted_kappa(truth: np.ndarray, predictions: np.ndarray, head: Head) -> float:
    """Cohen's kappa of grades with squared distances; a number becomes a grade at the head's cut points."""
    if len(head.classes) < 2:
        raise UserError(
            f"quadratic_weighted_kappa needs the grades of '{head.name}'; "
            "give the head classes in src/competition/targets.py"
        )
    values = grade_values(head)
    numbers = np.searchsorted(values, truth).clip(max=len(values) - 1)
    strange = truth[values[numbers] != truth]
    if len(strange):
        raise UserError(f"column '{head.name}': {strange[0]:g} is not one of the grades ({', '.join(head.classes)})")
    return grade_kappa(numbers, grades(predictions, head), head)


SCORES = (
    # Over several heads the mean of rmse is MCRMSE.
    _score("rmse", lambda truth, given, head: sk.root_mean_squared_error(truth, given), greater=False),
    _score("mae", lambda truth, given, head: sk.mean_absolute_error(truth, given), greater=False),
    _score("rmsle", rmsle, greater=False),
    _score("r2", r2),
    _score("quadratic_weighted_kappa", quadratic_weighted_kappa, "labels"),
)
