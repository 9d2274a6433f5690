"""Labels that out-of-fold predictions speak against."""

import numpy as np
import pandas as pd

COLUMNS = ["given", "suggested", "score", "probability"]


def confident_disagreements(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confident learning: C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 70, 2021, arXiv:1911.00068.

    The threshold of a class is its mean probability over the rows with this label, and a class's margin in a row is its
    probability less the threshold: so a class that is hard throughout is not suspicious. Suspects are rows in which
    another class has a larger margin than the given one; the score is by how much.

    Args:
        given: class numbers, int64 (N,).
        probabilities: out of fold, float (N, C).

    Returns:
        Positions of suspects, highest score first, the suggested classes and the scores, (M,) each.
    """
    rows, count = np.arange(len(given)), probabilities.shape[1]
    sums = np.bincount(given, probabilities[rows, given], minlength=count)
    counts = np.bincount(given, minlength=count)
    thresholds = np.divide(sums, counts, out=np.full(count, np.inf), where=counts > 0)
    margins = probabilities - thresholds
    suggested = margins.argmax(axis=1)
    scores = margins[rows, suggested] - margins[rows, given]
    found = rows[np.argsort(-scores, kind="stable")][: int((scores > 0).sum())]
    return found, suggested[found], scores[found]


def outlying(residuals: np.ndarray, limit: float = 3.5) -> tuple[np.ndarray, np.ndarray]:
    """Positions of outliers, largest first, and their modified z-scores: B. Iglewicz and D. Hoaglin, "How to Detect and
    Handle Outliers", 1993. None where more than half of the residuals (N,) are equal."""
    away = np.abs(residuals - np.median(residuals))
    spread = 1.4826 * float(np.median(away))
    scores = away / spread if spread > 0 else np.zeros_like(away)
    found = np.flatnonzero(scores > limit)
    found = found[np.argsort(-scores[found], kind="stable")]
    return found, scores[found]


def suspect_table(
    index: pd.Index, given: np.ndarray, suggested: np.ndarray, scores: np.ndarray, probabilities: np.ndarray
) -> pd.DataFrame:
    """Columns (M,) as the table of a kind's suspects."""
    columns = zip(COLUMNS, (given, suggested, scores, probabilities), strict=True)
    return pd.DataFrame(dict(columns), index=index)
