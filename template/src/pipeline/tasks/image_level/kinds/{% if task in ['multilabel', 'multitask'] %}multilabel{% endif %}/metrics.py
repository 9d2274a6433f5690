"""Scores of label probabilities, on whole tables, by scikit-learn.

A score reads the truth (0 or 1) and the predictions (probabilities), both with one column `head:label` per label. What
needs a decision takes the labels that reach their thresholds.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head
from pipeline.tasks.image_level.kinds.multilabel.decisions import decided
from pipeline.tasks.image_level.predictions import probability_columns
from pipeline.tasks.image_level.scoring import Score, finite_predictions, undefined

# (truth (N, labels) of bool, probabilities (N, labels) float64, head) -> score
Formula = Callable[[np.ndarray, np.ndarray, Head], float]


def _score(formula: Formula, needs: Literal["labels", "probabilities"], greater: bool = True) -> Score:
    def function(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> float:
        columns = probability_columns(head)
        given = finite_predictions(truth, predictions, head, columns, columns)
        if given is None:
            return float("nan")
        return formula(truth[columns].to_numpy() >= 0.5, given, head)

    return Score(formula.__name__, function, needs, greater)


def roc_auc(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the labels of the area under the ROC curve; ties count half.

    A label that holds for all rows or for none has no curve and is left out. NaN when that leaves none.
    """
    mixed = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(mixed):
        return undefined(head, "roc_auc needs a label that holds for some rows and not for others")
    return float(np.mean([sk.roc_auc_score(truth[:, label], probabilities[:, label]) for label in mixed]))


def f1_micro(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """F1 of all cells at once. NaN when no label is true and none is predicted."""
    said = decided(probabilities, head)
    if not (truth | said).any():
        return undefined(head, "f1_micro needs a label that is true or predicted")
    return float(2 * (truth & said).sum() / (truth.sum() + said.sum()))


def f1_macro(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean F1 over the labels that are true or predicted somewhere; one that is never hit counts 0."""
    said = decided(probabilities, head)
    used = (truth | said).any(axis=0)
    if not used.any():
        return undefined(head, "f1_macro needs a label that is true or predicted")
    both, either = 2 * (truth & said).sum(axis=0), truth.sum(axis=0) + said.sum(axis=0)
    return float((both[used] / either[used]).mean())


def f1_samples(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean F1 over the rows; one without labels that is given none counts 1."""
    said = decided(probabilities, head)
    both, either = 2 * (truth & said).sum(axis=1), truth.sum(axis=1) + said.sum(axis=1)
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())


def label_ranking_ap(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the rows of the average precision of their labels, ranked by probability; rows without labels, or with
    all of them, count 1 (Schapire and Singer, Machine Learning 39, 2000)."""
    if truth.shape[1] < 2:
        return undefined(head, "label_ranking_ap needs two labels to rank")
    return float(sk.label_ranking_average_precision_score(truth, probabilities))


def log_loss(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the labels of the binary log loss; probabilities are clipped to the float64 epsilon at both ends."""
    each = [
        sk.log_loss(truth[:, label], probabilities[:, label], labels=[False, True]) for label in range(truth.shape[1])
    ]
    return float(np.mean(each))


SCORES = (
    _score(roc_auc, "probabilities"),
    _score(f1_micro, "labels"),
    _score(f1_macro, "labels"),
    _score(f1_samples, "labels"),
    _score(label_ranking_ap, "probabilities"),
    _score(log_loss, "probabilities", greater=False),
)
