"""Scores of labels and class probabilities, on whole tables of truth (class names as text) and probabilities.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head, Metric
from pipeline.heads.class_probabilities import cut, decided, normalized
from pipeline.heads.columns import class_numbers, probability_columns
from pipeline.heads.many_classes import KEPT, MANY, BestClasses
from pipeline.metrics import undefined
from pipeline.metrics.scoring import finite_predictions, grade_kappa, score
from toolkit.errors import UserError, listed

Arrays = tuple[np.ndarray, np.ndarray] | None  # class numbers (N,) int64, probabilities (N, C) float64


def _as_given(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> Arrays:
    given = finite_predictions(truth, predictions, head, [head.name], probability_columns(head))
    numbers = class_numbers(truth, head)
    if given is not None and len(head.classes) < 2:
        undefined(head, f"there is one class only ({listed(head.classes)})")
        return None
    return None if given is None else (numbers, given)


def _normalized(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> Arrays:
    """Of many classes the kept ones of each row and one for any other, and the places of the true ones among those."""
    if len(head.classes) > MANY:
        columns = BestClasses(head)
        given = finite_predictions(truth, predictions, head, [head.name], columns.names[KEPT:])
        return None if given is None else columns.shares_at(class_numbers(truth, head), predictions)
    found = _as_given(truth, predictions, head)
    return None if found is None else (found[0], normalized(found[1]))


def _decided(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> Arrays:
    """The class numbers of the truth, and those that are decided for, int64 (N,)."""
    found = _normalized(truth, predictions, head)
    if found is not None and len(head.classes) > MANY:
        return class_numbers(truth, head), BestClasses(head).best(predictions, 1)[:, 0]
    return None if found is None else (found[0], decided(found[1], head))


def _require_all(heads: Sequence[Head]) -> None:
    """Raise a `UserError` where not the probability of every class is kept."""
    for head in [head for head in heads if len(head.classes) > MANY]:
        raise UserError(
            f"'{head.name}' has {len(head.classes)} classes, and the best {KEPT} of each row are kept: no metric that "
            "needs them all (areas, kappa, MCC, pF1, KL) can be had; choose accuracy, f1_macro, log_loss or map_at_5"
        )


_score = partial(score, _normalized)
_of_all = partial(score, _normalized, check_heads=_require_all)


def _of_decision(name: str, function: Callable[..., float], matrix: bool = False, **params: Any) -> Metric:
    """A score of scikit-learn's that compares class numbers: the true ones, and those that are decided for, maybe by a
    matrix of all classes."""

    def formula(numbers: np.ndarray, said: np.ndarray, head: Head) -> float:
        with warnings.catch_warnings():  # about the shape of a table that nobody sees
            warnings.filterwarnings("ignore", message="A single label was found")
            return float(function(numbers, said, **params))

    return score(_decided, name, formula, "labels", check_heads=_require_all if matrix else lambda heads: None)


def log_loss(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean of `-log p` of the true class; probabilities are clipped to the float64 epsilon from below. Of many classes,
    what the kept ones leave of 1 is spread evenly over the others, so a class that is not kept costs about as much."""
    if len(head.classes) > MANY:
        true = probabilities[np.arange(len(numbers)), numbers]
        return float(-np.log(true.clip(np.finfo(np.float64).eps, 1)).mean())
    return float(sk.log_loss(numbers, probabilities, labels=np.arange(len(head.classes))))


