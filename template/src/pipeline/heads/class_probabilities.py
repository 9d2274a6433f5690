"""Probabilities of classes of which one is true: what is decided, doubted, drawn and handed in."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import as_numbers, label_problems, list_problems, listable
from pipeline.heads.columns import (
    Aggregate,
    Column,
    Columns,
    Figures,
    class_numbers,
    frequencies,
    label_error_table,
)
from pipeline.submission_schema import Problem
from toolkit.audit.label_errors import worst_first
from toolkit.errors import listed

SUM_TO_ONE = frozenset({"log_loss", "kl_divergence"})  # their graders refuse rows of probabilities that do not
TOLERANCE = 1e-5  # what they allow a row to miss 1 by


class ClassProbabilities(Columns):
    """A probability for each class, float32, which sum to 1."""

    answers = "class"

    def targets(self, truth: pd.DataFrame) -> np.ndarray:
        if self.names[0] in truth:  # how probable each class is
            return super().targets(truth)
        numbers = class_numbers(truth, self.head)
        return np.where(numbers[:, None] < 0, np.nan, np.eye(len(self.head.classes))[numbers])

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

    def pseudo_labels(self, predictions: pd.DataFrame, above: float, soft: bool) -> pd.DataFrame:
        given = predictions[self.names]
        labels = given[self.names if soft else []].assign(**{self.head.name: self._decided(predictions)})
        return labels[given.max(axis=1) >= above].reindex(given.index)

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        """Of two classes, the second one's probability decides."""
        return (0.5,) if len(self.head.classes) == 2 else ()

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return super().thresholded(predictions)[1:]

    def dense(self, predictions: pd.DataFrame) -> np.ndarray:
        """The probabilities of all classes, (N, classes)."""
        return predictions[self.names].to_numpy()

    def best(self, predictions: pd.DataFrame, most: int) -> np.ndarray:
        """Positions of the most probable classes, the best first, int64 (N, most); with 1 of those decided for."""
        if most == 1:
            return decided(predictions[self.names].to_numpy(np.float64), self.head)[:, None]
        return np.argsort(-predictions[self.names].to_numpy(), axis=1, kind="stable")[:, :most]

    def _decided(self, predictions: pd.DataFrame) -> np.ndarray:
        """The class that is decided for in each row, as its name: (N,) of str."""
        return np.asarray(self.head.classes, dtype=object)[self.best(predictions, 1)[:, 0]]

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = predictions[self.names].to_numpy(np.float64)
        sure = np.take_along_axis(given, decided(given, self.head)[:, None], axis=1)[:, 0]
        return truth[self.head.name].to_numpy(), self._decided(predictions), sure

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        """Confusion matrix, calibration and curves; rows whose probabilities are not finite are left out."""
        from toolkit.plots.classes import calibration_figure, class_figures
        from toolkit.plots.confusion_matrix import confusion_matrix_figure
        from toolkit.plots.images import shortened

        head, names = self.head, np.array(self.head.classes, dtype=object)
        given = predictions[self.names].to_numpy()
        finite = np.isfinite(given).all(axis=1)
        labels, given = truth[head.name].to_numpy(object)[finite], given[finite]
        numbers, true = decided(given, head), labels[:, None] == names
        mask, subset, thresholds = numbers[:, None] == np.arange(len(names)), slice(None), None
        calibrated = true[mask], given[mask], "probability of the class that is decided for"
        if len(names) == 2:  # the second one's probability says all
            subset, thresholds = slice(1, None), np.array(head.thresholds or [0.5])
            calibrated = true[:, 1], given[:, 1], f"probability of {shortened(names[1])}"
        return {
            f"confusion_matrix/{head.name}": partial(confusion_matrix_figure, labels, names[numbers], head.classes),
            f"calibration/{head.name}": partial(calibration_figure, *calibrated),
            **class_figures(head.name, true.astype(np.float32), given, mask, head.classes, subset, thresholds),
        }

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        labels = truth[self.head.name].to_numpy()
        pairs = zip(self.head.classes, self.names, strict=True)
        return {name: (labels == name, predictions[column].to_numpy()) for name, column in pairs}

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """See `doubted_classes`; rows whose truth is probabilities have no label to doubt."""
        names = np.array(self.head.classes, dtype=object)
        numbers = pd.Index(names).get_indexer(pd.Index(truth[self.head.name]))
        labelled = numbers >= 0
        given, numbers = predictions.loc[labelled, self.names].to_numpy(np.float64), numbers[labelled]
        found, suggested, scores = doubted_classes(numbers, given)
        index, sure = truth.index[labelled][found], given[found, suggested]
        return label_error_table(index, names[numbers[found]], names[suggested], scores, sure)

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        return frequencies(self._decided(predictions), self.head.classes)

    def single_column(self, metric: Metric) -> str | None:
        """The decided label; with a metric that needs probabilities and two classes, the second one's."""
        second = metric.needs == "probabilities" and len(self.head.classes) == 2 and metric.top_k == 1
        return self.head.classes[1] if second else None

    def described(self, column: Column) -> str:
        if column.of is None:
            return f"label of '{self.head.name}', one of {len(self.head.classes)}"
        return f"probability of '{column.of}' in '{self.head.name}'"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """Labels as text, probabilities as float64, (N,) by name of column: 0 and 1 where the metric is better for it.

        Where the sample asks for some classes only, those are divided by their own sum if the metric's graders demand
        it (log loss); for any other that would change the ranking of rows within a column.
        """
        found = {column.name: self._listed(predictions, metric.top_k) for column in columns if column.of is None}
        asked = {column.name: self.head.classes.index(column.of) for column in columns if column.of is not None}
        if asked:
            given = self.dense(predictions)
            values = cut(given, self.head) if metric.may_cut and self.head.thresholds else normalized(given)
            values = values[:, list(asked.values())]
            if len(asked) > 1 and metric.name in SUM_TO_ONE:
                values = normalized(values)
            found |= dict(zip(asked, values.T, strict=True))
        return found

    def _listed(self, predictions: pd.DataFrame, most: int) -> np.ndarray:
        best = np.asarray(self.head.classes, dtype=object)[self.best(predictions, most)]
        if most == 1:
            return best[:, 0]
        listable(self.head)
        return np.array([" ".join(row) for row in best], dtype=object)

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """Predictions, float32 (N,) by column; a label becomes probability 1."""
        classes = self.head.classes
        if set(columns) == {None}:
            labels = columns[None].astype(str)
            columns = {name: labels == name for name in classes}
        elif len(classes) == 2 and set(columns) == {classes[1]}:
            columns = {classes[0]: 1 - columns[classes[1]].astype(np.float32), **columns}
        return super().read(columns)

    def cell_problems(self, name: str, values: pd.Series, column: Column, metric: Metric) -> list[Problem]:
        if column.of is not None:
            return super().cell_problems(name, values, column, metric)
        most, known = metric.top_k, self.head.classes
        return list_problems(name, values, known, most) if most > 1 else label_problems(name, values, known)

    def row_problems(self, table: pd.DataFrame, metric: Metric) -> list[Problem]:
        """Rows that do not sum to 1."""
        if metric.name not in SUM_TO_ONE or len(table.columns) < 2:
            return []
        off = (table.apply(as_numbers).sum(axis=1) - 1).abs()
        wrong = off[off > TOLERANCE]
        text = (
            f"{len(wrong)} of {len(table)} rows of probabilities miss 1 by up to {wrong.max():.2g} "
            f"(id {listed(wrong.index)}); divide each row by its sum, and write all decimals: float_format='%.9g'"
        )
        return [Problem("sum", text)] if len(wrong) else []


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """The number of the class that is decided for, int64 (N,), given probabilities (N, C): the most probable one, of
    equal ones the first; with a threshold, the second of two where it reaches that."""
    if head.thresholds:
        return (probabilities[:, 1] >= head.thresholds[0]).astype(np.int64)
    best: np.ndarray = probabilities.argmax(axis=1)
    return best


def cut(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """1 for the class that is decided for and 0 for all others, float64 (N, C)."""
    return np.eye(probabilities.shape[1])[decided(probabilities, head)]


def normalized(probabilities: np.ndarray) -> np.ndarray:
    """Rows (N, C) divided by their sums in float64. A row of zeros becomes uniform, since it prefers no class."""
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1, keepdims=True)
    return np.where(sums > 0, exact / np.where(sums > 0, sums, 1.0), 1.0 / exact.shape[1])


def doubted_classes(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in which another class is more probable, float (N, C), than the given one, int64 (N,): their positions, the
    suggested classes and the scores, (M,) each, highest score first.

    The scores are 1 less cleanlab's label quality by self-confidence: of 20 flipped labels in 1,300 rows of a model
    that is right in 93 % the first 40 hold 19, and its filters of confident learning 12 to 14.
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
