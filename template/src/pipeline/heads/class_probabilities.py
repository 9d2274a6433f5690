"""Probabilities of classes of which one is true: what is decided, doubted, drawn and handed in.

Everything that is judged of a submission is text, as the grader will read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import as_numbers, label_problems, list_problems, listable, most_listed, number_problems
from pipeline.heads.columns import Aggregate, Column, Columns, label_error_table, probability_columns
from pipeline.submission_schema import Problem
from toolkit.audit.label_errors import worst_first
from toolkit.errors import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from toolkit.plots.images import Texts

SUM_TO_ONE = frozenset({"log_loss", "kl_divergence"})  # their graders refuse rows of probabilities that do not
TOLERANCE = 1e-5  # what they allow a row to miss 1 by


class ClassProbabilities(Columns):
    """A probability for each class, float32, which sum to 1."""

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        """Probabilities that sum to 1. Of two classes, the second one's counts: it is what a metric asks for."""
        found = super().aggregate(predictions, ids, function)
        values = found.to_numpy(np.float64)
        if len(self.head.classes) == 2:
            values = np.column_stack([1 - values[:, 1], values[:, 1]])
        else:
            sums = values.sum(axis=1, keepdims=True)
            values = np.divide(values, sums, out=np.full_like(values, 1 / len(self.head.classes)), where=sums != 0)
        return pd.DataFrame(values.astype(np.float32), index=found.index, columns=found.columns)

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        """Of two classes, the second one's probability decides."""
        return (0.5,) if len(self.head.classes) == 2 else ()

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [predictions[column].to_numpy(np.float64) for column in self.names[1:]]

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = predictions[self.names].to_numpy(np.float64)
        sure = np.take_along_axis(given, decided(given, self.head)[:, None], axis=1)[:, 0]
        return truth[self.head.name].to_numpy(), decided_labels(predictions, self.head), sure

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        return multiclass_figures(truth[self.head.name].to_numpy(), predictions[self.names].to_numpy(), self.head)

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        labels = truth[self.head.name].to_numpy()
        pairs = zip(self.head.classes, self.names, strict=True)
        return {name: (labels == name, predictions[column].to_numpy()) for name, column in pairs}

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """See `doubted_classes`; rows whose truth is probabilities have no label to doubt."""
        numbers = pd.Index(self.head.classes).get_indexer(pd.Index(truth[self.head.name]))
        labelled = numbers >= 0
        given = predictions.loc[labelled, self.names].to_numpy(np.float64)
        found, suggested, scores = doubted_classes(numbers[labelled], given)
        names, index = np.array(self.head.classes, dtype=object), truth.index[labelled][found]
        sure = given[found, suggested]
        return label_error_table(index, names[numbers[labelled][found]], names[suggested], scores, sure)

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        labels = pd.Series(decided_labels(predictions, self.head))
        return labels.value_counts(normalize=True).reindex(list(self.head.classes), fill_value=0.0)

    def single_column(self, metric: Metric) -> str | None:
        """The decided label; with a metric that needs probabilities and two classes, the second one's."""
        second = metric.needs == "probabilities" and len(self.head.classes) == 2 and most_listed(metric) == 1
        return self.head.classes[1] if second else None

    def described(self, column: Column) -> str:
        if column.of is None:
            return f"label of '{self.head.name}', one of {len(self.head.classes)}"
        return f"probability of '{column.of}' in '{self.head.name}'"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """Labels as text, probabilities as float64, (N,) by name of column.

        Probabilities are divided by their sum in float64, since float32 ones miss 1 by more than some graders take;
        where a metric scores them higher cut at a tuned threshold, they are 0 and 1. When the sample asks for some of
        the classes only, those are divided by their own sum if the metric is one whose graders demand it (log loss);
        for any other metric that would change the ranking of rows within a column, so they stay as they are.
        """
        given = predictions[probability_columns(self.head)].to_numpy()
        probabilities = cut(given, self.head) if metric.may_cut and self.head.thresholds else normalized(given)
        asked = [self.head.classes.index(column.of) for column in columns if column.of is not None]
        if len(asked) > 1 and metric.name in SUM_TO_ONE:
            probabilities[:, asked] = normalized(probabilities[:, asked])
        return {
            column.name: _labels(predictions, self.head, most_listed(metric))
            if column.of is None
            else probabilities[:, self.head.classes.index(column.of)]
            for column in columns
        }

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """Predictions, float32 (N,) by column, from a submission's columns by class; a label becomes probability 1."""
        if set(columns) == {None}:
            labels = columns[None].astype(str).to_numpy()
            values = {name: (labels == name).astype(np.float32) for name in self.head.classes}
        elif len(self.head.classes) == 2 and set(columns) == {self.head.classes[1]}:
            second = columns[self.head.classes[1]].to_numpy(np.float32)
            values = {self.head.classes[0]: 1 - second, self.head.classes[1]: second}
        elif set(columns) == set(self.head.classes):
            values = {str(name): column.to_numpy(np.float32) for name, column in columns.items()}
        else:
            return None
        return {f"{self.head.name}:{name}": value for name, value in values.items()}

    def cell_problems(self, name: str, values: pd.Series, column: Column | None, metric: Metric) -> list[Problem]:
        if column is not None and column.of is None:
            most = most_listed(metric)
            known = self.head.classes
            return list_problems(name, values, known, most) if most > 1 else label_problems(name, values, known)
        probability = column is not None or metric.needs == "probabilities"
        whole = not probability and metric.name == "quadratic_weighted_kappa"
        return number_problems(name, values, probability, whole, "" if column is None else metric.name)

    def row_problems(self, table: pd.DataFrame, metric: Metric) -> list[Problem]:
        """Rows that do not sum to 1; told apart: decimals that were lost, and values that never did."""
        if metric.name not in SUM_TO_ONE or len(table.columns) < 2:
            return []
        numbers = table.apply(as_numbers)
        off = (numbers.sum(axis=1) - 1).abs()
        wrong = off[off > TOLERANCE]
        if not len(wrong):
            return []
        decimals = max(_decimals(table[name]) for name in table)
        rounding = len(table.columns) * 0.5 * 10.0**-decimals + 1e-12
        if decimals < 9 and wrong.max() <= rounding:
            remedy = f"only {decimals} decimals were written, write more: to_csv(float_format='%.9g')"
        else:
            remedy = "divide each row by its sum before writing"
        count = f"{len(wrong)} of {len(table)} rows of probabilities"
        return [Problem("sum", f"{count} miss 1 by up to {wrong.max():.2g} (id {listed(wrong.index)}); {remedy}")]


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """The number of the class that is decided for, int64 (N,), given probabilities (N, C).

    It is the most probable one, and of equal ones the first. Of two classes it is the second one where that reaches
    the head's threshold, if the head has one.
    """
    if head.thresholds:
        return (probabilities[:, 1] >= head.thresholds[0]).astype(np.int64)
    best: np.ndarray = probabilities.argmax(axis=1)
    return best


