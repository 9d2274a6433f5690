"""Probabilities of labels, each a question of its own: what is decided, doubted, drawn and handed in."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import label_problems, list_problems
from pipeline.heads.columns import Column, Columns, Figures, label_error_table
from pipeline.heads.label_sets import SPACES, ListForm, form_for, read_list
from pipeline.submission_schema import Problem
from toolkit.audit.label_errors import worst_first
from toolkit.errors import UserError


class LabelProbabilities(Columns):
    """A probability for each label, float32: in a submission a column per label, its probability or 0 and 1, or one
    that lists the labels."""

    answers = "labels"

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        return (0.5,) * len(self.head.classes)

    def pseudo_labels(self, predictions: pd.DataFrame, above: float, soft: bool) -> pd.DataFrame:
        given = predictions[self.names]
        return (given if soft else (given >= 0.5).astype(np.float32)).where(np.maximum(given, 1 - given) >= above)

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists of labels; how sure: the probability of the whole list, the labels taken as independent."""
        names, given = np.array(self.head.classes, dtype=object), predictions[self.names].to_numpy()
        held = decided(given, self.head)
        lists = (
            np.array([" ".join(names[row]) or "none" for row in rows], dtype=object)
            for rows in (truth[self.names].to_numpy() >= 0.5, held)
        )
        return *lists, np.where(held, given, 1 - given).prod(axis=1)

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        """Counts by label, calibration and curves; NaN in the truth, and what is not finite, is left out."""
        from toolkit.plots.classes import calibration_figure, class_figures
        from toolkit.plots.labels import label_counts, labels_figure

        head, true, given = self.head, truth[self.names].to_numpy(np.float32), predictions[self.names].to_numpy()
        said, known = decided(given, head), ~np.isnan(true) & np.isfinite(given)
        counts = label_counts(np.where(known, true, 0) >= 0.5, said & known, head.classes)
        calibrated = true[known] >= 0.5, given[known], "probability of a label, all labels together"
        return {
            f"labels/{head.name}": partial(labels_figure, *counts),
            f"calibration/{head.name}": partial(calibration_figure, *calibrated),
            **class_figures(head.name, true, given, said, head.classes, thresholds=thresholds(head)),
        }

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name, column in zip(self.head.classes, self.names, strict=True):
            true = truth[column].to_numpy(np.float64)
            known = ~np.isnan(true)
            found[name] = (true[known] >= 0.5, predictions[column].to_numpy()[known])
        return found

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """By confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021, arXiv:1911.00068), label by label: `cat`
        is given and `not cat` suggested, or the other way round.

        From the probability of either answer cleanlab takes its mean over the rows that were given it, and the score
        is by how much the other answer is ahead then. So a rare label may be missing where its probability is below
        one half, which the filters of `cleanlab.multilabel_classification` never find.
        """
        from cleanlab.rank import get_label_quality_scores  # not needed to train

        parts = []
        for name, column in zip(self.head.classes, self.names, strict=True):
            given, sure = (truth[column].to_numpy() >= 0.5).astype(np.int64), predictions[column].to_numpy(np.float64)
            answers = np.column_stack([1 - np.clip(sure, 0, 1), np.clip(sure, 0, 1)])
            quality = np.empty(0)
            if len(given):  # cleanlab refuses none
                quality = get_label_quality_scores(given, answers, method="normalized_margin", adjust_pred_probs=True)
            found, scores = worst_first(1 - 2 * quality, quality < 0.5)
            words, given = np.array([f"not {name}", name], dtype=object), given[found]
            likely = np.where(given == 1, 1 - sure[found], sure[found])
            parts.append(label_error_table(truth.index[found], words[given], words[1 - given], scores, likely))
        return pd.concat(parts).sort_values("score", ascending=False, kind="stable")

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        held = decided(predictions[self.names].to_numpy(), self.head)
        return pd.Series(held.mean(axis=0), index=list(self.head.classes))

    def described(self, column: Column) -> str:
        if column.of is None:
            form = list_form(self.head, column)
            return f"labels of '{self.head.name}', out of {len(self.head.classes)}, {form}"
        return f"whether '{column.of}' holds"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """Lists as text, decisions as 0 and 1, probabilities as float64, (N,) by name of column."""
        given = predictions[self.names].to_numpy(np.float64)
        values = decided(given, self.head).astype(np.int64) if metric.needs == "labels" else given
        return {
            column.name: label_lists(given, self.head, list_form(self.head, column))
            if column.of is None
            else values[:, self.head.classes.index(column.of)]
            for column in columns
        }

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """Predictions, float32 (N,) by column; a label in a list becomes 1."""
        if set(columns) == {None}:
            lists = columns[None].map(lambda cell: set(read_list(str(cell), set(self.head.classes))))
            columns = {name: lists.map(lambda words, name=name: name in words) for name in self.head.classes}
        return super().read({name: cells.astype(float) for name, cells in columns.items()})

    def cell_problems(self, name: str, values: pd.Series, column: Column, metric: Metric) -> list[Problem]:
        if column.of is None:
            form = list_form(self.head, column)
            return list_problems(name, values, self.head.classes, divided=form.read, form=str(form))
        if metric.needs == "labels":
            return label_problems(name, values, ("0", "1"))
        return super().cell_problems(name, values, column, metric)


def thresholds(head: Head) -> np.ndarray:
    """Float64 (labels,): a label of at least this probability holds."""
    return np.array(head.thresholds) if head.thresholds else np.full(len(head.classes), 0.5)


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """Which labels hold, bool (N, labels), given their probabilities."""
    held: np.ndarray = probabilities >= thresholds(head)
    return held


def list_form(head: Head, column: Column) -> ListForm:
    """How the column lists labels: as the sample's cells do, or else as the head's separator says; a `UserError` where
    neither says it and a label holds a space."""
    found = form_for(column.shown, set(head.classes), head.separator)
    spaced = next((name for name in head.classes if name.split() != [name]), None)
    if found is None and spaced is not None:
        raise UserError(
            f"the label '{spaced}' holds a space, and the sample submission does not show what divides labels; say it "
            'in src/competition/targets.py: Head(..., separator="|")'
        )
    return found or SPACES


def label_lists(probabilities: np.ndarray, head: Head, form: ListForm = SPACES) -> np.ndarray:
    """The labels of each row as a list of this form, (N,) of str. Graders refuse empty cells, so a row without a label
    gets its most probable one."""
    held = decided(probabilities, head)
    held[np.arange(len(held)), probabilities.argmax(axis=1)] |= ~held.any(axis=1)
    names = np.array(head.classes, dtype=object)
    return np.array([form.write(names[row]) for row in held], dtype=object)
