"""How a head's predictions stand in a table: one column of probabilities per class, `label:0`, `label:1`, ..."""

import numpy as np
import pandas as pd

from pipeline.competition import Head


def probability_columns(head: Head) -> list[str]:
    """The columns of a head, in class order."""
    return [f"{head.name}:{name}" for name in head.classes]


def has_truth(truth: pd.DataFrame, head: Head) -> np.ndarray:
    """Which rows have a truth for `head`, bool (N,), given the truth of all heads."""
    columns = [column for column in truth if str(column).startswith(f"{head.name}:")]
    own = [head.name] if head.name in truth else columns
    known: np.ndarray = truth[own].notna().all(axis=1).to_numpy(bool)
    return known
