"""What stands out among the rows of a table."""

import numpy as np

LIMIT = 3.5  # of modified z-scores, as their authors recommend it


def worst_first(scores: np.ndarray, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the selected rows, bool (N,), highest score (N,) first, and their scores, (M,) each."""
    found = np.flatnonzero(selected)
    found = found[np.argsort(-scores[found], kind="stable")]
    return found, scores[found]


def modified_z_scores(values: np.ndarray) -> np.ndarray:
    """How many standard deviations values (N,) are above their median, float64 (N,); a minority of outliers does not
    change what these are: B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", 1993.

    Where more than half of the values are equal, their mean deviation is the measure. All 0 where all are equal.
    """
    if not len(values):
        return np.empty(0)
    above = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(above))) or 1.2533 * float(np.abs(above).mean())
    return np.asarray(above / (spread or 1.0), np.float64)
