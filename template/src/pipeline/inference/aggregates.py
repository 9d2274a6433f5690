"""How predictions by image, float64 (N, columns), become one for each of their prediction ids, (N,), in order."""

import numpy as np
import pandas as pd

from toolkit.errors import UserError


def mean(predictions: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """The arithmetic mean."""
    return predictions.groupby(ids, sort=False).mean()


def maximum(predictions: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """The highest one: a single image is enough to say yes."""
    return predictions.groupby(ids, sort=False).max()


def generalized_mean(predictions: pd.DataFrame, ids: np.ndarray, *, power: float = 3.0) -> pd.DataFrame:
    """`mean(x ** power) ** (1 / power)`, as `scipy.stats.pmean` defines it, geometric at 0. A `UserError` where a
    prediction is negative, or the power infinite."""
    if (predictions.to_numpy() < 0).any() or not np.isfinite(power):
        raise UserError("aggregate 'generalized_mean' needs a finite power and predictions of 0 or more; try mean, max")
    with np.errstate(divide="ignore"):
        if power == 0:
            return predictions.transform("log").groupby(ids, sort=False).mean().transform("exp")
        return (predictions**power).groupby(ids, sort=False).mean() ** (1 / power)
