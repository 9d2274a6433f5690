"""Numbers: read from rows, kept inside limits, made grades, divided into folds, drawn, doubted and handed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.data.labels import ClassLabels
from pipeline.heads.cells import as_numbers, cell_text, label_problems, number_problems
from pipeline.heads.columns import Column, Columns, Figures, frequencies, label_error_table
from pipeline.keys import ROW_ID
from pipeline.submission_schema import Problem
from toolkit.audit.label_errors import LIMIT, modified_z_scores, worst_first
from toolkit.errors import UserError, listed

MOST_BINS = 32
QUARTILES = ("smallest", "lower quartile", "median", "upper quartile", "largest")


class Numbers(Columns):
    """One number, float32, called like the head; or the grade that it becomes, where the head has classes."""

    classes = ()
    answers = "number"

    @property
    def names(self) -> list[str]:
        return [self.head.name]

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        """The cut points between grades."""
        return tuple(cut_points(replace(self.head, thresholds=())).tolist()) if self.head.classes else ()

    def pseudo_labels(self, predictions: pd.DataFrame, above: float, soft: bool) -> pd.DataFrame:
        """The numbers; nothing tells how sure they are, so none is above a probability."""
        return predictions[self.names] if above == 0 else predictions[self.names] * np.nan

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [predicted(predictions, self.head)] * len(self.default_thresholds)

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers as text; how sure: the nearer to the truth, the surer."""
        true, said = truth[self.head.name].to_numpy(), predicted(predictions, self.head)
        texts = (np.array([f"{value:.4g}" for value in values], dtype=object) for values in (true, said))
        return *texts, -np.abs(said - true)

    def caption(self, said: str, sure: float) -> str:
        return said

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        from toolkit.plots.numbers import by_truth_figure, scatter_figure

        name = self.head.name
        given = truth[name].to_numpy(), predicted(predictions, self.head), name
        made = {f"scatter/{name}": scatter_figure, f"errors/{name}": by_truth_figure}
        return {name: partial(figure, *given) for name, figure in made.items()}

    def sample_figure(
        self, images: Sequence[Any], ids: Sequence[str], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Any:
        from toolkit.plots.numbers import errors_figure

        return errors_figure(images, ids, truth[self.head.name].to_numpy(), predicted(predictions, self.head))

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Residuals that lie far outside of the others."""
        true, said, _ = self.read_out(truth, predictions)
        residuals = predicted(predictions, self.head) - truth[self.head.name].to_numpy(np.float64)
        away = np.abs(modified_z_scores(residuals))
        found, scores = worst_first(away, away > LIMIT)
        return label_error_table(truth.index[found], true[found], said[found], scores, np.nan)

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        values = predicted(predictions, self.head)
        if self.head.classes:
            return frequencies(grade_names(values, self.head), self.head.classes)
        return pd.Series(np.quantile(values, np.linspace(0, 1, len(QUARTILES))), index=list(QUARTILES))

    def single_column(self, metric: Metric) -> str | None:
        """The number, under the head's own name; none, for the grade, where the metric is about grades."""
        return None if self.head.classes and metric.needs == "labels" else self.head.name

    def described(self, column: Column) -> str:
        if column.of is None:
            return f"grade of '{self.head.name}', one of {len(self.head.classes)}"
        inside = "" if self.head.limits is None else " from {:g} to {:g}".format(*self.head.limits)
        return f"number of '{self.head.name}'{inside}"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """Grades as text, numbers as float64, or as int64 where no digit stands after the point; (N,) by column."""
        written = values = predicted(predictions, self.head)
        if self.head.decimals is not None:
            rough = np.round(values, self.head.decimals)
            written = rough if self.head.decimals > 0 else rough.astype(np.int64)
        return {column.name: grade_names(values, self.head) if column.of is None else written for column in columns}

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """The numbers, float32 (N,), from their column in a submission; a grade becomes a number that means it."""
        if len(columns) != 1:
            return None
        [(of, cells)] = columns.items()
        if of is not None:
            return {of: cells.to_numpy(np.float32)}
        cuts = cut_points(self.head)
        inside = np.concatenate([cuts[:1] - 1, (cuts[:-1] + cuts[1:]) / 2, cuts[-1:] + 1])
        positions = pd.Index(self.head.classes).get_indexer(pd.Index(cells.astype(str)))
        return {self.head.name: inside[positions].astype(np.float32)}

    def cell_problems(self, name: str, values: pd.Series, column: Column, metric: Metric) -> list[Problem]:
        if column.of is None:
            return label_problems(name, values, self.head.classes)
        found = number_problems(name, values, probability=False)
        if self.head.limits is None:
            return found
        least, most = np.round(self.head.limits, 9 if self.head.decimals is None else self.head.decimals)
        given = as_numbers(values)
        outside = values[np.isfinite(given) & ((given < least) | (given > most))]
        if len(outside):
            remedy = "the limits in src/competition/targets.py are {:g} and {:g}".format(*self.head.limits)
            text = cell_text(name, outside, len(values), "are outside the limits", outside.unique(), remedy)
            # these are the competition's own, and no grader knows them
            found.append(Problem("range", text, warning=True))
        return found


def numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column's cells, float64 (N,); NaN where one is empty, a `UserError` that names the rows of no finite number."""
    values = pd.to_numeric(rows[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values) & rows[column].notna().to_numpy()
    if wrong.any():
        raise UserError(
            f"column '{column}': {int(wrong.sum())} rows (id {listed(rows.loc[wrong, ROW_ID])}) hold "
            f"'{rows[column][wrong].iloc[0]}', and a number is expected; correct it in src/competition/tables.py"
        )
    return values


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of what is known of values (N, ...); a deviation of 0 becomes 1."""
    known = values[~np.isnan(values)].astype(np.float64)
    return (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)


def predicted(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """The numbers of a head in a table of predictions, float64 (N,), inside its limits."""
    return clipped(predictions[head.name].to_numpy(np.float64), head)


def clipped(values: np.ndarray, head: Head) -> np.ndarray:
    """Values of any shape, inside the head's limits; NaN stays."""
    return values if head.limits is None else np.clip(values, *head.limits)


def grade_values(head: Head) -> np.ndarray:
    """The grades as numbers, float64 (classes,); a `UserError` where they are none, or do not rise."""
    values = pd.to_numeric(pd.Series(list(head.classes), dtype="str"), errors="coerce").to_numpy(np.float64)
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise UserError(
            f"the classes of '{head.name}' ({listed(head.classes, 9)}) are no rising numbers; "
            "correct them in folds/classes.json or src/competition/targets.py"
        )
    return values


def cut_points(head: Head) -> np.ndarray:
    """From which numbers on each grade but the first is meant, float64 (classes - 1,), rising: half way between two,
    unless the head has thresholds."""
    values = grade_values(head)
    return np.sort(head.thresholds) if head.thresholds else (values[:-1] + values[1:]) / 2


def grades(values: np.ndarray, head: Head) -> np.ndarray:
    """Numbers (N,) as positions in the head's classes, int64 (N,)."""
    return np.searchsorted(cut_points(head), values, side="right").astype(np.int64)


def grade_names(values: np.ndarray, head: Head) -> np.ndarray:
    """Numbers (N,) as names of grades, (N,) of str."""
    return np.asarray(head.classes, dtype=object)[grades(values, head)]


@dataclass(frozen=True)
class NumberLabels(ClassLabels):
    """Each cell is a number. Several columns are stratified by the combination of their bins.

    Attributes:
        graded: the numbers are grades, whose names `folds/classes.json` lists.
    """

    graded: bool = False

    @property
    def named(self) -> Sequence[str]:
        return self.targets if self.graded else ()

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """Bins that hold equally many rows; equal numbers share one. What is too rare is pooled."""
        # Combinations are not equally frequent: with fewer rows each on average, most of them would be pooled.
        rows_each = n_folds if len(self.targets) == 1 else 2 * n_folds
        bins = int(np.clip((len(rows) / rows_each) ** (1 / len(self.targets)), 2, MOST_BINS))
        ranks = pd.DataFrame({column: numbers(rows, column) for column in self.targets}).rank(method="min")
        codes, _ = self.numbered((ranks - 1) * bins // len(rows), n_folds, pool=True)
        return codes, []
