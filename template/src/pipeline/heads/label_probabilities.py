"""Probabilities of labels, each a question of its own: what is decided, doubted, drawn and handed in.

Everything that is judged of a submission is text, as the grader will read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import label_problems, list_problems, number_problems
from pipeline.heads.columns import Column, Columns, label_error_table, probability_columns
from pipeline.heads.label_lists import SPACES, ListForm, form_for, read_list
from pipeline.submission_schema import Problem
from toolkit.audit.label_errors import worst_first
from toolkit.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = 0.5


class LabelProbabilities(Columns):
    """A probability for each label, float32: in a submission a column per label, its probability or 0 and 1, or one
    that lists the labels."""

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        return (USUAL,) * len(self.head.classes)

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [predictions[column].to_numpy(np.float64) for column in self.names]

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists of labels; how sure: the probability of the whole list, the labels taken as independent."""
        probabilities = predictions[self.names].to_numpy()
        held = decided(probabilities, self.head)
        sure = np.where(held, probabilities, 1 - probabilities).prod(axis=1)
        return self._lists(truth[self.names].to_numpy() >= 0.5), self._lists(held), sure

    def _lists(self, held: np.ndarray) -> np.ndarray:
        names = np.array(self.head.classes, dtype=object)
        return np.array([" ".join(names[row]) or "none" for row in held], dtype=object)

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        return multilabel_figures(truth[self.names].to_numpy(np.float32), predictions[self.names].to_numpy(), self.head)

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name, column in zip(self.head.classes, self.names, strict=True):
            known = truth[column].notna().to_numpy()
            found[name] = (truth[column].to_numpy()[known] >= 0.5, predictions[column].to_numpy()[known])
        return found

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """By confident learning, label by label: `cat` is given and `not cat` suggested, or the other way round."""
        parts = []
        for name, column in zip(self.head.classes, self.names, strict=True):
            held, sure = truth[column].to_numpy() >= 0.5, predictions[column].to_numpy(np.float64)
            found, scores = doubted_labels(held, sure)
            both = np.column_stack([1 - sure, sure])[found]
            words, given = np.array([f"not {name}", name], dtype=object), held[found].astype(np.int64)
            likely = both[np.arange(len(found)), 1 - given]
            parts.append(label_error_table(truth.index[found], words[given], words[1 - given], scores, likely))
        return pd.concat(parts).sort_values("score", ascending=False, kind="stable")

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        """How often each label is decided for."""
        held = decided(predictions[self.names].to_numpy(), self.head)
        return pd.Series(held.mean(axis=0), index=list(self.head.classes))

    def described(self, column: Column) -> str:
        if column.of is None:
            form = list_form(self.head, column)
            return f"labels of '{self.head.name}', out of {len(self.head.classes)}, {form}"
        return f"whether '{column.of}' holds"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """Lists as text, decisions as 0 and 1, probabilities as float64, (N,) by name of column."""
        probabilities = predictions[probability_columns(self.head)].to_numpy(np.float64)
        held = decided(probabilities, self.head)
        filled: dict[str, np.ndarray] = {}
        for column in columns:
            if column.of is None:
                filled[column.name] = label_lists(probabilities, self.head, list_form(self.head, column))
                continue
            values = held.astype(np.int64) if metric.needs == "labels" else probabilities
            filled[column.name] = values[:, self.head.classes.index(column.of)]
        return filled

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """Predictions, float32 (N,) by column, from a submission's columns by label; a label in a list becomes 1."""
        if set(columns) == {None}:
            known = set(self.head.classes)
            lists = columns[None].astype(str).map(lambda cell: read_list(cell, known))
            return {
                f"{self.head.name}:{name}": lists.map(lambda words, name=name: name in words).to_numpy(np.float32)
                for name in self.head.classes
            }
        if set(columns) == set(self.head.classes):
            pairs = zip(self.names, self.head.classes, strict=True)
            return {column: columns[name].astype(float).to_numpy(np.float32) for column, name in pairs}
        return None

    def cell_problems(self, name: str, values: pd.Series, column: Column | None, metric: Metric) -> list[Problem]:
        if column is not None and column.of is None:
            form = list_form(self.head, column)
            return list_problems(name, values, self.head.classes, divided=form.read, form=str(form))
        if column is not None and metric.needs == "labels":
            return label_problems(name, values, ("0", "1"))
        probability = column is not None or metric.needs == "probabilities"
        return number_problems(name, values, probability, metric="" if column is None else metric.name)