def _one_vs_rest(name: str, area: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    """The area under a curve of scikit-learn's: of two classes, the second one's; of more, the mean over those that
    occur in the truth, each against the rest. NaN when the truth holds one class only."""

    def formula(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
        present = np.unique(numbers)
        if len(present) < 2:
            return undefined(head, f"{name} needs two classes in the truth, all rows are '{head.classes[present[0]]}'")
        positive = present if len(head.classes) > 2 else present[1:]
        return float(np.mean([area(numbers == number, probabilities[:, number]) for number in positive]))

    return _of_all(name, formula)


def probabilistic_f1(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """F1 of probabilities: 2 pTP / (sum of p + positive rows), where pTP sums the positive rows' p (Yacouby and Axman,
    Eval4NLP, 2020); 0 and 1 beyond a threshold score more than honest probabilities. Of two classes, that of the second
    one, NaN when no row is of it; of more, the mean over those that occur in the truth."""
    positive = np.unique(numbers) if len(head.classes) > 2 else np.array([1])
    true = numbers[:, None] == positive
    if not true.any():
        return undefined(head, f"probabilistic_f1 needs rows of '{head.classes[1]}', all are '{head.classes[0]}'")
    given = (cut(probabilities, head) if head.thresholds else normalized(probabilities))[:, positive]
    return float(np.mean(2 * (given * true).sum(axis=0) / (given.sum(axis=0) + true.sum(axis=0))))


def mean_average_precision_at_k(numbers: np.ndarray, probabilities: np.ndarray, head: Head, *, k: int) -> float:
    """Mean of 1 / rank of the true class among the `k` most probable ones, 0 where it is not among them; of equally
    probable classes, the first in class order comes first."""
    true = probabilities[np.arange(len(numbers)), numbers][:, None]
    earlier = np.arange(probabilities.shape[1]) < numbers[:, None]
    rank = 1 + ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)
    return float(np.where(rank <= k, 1 / rank, 0.0).mean())


def kl_divergence(true: np.ndarray, predicted: np.ndarray, head: Head) -> float:
    """Mean over the rows of `sum_c t_c log(t_c / p_c)` (Kullback and Leibler, Annals of Mathematical Statistics 22,
    1951), where p is clipped to 1e-15 from below, as in Kaggle's metric of that name. It is 0 at best."""
    predicted = np.clip(predicted, 1e-15, None)
    return float((true * np.log(np.where(true > 0, true, predicted) / predicted)).sum(axis=1).mean())


def _shares(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> Arrays:
    """The probabilities that the truth gives, or 1 for its label, and those that are predicted, float64 (N, C)."""
    columns = probability_columns(head)
    given = finite_predictions(truth, predictions, head, [head.name], columns)
    if given is None:
        return None
    true = truth.reindex(columns=columns).to_numpy(np.float64, copy=True)
    labelled = np.isnan(true).any(axis=1)
    true[labelled] = np.eye(len(columns))[class_numbers(truth[labelled], head)]
    return true, normalized(given)


SCORES = (
    score(_shares, "kl_divergence", kl_divergence, greater=False, check_heads=_require_all),
    _of_decision("accuracy", sk.accuracy_score),
    # The mean over the classes that occur in the truth; scikit-learn's own warns of those that do not.
    _of_decision(
        "balanced_accuracy",
        lambda true, said: sk.recall_score(true, said, labels=np.unique(true), average="macro"),
    ),
    # A class that is never hit counts 0; with one class per row f1_micro is the accuracy.
    _of_decision("f1_macro", sk.f1_score, average="macro", zero_division=0),
    _of_decision("f1_micro", sk.f1_score, average="micro"),
    _of_decision("f1_weighted", sk.f1_score, average="weighted", zero_division=0),
    _score("log_loss", log_loss, greater=False),
    _one_vs_rest("roc_auc", sk.roc_auc_score),
    _one_vs_rest("pr_auc", sk.average_precision_score),
    score(_decided, "quadratic_weighted_kappa", grade_kappa, "labels", check_heads=_require_all),
    # By convention 0 when the truth or the prediction is one class only (Gorodkin, 2004).
    _of_decision("matthews_corrcoef", sk.matthews_corrcoef, matrix=True),
    score(_as_given, "probabilistic_f1", probabilistic_f1, may_cut=True, check_heads=_require_all),
    _score("map_at_3", partial(mean_average_precision_at_k, k=3), top_k=3),
    _score("map_at_5", partial(mean_average_precision_at_k, k=5), top_k=5),
)
