"""Scores of label probabilities, on whole tables, by scikit-learn.

A score reads the truth (0 or 1) and the predictions (probabilities), both with one column `head:label` per label. What
needs a decision takes the labels that reach their thresholds.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head
from pipeline.heads.columns import probability_columns
from pipeline.heads.label_probabilities import decided
from pipeline.metrics import undefined
from pipeline.metrics.scoring import Score, finite_predictions
from toolkit.errors import UserError, nearest

# (truth (N, labels) of bool, probabilities (N, labels) float64, head) -> score
Formula = Callable[[np.ndarray, np.ndarray, Head], float]


def _score(formula: Formula, needs: Literal["labels", "probabilities"], greater: bool = True, name: str = "") -> Score:
    def function(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> float:
        columns = probability_columns(head)
        given = finite_predictions(truth, predictions, head, columns, columns)
        if given is None:
            return float("nan")
        return formula(truth[columns].to_numpy() >= 0.5, given, head)

    return Score(name or formula.__name__, function, needs, greater)


def roc_auc(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the labels of the area under the ROC curve; ties count half.

    A label that holds for all rows or for none has no curve and is left out. NaN when that leaves none.
    """
    mixed = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(mixed):
        return undefined(head, "roc_auc needs a label that holds for some rows and not for others")
    return float(np.mean([sk.roc_auc_score(truth[:, label], probabilities[:, label]) for label in mixed]))


def f_score(beta: float, average: Literal["micro", "macro", "samples"]) -> Score:
    """`(1 + beta^2) P R / (beta^2 P + R)`, P the precision and R the recall: of all cells at once (`micro`), the mean
    over the labels that are true or predicted somewhere (`macro`), or the mean over the rows, where one without labels
    that is given none counts 1 (`samples`). NaN when no label is true and none is predicted, but for `samples`.
    """
    axis = {"micro": None, "macro": 0, "samples": 1}[average]

    def formula(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
        said = decided(probabilities, head)
        hits = (1 + beta**2) * np.asarray((truth & said).sum(axis=axis))
        total = np.asarray(beta**2 * truth.sum(axis=axis) + said.sum(axis=axis))
        if average == "samples":
            return float(np.where(total > 0, hits / np.maximum(total, 1), 1.0).mean())
        used = total > 0
        if not used.any():
            return undefined(head, f"f{beta:g}_{average} needs a label that is true or predicted")
        return float((hits[used] / total[used]).mean())

    return _score(formula, "labels", name=f"f{beta:g}_{average}")


def label_ranking_ap(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the rows of the average precision of their labels, ranked by probability; rows without labels, or with
    all of them, count 1 (Schapire and Singer, Machine Learning 39, 2000)."""
    if truth.shape[1] < 2:
        return undefined(head, "label_ranking_ap needs two labels to rank")
    return float(sk.label_ranking_average_precision_score(truth, probabilities))


def log_loss(weights: Mapping[str, float] | None = None) -> Score:
    """Mean over the labels of the binary log loss; probabilities are clipped to the float64 epsilon at both ends.

    Args:
        weights: of some labels in that mean; 1 for the others.
    """

    def formula(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
        columns = range(truth.shape[1])
        each = [sk.log_loss(truth[:, label], probabilities[:, label], labels=[False, True]) for label in columns]
        for label in weights or {}:
            if label not in head.classes:
                raise UserError(
                    f"log_loss weights '{label}', no label of '{head.name}'; {nearest(label, head.classes)}"
                )
        return float(np.average(each, weights=[(weights or {}).get(label, 1.0) for label in head.classes]))

    return _score(formula, "probabilities", greater=False, name="log_loss")


SCORES = (
    _score(roc_auc, "probabilities"),
    f_score(1, "micro"),
    f_score(1, "macro"),
    f_score(1, "samples"),
    _score(label_ranking_ap, "probabilities"),
    log_loss(),
)
