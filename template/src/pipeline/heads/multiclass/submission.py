"""A head's columns in a submission: the most probable class as exact text, the best ones with spaces between, or
probabilities.

Everything that is judged is text, as the grader will read it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import (
    as_numbers,
    label_problems,
    list_problems,
    listable,
    most_listed,
    number_problems,
)
from pipeline.heads.multiclass.predictions import cut, decided_labels, normalized
from pipeline.heads.predictions import probability_columns
from pipeline.heads.submission_columns import Column
from pipeline.submission_schema import Problem
from toolkit.errors import listed

SUM_TO_ONE = frozenset(
    {"log_loss", "kl_divergence"}
)  # metrics whose graders refuse rows of probabilities that do not sum to 1
TOLERANCE = 1e-5  # what they allow a row to miss 1 by


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """Labels as text, probabilities as float64, (N,) by name of column.

    Probabilities of a head are divided by their sum in float64, since float32 ones miss 1 by more than some graders
    take; where a metric scores them higher cut at a tuned threshold, they are 0 and 1. When the sample asks for some of
    a head's classes only, those are divided by their own sum if the metric is one whose graders demand it (log loss);
    for any other metric that would change the ranking of rows within a column, so they stay as they are.
    """
    given = predictions[probability_columns(head)].to_numpy()
    probabilities = cut(given, head) if metric.may_cut and head.thresholds else normalized(given)
    asked = [head.classes.index(column.of) for column in columns if column.of is not None]
    if len(asked) > 1 and metric.name in SUM_TO_ONE:
        probabilities[:, asked] = normalized(probabilities[:, asked])
    return {
        column.name: _labels(predictions, head, most_listed(metric))
        if column.of is None
        else probabilities[:, head.classes.index(column.of)]
        for column in columns
    }


def _labels(predictions: pd.DataFrame, head: Head, most: int) -> np.ndarray:
    """The decided class of each row, or so many of the most probable ones, best first: (N,) of str."""
    if most == 1:
        return decided_labels(predictions, head)
    listable(head)
    best = np.argsort(-predictions[probability_columns(head)].to_numpy(), axis=1, kind="stable")[:, :most]
    return np.array([" ".join(row) for row in np.asarray(head.classes, dtype=object)[best]], dtype=object)


def read(head: Head, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
    """Predictions, float32 (N,) by column, from a submission's columns by class; a label becomes probability 1."""
    if set(columns) == {None}:
        labels = columns[None].astype(str).to_numpy()
        values = {name: (labels == name).astype(np.float32) for name in head.classes}
    elif len(head.classes) == 2 and set(columns) == {head.classes[1]}:
        second = columns[head.classes[1]].to_numpy(np.float32)
        values = {head.classes[0]: 1 - second, head.classes[1]: second}
    elif set(columns) == set(head.classes):
        values = {str(name): column.to_numpy(np.float32) for name, column in columns.items()}
    else:
        return None
    return {f"{head.name}:{name}": value for name, value in values.items()}


def cell_problems(name: str, values: pd.Series, head: Head, column: Column | None, metric: Metric) -> list[Problem]:
    """What is wrong with the values of a column; where none is known, of numbers in a format of the user's own."""
    if column is not None and column.of is None:
        most = most_listed(metric)
        return (
            list_problems(name, values, head.classes, most) if most > 1 else label_problems(name, values, head.classes)
        )
    probability = column is not None or metric.needs == "probabilities"
    whole = not probability and metric.name == "quadratic_weighted_kappa"
    return number_problems(name, values, probability, whole, "" if column is None else metric.name)


def sum_problems(table: pd.DataFrame, metric: Metric) -> list[Problem]:
    """Rows of probabilities that do not sum to 1; told apart: decimals that were lost, and values that never did."""
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


def _decimals(values: pd.Series) -> int:
    """The most decimals in a column; scientific notation counts its exponent in."""
    parts = values.str.strip().str.extract(r"(?i)^[+-]?\d*\.?(\d*)(?:e([+-]?\d+))?$")
    exponents = pd.to_numeric(parts[1], errors="coerce").fillna(0)
    return int((parts[0].fillna("").str.len() - exponents).max())
