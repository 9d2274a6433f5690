"""How probabilities of classes become a decision."""

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.tasks.image_level.predictions import probability_columns


def decided_labels(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The most probable class of each row, as its name: (N,) of str."""
    best = predictions[probability_columns(head)].to_numpy().argmax(axis=1)
    return np.asarray(head.classes, dtype=object)[best]


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows (N, C) divided by their sums in float64. A row of zeros becomes uniform, since it prefers no class."""
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1, keepdims=True)
    return np.where(sums > 0, exact / np.where(sums > 0, sums, 1.0), 1.0 / exact.shape[1])
