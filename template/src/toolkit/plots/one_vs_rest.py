"""Each class against all others: the numbers behind `classes`. Arrays in, tables out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, precision_recall_curve, roc_curve

BINS = 10  # of a calibration curve, equally wide


@dataclass(frozen=True)
class Ranking:
    """How well one class's probabilities rank its rows before all others. Without either there are no curves, and the
    areas are NaN.

    Attributes:
        positives, negatives: how many rows are of this class, and of others.
        roc: false and true positive rate, float64 (K,) each, both rising.
        pr: recall and precision, float64 (L,) each, recall falling.
        roc_auc, pr_auc: the areas; the second one is the average precision.
    """

    positives: int
    negatives: int
    roc: tuple[np.ndarray, np.ndarray]
    pr: tuple[np.ndarray, np.ndarray]
    roc_auc: float
    pr_auc: float

    @property
    def has_curves(self) -> bool:
        """Whether there are rows of this class and of others."""
        return self.positives > 0 and self.negatives > 0


def rankings(truth: np.ndarray, probabilities: np.ndarray) -> list[Ranking]:
    """The ranking of each class.

    Args:
        truth: (N, C) of 0 and 1, NaN where it is not known.
        probabilities: (N, C); where one is not finite, its row is left out for that class.
    """
    return [_ranking(*known(truth, probabilities, place)) for place in range(truth.shape[1])]


def _ranking(held: np.ndarray, said: np.ndarray) -> Ranking:
    positives, none = int(held.sum()), np.empty(0)
    if positives in (0, len(held)):
        return Ranking(positives, len(held) - positives, (none, none), (none, none), np.nan, np.nan)
    false_positives, true_positives, _ = roc_curve(held, said)
    precision, recall, _ = precision_recall_curve(held, said, drop_intermediate=True)
    # scikit-learn's functions of the areas would sort the rows of hundreds of classes once more
    areas = float(auc(false_positives, true_positives)), float(-np.sum(np.diff(recall) * precision[:-1]))
    return Ranking(positives, len(held) - positives, (false_positives, true_positives), (recall, precision), *areas)


def known(truth: np.ndarray, probabilities: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth, bool (n,), and probabilities, float64 (n,), of one class, for the rows that have both."""
    there = ~np.isnan(truth[:, place]) & np.isfinite(probabilities[:, place])
    return truth[there, place] >= 0.5, probabilities[there, place].astype(np.float64)


def class_table(
    truth: np.ndarray,
    probabilities: np.ndarray,
    decided: np.ndarray,
    classes: Sequence[str],
    ranked: Sequence[Ranking],
) -> pd.DataFrame:
    """A row per class, in their order: `rows`, `decided` (counts), `precision`, `recall`, `F1`, `ROC AUC`, `PR AUC` and
    `ECE` (see `calibration`). NaN where there is no such number.

    Args:
        truth, probabilities: see `rankings`.
        decided: bool (N, C).
        ranked: what `rankings` says of them.
    """
    there = ~np.isnan(truth) & np.isfinite(probabilities)
    held, said = (truth >= 0.5) & there, decided & there
    hits, rows, counts = (held & said).sum(axis=0), held.sum(axis=0), said.sum(axis=0)
    return pd.DataFrame(
        {
            "rows": rows,
            "decided": counts,
            "precision": _ratio(hits, counts),
            "recall": _ratio(hits, rows),
            "F1": _ratio(2 * hits, rows + counts),
            "ROC AUC": [each.roc_auc for each in ranked],
            "PR AUC": [each.pr_auc for each in ranked],
            "ECE": [calibration(*known(truth, probabilities, place))[1] for place in range(len(classes))],
        },
        index=pd.Index(list(classes), dtype=object),
    )


def worst_first(table: pd.DataFrame) -> np.ndarray:
    """Positions in a `class_table` from the lowest F1 to the highest, int64 (C,); of equal ones the one with more rows
    comes first, and classes without any come last."""
    scores = np.where(table["rows"] > 0, table["F1"], np.inf)
    return np.lexsort((-table["rows"], scores))


def calibration(held: np.ndarray, probabilities: np.ndarray) -> tuple[pd.DataFrame, float]:
    """How often what was said with a probability is so, and the expected calibration error: the mean distance between
    the two, over the rows (M. Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015).

    Args:
        held: bool (N,), what is so.
        probabilities: (N,), of that.

    Returns:
        A row per bin that holds any: `said` and `so`, means, and `rows`; and the error, NaN without rows.
    """
    if not len(held):
        return pd.DataFrame({"said": [], "so": [], "rows": []}), float("nan")
    inside = np.clip(probabilities, 0, 1)
    so, said = calibration_curve(held, inside, pos_label=True, n_bins=BINS)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], inside), minlength=BINS)
    table = pd.DataFrame({"said": said, "so": so, "rows": counts[counts > 0]})
    return table, float(np.average((table["said"] - table["so"]).abs(), weights=table["rows"]))


def best_threshold(held: np.ndarray, probabilities: np.ndarray) -> float:
    """From which probability on a decision has the highest F1 on these rows; NaN where none or all are so.

    Args:
        held: bool (N,).
        probabilities: (N,).
    """
    if not held.any() or held.all():
        return float("nan")
    precision, recall, thresholds = precision_recall_curve(held, probabilities)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)[:-1]
    return float(thresholds[f1.argmax()])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
