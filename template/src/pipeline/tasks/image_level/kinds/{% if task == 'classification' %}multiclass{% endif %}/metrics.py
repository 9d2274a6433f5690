"""Scores of labels and class probabilities, on whole tables, by scikit-learn.

A score reads the truth (class names as text) and the predictions (probabilities, one column per class).

The formulas are scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from pipeline.competition import Head
from pipeline.errors import UserError, listed, nearest
from pipeline.tasks.image_level.kinds.multiclass.predictions import normalized
from pipeline.tasks.image_level.predictions import probability_columns
from pipeline.tasks.image_level.scoring import Score, finite_predictions, undefined

# (class numbers (N,) int64, probabilities (N, C) float64 with rows summing to 1, head) -> score
Formula = Callable[[np.ndarray, np.ndarray, Head], float]


def _score(formula: Formula, needs: Literal["labels", "probabilities"] = "labels", greater: bool = True) -> Score:
    def function(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> float:
        given = finite_predictions(truth, predictions, head, [head.name], probability_columns(head))
        numbers = class_numbers(truth, head)
        if given is None:
            return float("nan")
        if len(head.classes) < 2:
            return undefined(head, f"there is one class only ({listed(head.classes)})")
        return formula(numbers, normalized(given), head)

    return Score(formula.__name__, function, needs, greater)


def class_numbers(truth: pd.DataFrame, head: Head) -> np.ndarray:
    """The truth of one head as positions in its classes: (N,) int64. A label that is no class is a `UserError`."""
    numbers = pd.Index(head.classes).get_indexer(pd.Index(truth[head.name]))
    if (numbers < 0).any():
        unknown = str(truth[head.name].to_numpy()[numbers < 0][0])
        raise UserError(
            f"column '{head.name}': '{unknown}' is not one of the classes; {nearest(unknown, head.classes)}"
        )
    return numbers.astype(np.int64)


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
        return undefined(head, f"roc_auc needs two classes in the truth, all rows are '{head.classes[present[0]]}'")
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
        return undefined(head, f"kappa needs two grades, all rows are '{head.classes[numbers[0]]}'")
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


SCORES = (
    _score(accuracy),
    _score(balanced_accuracy),
    _score(f1_macro),
    _score(log_loss, needs="probabilities", greater=False),
    _score(roc_auc, needs="probabilities"),
    _score(quadratic_weighted_kappa),
    _score(matthews_corrcoef),
)
