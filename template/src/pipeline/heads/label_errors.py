"""Labels that out-of-fold predictions speak against."""

import numpy as np
import pandas as pd

COLUMNS = ["given", "suggested", "score", "probability"]


def suspect_table(
    index: pd.Index, given: np.ndarray, suggested: np.ndarray, scores: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """Columns (M,) as the table of a kind's suspects."""
    columns = zip(COLUMNS, (given, suggested, scores, probabilities), strict=True)
    return pd.DataFrame(dict(columns), index=index)
