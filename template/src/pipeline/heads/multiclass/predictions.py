"""How probabilities of classes become a decision."""

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.predictions import probability_columns


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """The number of the class that is decided for, int64 (N,), given probabilities (N, C).

    It is the most probable one, and of equal ones the first. Of two classes it is the second one where that reaches
    the head's threshold, if the head has one.
    """
    if head.thresholds:
        return (probabilities[:, 1] >= head.thresholds[0]).astype(np.int64)
    best: np.ndarray = probabilities.argmax(axis=1)
    return best


def cut(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """1 for the class that is decided for and 0 for all others, float64 (N, C)."""
    return np.eye(probabilities.shape[1])[decided(probabilities, head)]


def decided_labels(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The class that is decided for in each row, as its name: (N,) of str."""
    best = decided(predictions[probability_columns(head)].to_numpy(np.float64), head)
    return np.asarray(head.classes, dtype=object)[best]


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows (N, C) divided by their sums in float64. A row of zeros becomes uniform, since it prefers no class."""
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1, keepdims=True)
    return np.where(sums > 0, exact / np.where(sums > 0, sums, 1.0), 1.0 / exact.shape[1])
