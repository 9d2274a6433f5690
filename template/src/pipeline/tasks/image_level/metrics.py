"""Scores of labels and class probabilities, on whole tables, by scikit-learn.

A metric reads the truth (class names as text, one column per head) and the predictions (probabilities, one column per
head and class), both indexed by id in the same order. With several heads a score is the mean over the heads. A score
that is not defined is NaN, and a warning says why; it is never a number that looks like a score.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

from pipeline.competition import Head, Metric
from pipeline.errors import UserError, listed, nearest
from pipeline.tasks.image_level.predictions import probability_columns

# (class numbers (N,) int64, probabilities (N, C) float64 with rows summing to 1, head) -> score
HeadScore = Callable[[np.ndarray, np.ndarray, Head], float]


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UserError: there is none; the nearest one is named.
    """
    if name not in METRICS:
        raise UserError(
            f"unknown metric '{name}' (metric in competition.yaml); {nearest(name, METRICS)} "
            "A metric of your own goes into src/competition/metric.py"
        )
    return METRICS[name]


def mean_over_heads(score: HeadScore) -> Callable[[pd.DataFrame, pd.DataFrame, Sequence[Head]], float]:
    """A metric's function from the score of one head: the plain mean over the heads.

    Raises:
        UserError: the tables are not in the same order, a column is missing, or a label is not a class of its head.
    """

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        return float(np.mean([_score_head(score, truth, predictions, head) for head in heads]))

    return function


def _score_head(score: HeadScore, truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> float:
    numbers = class_numbers(truth, predictions, head)
    given = predictions[probability_columns(head.name, head.classes)].to_numpy(np.float64)
    broken = ~np.isfinite(given).all(axis=1)
    if not len(given):
        return _undefined(head, "there are no rows")
    if len(head.classes) < 2:
        return _undefined(head, f"there is one class only ({listed(head.classes)})")
    if broken.any():
        return _undefined(
            head, f"{broken.sum()} rows of the predictions are not finite ({listed(truth.index[broken])})"
        )
    return score(numbers, normalized(given), head)


def class_numbers(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The truth of one head as positions in its classes: (N,) int64. The tables and the labels are checked."""
    missing = [c for c in probability_columns(head.name, head.classes) if c not in predictions]
    if head.name not in truth or missing:
        what = f"truth has no column '{head.name}'" if not missing else f"predictions have no column '{missing[0]}'"
        raise UserError(f"the {what}; the classes or target columns changed: predict again")
    if not truth.index.equals(predictions.index):
        raise UserError(
            "truth and predictions do not hold the same ids in the same order; use predictions.loc[truth.index]"
        )
    numbers = pd.Index(head.classes).get_indexer(pd.Index(truth[head.name]))
    if (numbers < 0).any():
        unknown = str(truth[head.name].to_numpy()[numbers < 0][0])
        raise UserError(
            f"column '{head.name}': '{unknown}' is not one of the classes; {nearest(unknown, head.classes)}"
        )
    return numbers.astype(np.int64)


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows (N, C) divided by their sums in float64. A row of zeros becomes uniform, since it prefers no class."""
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1, keepdims=True)
    return np.where(sums > 0, exact / np.where(sums > 0, sums, 1.0), 1.0 / exact.shape[1])


def accuracy(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Share of rows whose most probable class is the true one; of equal ones, the first in class order."""
    return float(sk.accuracy_score(numbers, probabilities.argmax(axis=1)))


def balanced_accuracy(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean recall over the classes that occur in the truth."""
    with warnings.catch_warnings():  # a class that is predicted but never true is nothing to warn about here
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        return float(sk.balanced_accuracy_score(numbers, probabilities.argmax(axis=1)))


def f1_macro(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean F1 over the classes that occur in truth or prediction; one that is never hit counts 0."""
    return float(sk.f1_score(numbers, probabilities.argmax(axis=1), average="macro", zero_division=0))


def log_loss(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean negative logarithm of the true class's probability, which is clipped to the float64 epsilon from below."""
    return float(sk.log_loss(numbers, probabilities, labels=np.arange(len(head.classes))))


def roc_auc(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Area under the ROC curve; ties count half.

    Two classes: the second one is the positive one. More: each class against the rest, and the plain mean over the
    classes that occur in the truth. NaN when the truth holds one class only.
    """
    present = np.unique(numbers)
    if len(present) < 2:
        return _undefined(head, f"roc_auc needs two classes in the truth, all rows are '{head.classes[present[0]]}'")
    if len(head.classes) == 2:
        return float(sk.roc_auc_score(numbers, probabilities[:, 1]))
    return float(np.mean([sk.roc_auc_score(numbers == number, probabilities[:, number]) for number in present]))


def quadratic_weighted_kappa(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Cohen's kappa with squared distances between grades: J. Cohen, "Weighted kappa", Psychological Bulletin, 1968.

    Grades are the classes themselves where all are whole numbers (a gap counts as distance), else their positions in
    class order. NaN when truth and prediction are one and the same single grade.
    """
    predicted = probabilities.argmax(axis=1)
    if len(np.unique(np.concatenate([numbers, predicted]))) < 2:
        return _undefined(head, f"kappa needs two grades, all rows are '{head.classes[numbers[0]]}'")
    grades = _grades(head)
    labels = np.arange(grades.min(), grades.max() + 1)
    return float(sk.cohen_kappa_score(grades[numbers], grades[predicted], labels=labels, weights="quadratic"))


def _grades(head: Head) -> np.ndarray:
    try:
        values = np.array([int(name) for name in head.classes])
    except ValueError:
        return np.arange(len(head.classes))
    # Far apart they are codes rather than grades, and a matrix over their range would not fit into memory.
    return values if np.ptp(values) < 1000 else np.arange(len(head.classes))


def matthews_corrcoef(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Correlation of truth and prediction, for several classes by J. Gorodkin, "Comparing two K-category assignments
    by a K-category correlation coefficient", 2004. By convention 0 when either of the two is one class only."""
    return float(sk.matthews_corrcoef(numbers, probabilities.argmax(axis=1)))


def _undefined(head: Head, reason: str) -> float:
    warnings.warn(f"head '{head.name}': {reason}; the score is NaN", UndefinedMetricWarning, stacklevel=2)
    return float("nan")


def _metric(score: HeadScore, needs: Literal["labels", "probabilities"] = "labels", greater: bool = True) -> Metric:
    return Metric(score.__name__, mean_over_heads(score), greater_is_better=greater, needs=needs)


METRICS = {
    metric.name: metric
    for metric in (
        _metric(accuracy),
        _metric(balanced_accuracy),
        _metric(f1_macro),
        _metric(log_loss, needs="probabilities", greater=False),
        _metric(roc_auc, needs="probabilities"),
        _metric(quadratic_weighted_kappa),
        _metric(matthews_corrcoef),
    )
}
