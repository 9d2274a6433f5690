"""Scores of label probabilities, on whole tables, by scikit-learn.

A score reads the truth (0 or 1) and the predictions (probabilities), both with one column `head:label` per label. What
needs a decision takes the labels that reach their thresholds.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head, Metric
from pipeline.heads.columns import probability_columns
from pipeline.heads.label_probabilities import decided
from pipeline.metrics import undefined
from pipeline.metrics.scoring import finite_predictions, score
from toolkit.errors import UserError, nearest


def _arrays(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, np.ndarray] | None:
    """Truth (N, labels) of bool, and probabilities (N, labels) float64."""
    columns = probability_columns(head)
    given = finite_predictions(truth, predictions, head, columns, columns)
    return None if given is None else (truth[columns].to_numpy() >= 0.5, given)


_score = partial(score, _arrays)


def roc_auc(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the labels of the area under the ROC curve. A label that holds for all rows or for none has no curve
    and is left out; NaN when that leaves none."""
    mixed = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(mixed):
        return undefined(head, "roc_auc needs a label that holds for some rows and not for others")
    return float(np.mean([sk.roc_auc_score(truth[:, label], probabilities[:, label]) for label in mixed]))


def f_score(beta: float, average: Literal["micro", "macro", "samples"]) -> Metric:
    """`(1 + beta^2) P R / (beta^2 P + R)`, P the precision and R the recall: of all cells at once (`micro`), the mean
    over the labels that are true or predicted somewhere (`macro`), or the mean over the rows, where one without labels
    that is given none counts 1 (`samples`). NaN when no label is true and none is predicted, but for `samples`.
    """
    name, axis = f"f{beta:g}_{average}", {"micro": None, "macro": 0, "samples": 1}[average]

    def formula(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
        said = decided(probabilities, head)
        hits = (1 + beta**2) * np.asarray((truth & said).sum(axis=axis))
        total = np.asarray(beta**2 * truth.sum(axis=axis) + said.sum(axis=axis))
        if average == "samples":
            return float(np.where(total > 0, hits / np.maximum(total, 1), 1.0).mean())
        if not total.any():
            return undefined(head, f"{name} needs a label that is true or predicted")
        return float((hits[total > 0] / total[total > 0]).mean())

    return _score(name, formula, "labels")


def label_ranking_ap(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean over the rows of the average precision of their labels, ranked by probability; rows without labels, or with
    all of them, count 1 (Schapire and Singer, Machine Learning 39, 2000)."""
    if truth.shape[1] < 2:
        return undefined(head, "label_ranking_ap needs two labels to rank")
    return float(sk.label_ranking_average_precision_score(truth, probabilities))


def log_loss(weights: Mapping[str, float] | None = None) -> Metric:
    """Mean over the labels of the binary log loss, with the `weights` of some labels, 1 for the others; probabilities
    are clipped to the float64 epsilon at both ends."""
    given = weights or {}

    def formula(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
        for label in given:
            if label not in head.classes:
                hint = nearest(label, head.classes)
                raise UserError(f"log_loss weights '{label}', no label of '{head.name}'; {hint}")
        pairs = zip(truth.T, probabilities.T, strict=True)
        each = [sk.log_loss(true, said, labels=[False, True]) for true, said in pairs]
        return float(np.average(each, weights=[given.get(label, 1.0) for label in head.classes]))

    return _score("log_loss", formula, greater=False)


SCORES = (
    _score("roc_auc", roc_auc),
    f_score(1, "micro"),
    f_score(1, "macro"),
    f_score(1, "samples"),
    _score("label_ranking_ap", label_ranking_ap),
    log_loss(),
)