def cut(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """1 for the class that is decided for and 0 for all others, float64 (N, C)."""
    return np.eye(probabilities.shape[1])[decided(probabilities, head)]


def decided_labels(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The class that is decided for in each row, as its name: (N,) of str."""
    best = decided(predictions[probability_columns(head)].to_numpy(np.float64), head)
    return np.asarray(head.classes, dtype=object)[best]


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows (N, C) divided by their sums in float64. A row of zeros becomes uniform, since it prefers no class."""
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1, keepdims=True)
    return np.where(sums > 0, exact / np.where(sums > 0, sums, 1.0), 1.0 / exact.shape[1])


def doubted_classes(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in which another class is more probable than the given one, the least probable given ones first.

    The scores are 1 less the label quality of cleanlab, by self-confidence. Its filters of confident learning list
    fewer rows and miss more errors: of 20 flipped labels in 1,300 rows of a model that is right in 93 % they hold 12 to
    14, where the first 40 here hold 19.

    Args:
        given: class numbers, int64 (N,).
        probabilities: out of fold, float (N, C), finite; they need not sum to 1.

    Returns:
        Positions of suspects, highest score first, the suggested classes and the scores, (M,) each.
    """
    from cleanlab.rank import get_label_quality_scores  # not needed to train

    if not len(given):  # which cleanlab refuses
        return given, given, np.empty(0)
    shares = np.clip(probabilities, 0, None)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(shares.dtype).tiny)
    suggested = shares.argmax(axis=1)
    doubted = shares.max(axis=1) > shares[np.arange(len(given)), given]
    found, scores = worst_first(1 - get_label_quality_scores(given, shares, method="self_confidence"), doubted)
    return found, suggested[found], scores


def multiclass_figures(truth: Texts, probabilities: np.ndarray, head: Head) -> dict[str, Figure]:
    """The pictures of one head, by their names.

    Args:
        truth: (N,) class names.
        probabilities: (N, C); rows that are not finite are left out.
    """
    from toolkit.plots.classes import calibration_figure, class_figures  # which takes a second to import
    from toolkit.plots.confusion_matrix import confusion_matrix_figure
    from toolkit.plots.images import shortened

    there = np.isfinite(probabilities).all(axis=1)
    labels, probabilities = np.asarray(truth, dtype=object)[there], probabilities[there]
    names, said = np.array(head.classes, dtype=object), decided(probabilities, head)
    true = labels[:, None] == names
    figures = {f"confusion_matrix/{head.name}": confusion_matrix_figure(labels, names[said], head.classes)}
    chosen, shown, thresholds = said[:, None] == np.arange(len(names)), slice(None), None
    if len(names) == 2:  # the second one's probability says all
        shown, thresholds = slice(1, None), np.array(head.thresholds or [0.5])
        figures[f"calibration/{head.name}"] = calibration_figure(
            true[:, 1], probabilities[:, 1], f"probability of {shortened(names[1])}"
        )
    else:
        rows = np.arange(len(said))
        figures[f"calibration/{head.name}"] = calibration_figure(
            true[rows, said], probabilities[rows, said], "probability of the class that is decided for"
        )
    return figures | class_figures(
        head.name, true.astype(np.float32), probabilities, chosen, head.classes, shown, thresholds
    )


def _labels(predictions: pd.DataFrame, head: Head, most: int) -> np.ndarray:
    """The decided class of each row, or so many of the most probable ones, best first: (N,) of str."""
    if most == 1:
        return decided_labels(predictions, head)
    listable(head)
    best = np.argsort(-predictions[probability_columns(head)].to_numpy(), axis=1, kind="stable")[:, :most]
    return np.array([" ".join(row) for row in np.asarray(head.classes, dtype=object)[best]], dtype=object)


def _decimals(values: pd.Series) -> int:
    """The most decimals in a column; scientific notation counts its exponent in."""
    parts = values.str.strip().str.extract(r"(?i)^[+-]?\d*\.?(\d*)(?:e([+-]?\d+))?$")
    exponents = pd.to_numeric(parts[1], errors="coerce").fillna(0)
    return int((parts[0].fillna("").str.len() - exponents).max())