def thresholds(head: Head) -> np.ndarray:
    """Float64 (labels,): a label of at least this probability holds."""
    return np.array(head.thresholds) if head.thresholds else np.full(len(head.classes), USUAL)


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """Which labels hold, bool (N, labels), given their probabilities."""
    held: np.ndarray = probabilities >= thresholds(head)
    return held


def doubted_labels(held: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are given a label and should not be, or the other way round, by confident learning: C. Northcutt,
    L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021,
    arXiv:1911.00068.

    From the probability of either answer cleanlab takes its mean over the rows that were given it, and the score is by
    how much the other answer is ahead then. So a rare label may be missing where its probability is below one half,
    which the filters of `cleanlab.multilabel_classification` never find.

    Args:
        held: which rows are given the label, bool (N,).
        probabilities: of the label, out of fold, float (N,), finite.

    Returns:
        Positions of suspects, highest score first, and the scores, (M,) each.
    """
    from cleanlab.rank import get_label_quality_scores  # not needed to train

    if not len(held):  # which cleanlab refuses
        return np.empty(0, np.int64), np.empty(0)
    sure = np.clip(probabilities, 0, 1)
    answers = np.column_stack([1 - sure, sure])
    quality = get_label_quality_scores(
        held.astype(np.int64), answers, method="normalized_margin", adjust_pred_probs=True
    )
    return worst_first(1 - 2 * quality, quality < 0.5)


def multilabel_figures(truth: np.ndarray, probabilities: np.ndarray, head: Head) -> dict[str, Figure]:
    """The pictures of one head, by their names.

    Args:
        truth: (N, labels) of 0 and 1, NaN where it is not known.
        probabilities: (N, labels); what is not finite is left out.
    """
    from toolkit.plots.classes import calibration_figure, class_figures  # which takes a second to import
    from toolkit.plots.labels import label_counts, labels_figure

    said, limits = decided(probabilities, head), thresholds(head)
    known = ~np.isnan(truth) & np.isfinite(probabilities)
    counts = label_counts(np.where(known, truth, 0) >= 0.5, said & known, head.classes)
    return {
        f"labels/{head.name}": labels_figure(*counts),
        f"calibration/{head.name}": calibration_figure(
            truth[known] >= 0.5, probabilities[known], "probability of a label, all labels together"
        ),
        **class_figures(head.name, truth, probabilities, said, head.classes, thresholds=limits),
    }


def list_form(head: Head, column: Column) -> ListForm:
    """How the column lists labels: as the sample's cells do, or else as the head's separator says.

    Raises:
        UserError: neither says it, and a label holds a space.
    """
    found = form_for(column.shown, set(head.classes), head.separator)
    if found is not None:
        return found
    spaced = next((name for name in head.classes if name.split() != [name]), None)
    if spaced is not None:
        raise UserError(
            f"the label '{spaced}' holds a space, and the sample submission does not show what divides labels; say it "
            'in src/competition/targets.py: Head(..., separator="|")'
        )
    return SPACES


def label_lists(probabilities: np.ndarray, head: Head, form: ListForm = SPACES) -> np.ndarray:
    """The labels of each row as a list of this form, (N,) of str. Graders refuse empty cells, so a row without a label
    gets its most probable one."""
    held = decided(probabilities, head)
    held[np.arange(len(held)), probabilities.argmax(axis=1)] |= ~held.any(axis=1)
    names = np.array(head.classes, dtype=object)
    return np.array([form.write(names[row]) for row in held], dtype=object)
