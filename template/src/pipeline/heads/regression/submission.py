"""A head's column in a submission: a number, or the grade that it becomes.

Everything that is judged is text, as the grader will read it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import as_numbers, cell_text, label_problems, number_problems
from pipeline.heads.regression.numbers import cut_points, grade_names, predicted
from pipeline.heads.submission_columns import Column
from pipeline.submission_schema import Problem


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """Grades as text, numbers as float64, or as int64 where no digit stands after the point; (N,) by name of column."""
    values = predicted(predictions, head)
    written = rounded(values, head)
    return {column.name: grade_names(values, head) if column.of is None else written for column in columns}


def rounded(values: np.ndarray, head: Head) -> np.ndarray:
    """Numbers (N,) with the head's decimals; all of their digits where it says nothing."""
    if head.decimals is None:
        return values
    rough = np.round(values, head.decimals)
    return rough if head.decimals > 0 else rough.astype(np.int64)


def read(head: Head, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
    """The head's numbers, float32 (N,), from its column in a submission; a grade becomes a number that means it."""
    if set(columns) == {head.name}:
        return {head.name: columns[head.name].to_numpy(np.float32)}
    if set(columns) == {None}:
        cuts = cut_points(head)
        inside = np.concatenate([cuts[:1] - 1, (cuts[:-1] + cuts[1:]) / 2, cuts[-1:] + 1])
        numbers = pd.Index(head.classes).get_indexer(pd.Index(columns[None].astype(str)))
        return {head.name: inside[numbers].astype(np.float32)}
    return None


def cell_problems(name: str, values: pd.Series, head: Head, column: Column | None, metric: Metric) -> list[Problem]:
    """What is wrong with the values of a column; where none is known, of numbers in a format of the user's own."""
    if column is not None and column.of is None:
        return label_problems(name, values, head.classes)
    found = number_problems(name, values, probability=False)
    if column is None or head.limits is None:
        return found
    least, most = np.round(head.limits, 9 if head.decimals is None else head.decimals)
    given = as_numbers(values)
    outside = values[np.isfinite(given) & ((given < least) | (given > most))]
    if len(outside):
        remedy = f"the limits in src/competition/targets.py are {head.limits[0]:g} and {head.limits[1]:g}"
        text = cell_text(name, outside, len(values), "are outside the limits", outside.unique(), remedy)
        found.append(Problem("range", text, warning=True))  # these are the competition's own, and no grader knows them
    return found
