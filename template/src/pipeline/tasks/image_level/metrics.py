"""Scores of labels and class probabilities, on whole tables, by scikit-learn.

A metric reads the truth (class names as text, one column per head) and the predictions (probabilities, one column per
head and class), both indexed by id in the same order. With several heads a score is the mean over the heads. A score
that is not defined is NaN, and a warning says why; it is never a number that looks like a score.

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
    predicted, present = probabilities.argmax(axis=1), np.unique(numbers)
    return float(sk.recall_score(numbers, predicted, labels=present, average="macro"))


def f1_macro(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean F1 over the classes that occur in truth or prediction; one that is never hit counts 0."""
    return float(sk.f1_score(numbers, probabilities.argmax(axis=1), average="macro", zero_division=0))


def f1_micro(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """F1 of all classes' hits and misses together. With one class per row that is the accuracy."""
    return float(sk.f1_score(numbers, probabilities.argmax(axis=1), average="micro"))


def f1_weighted(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean F1 over the classes, each weighted by its rows in the truth; one that is never hit counts 0."""
    return float(sk.f1_score(numbers, probabilities.argmax(axis=1), average="weighted", zero_division=0))


def log_loss(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Mean negative logarithm of the true class's probability, which is clipped to the float64 epsilon from below."""
    return float(sk.log_loss(numbers, probabilities, labels=np.arange(len(head.classes))))


def roc_auc(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Area under the ROC curve; ties count half.

    Two classes: the second one is the positive one. More: each class against the rest, and the plain mean over the
    classes that occur in the truth. NaN when the truth holds one class only.
    """
    return _mean_over_classes(sk.roc_auc_score, "roc_auc", numbers, probabilities, head)


def pr_auc(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """Area under the precision-recall curve as average precision, without interpolation; tied rows enter together.

    Classes are handled as in `roc_auc`. NaN when the truth holds one class only: without positive rows there is no
    recall, and without negative ones every prediction scores 1.
    """
    return _mean_over_classes(sk.average_precision_score, "pr_auc", numbers, probabilities, head)


def _mean_over_classes(
    score: Callable[[np.ndarray, np.ndarray], float],
    name: str,
    numbers: np.ndarray,
    probabilities: np.ndarray,
    head: Head,
) -> float:
    present = np.unique(numbers)
    if len(present) < 2:
        return _undefined(head, f"{name} needs two classes in the truth, all rows are '{head.classes[present[0]]}'")
    positive = present if len(head.classes) > 2 else present[1:]
    return float(np.mean([score(numbers == number, probabilities[:, number]) for number in positive]))


def probabilistic_f1(numbers: np.ndarray, probabilities: np.ndarray, head: Head) -> float:
    """F1 of probabilities that nobody has to cut off: 2 pTP / (sum of p + positive rows), where pTP sums the positive
    rows' p. That is the harmonic mean of the precision pTP / sum of p and the recall pTP / positive rows.

    R. Yacouby and D. Axman, "Probabilistic Extension of Precision, Recall, and F1 Score for More Thorough Evaluation of
    Classification Models", Eval4NLP, 2020. Two classes: the second one is the positive one, and NaN when no row is of
    it. More: each class against the rest, and the plain mean over the classes that occur in the truth.
    """
    positive = np.unique(numbers) if len(head.classes) > 2 else np.array([1])
    true = numbers[:, None] == positive
    if not true.any():
        return _undefined(head, f"probabilistic_f1 needs rows of '{head.classes[1]}', all are '{head.classes[0]}'")
    given = probabilities[:, positive]
    return float(np.mean(2 * (given * true).sum(axis=0) / (given.sum(axis=0) + true.sum(axis=0))))


def mean_average_precision_at_k(numbers: np.ndarray, probabilities: np.ndarray, head: Head, *, k: int) -> float:
    """Mean of 1 / rank of the true class among the `k` most probable ones, 0 where it is not among them.

    With one true class per row that is the mean average precision at k; of equally probable classes, the first in class
    order comes first. For another k: `Metric("map_at_7", mean_over_heads(partial(mean_average_precision_at_k, k=7)),
    needs="probabilities")`.
    """
    true = probabilities[np.arange(len(numbers)), numbers][:, None]
    earlier = np.arange(probabilities.shape[1]) < numbers[:, None]
    rank = 1 + ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)
    return float(np.where(rank <= k, 1 / rank, 0.0).mean())


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
    with warnings.catch_warnings():  # about the shape of a table that nobody sees
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(sk.matthews_corrcoef(numbers, probabilities.argmax(axis=1)))


def _undefined(head: Head, reason: str) -> float:
    warnings.warn(f"head '{head.name}': {reason}; the score is NaN", UndefinedMetricWarning, stacklevel=2)
    return float("nan")


def _metric(
    score: HeadScore, needs: Literal["labels", "probabilities"] = "labels", greater: bool = True, name: str = ""
) -> Metric:
    return Metric(name or score.__name__, mean_over_heads(score), greater_is_better=greater, needs=needs)


METRICS = {
    metric.name: metric
    for metric in (
        _metric(accuracy),
        _metric(balanced_accuracy),
        _metric(f1_macro),
        _metric(f1_micro),
        _metric(f1_weighted),
        _metric(log_loss, needs="probabilities", greater=False),
        _metric(roc_auc, needs="probabilities"),
        _metric(pr_auc, needs="probabilities"),
        _metric(quadratic_weighted_kappa),
        _metric(matthews_corrcoef),
        _metric(probabilistic_f1, needs="probabilities"),
        _metric(partial(mean_average_precision_at_k, k=3), needs="probabilities", name="map_at_3"),
        _metric(partial(mean_average_precision_at_k, k=5), needs="probabilities", name="map_at_5"),
    )
}
