"""How a head's predictions stand in a table: one column of probabilities per class, `label:0`, `label:1`, ..."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def probability_columns(head: str, classes: Sequence[str]) -> list[str]:
    """The columns of a head, in class order."""
    return [f"{head}:{name}" for name in classes]


def decided_labels(predictions: pd.DataFrame, head: str, classes: Sequence[str]) -> np.ndarray:
    """The most probable class of each row, as its name: (N,) of str."""
    best = predictions[probability_columns(head, classes)].to_numpy().argmax(axis=1)
    return np.asarray(classes, dtype=object)[best]
