"""A head's column in a submission: the best labels with spaces between them, as many as the metric looks at.

For `gap` it is the best label and its score. Everything that is judged is text, as the grader will read it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.errors import UserError, nearest
from pipeline.rules import Problem
from pipeline.tasks.image_level.cells import as_numbers, blank_problems, cell_text, number_problems
from pipeline.tasks.image_level.kinds.embedding.rankings import (
    NOTHING,
    WORST,
    label_columns,
    listed_labels,
    ranked,
    score_columns,
)
from pipeline.tasks.image_level.submission import Column

WITH_SCORE = ("gap",)


def most_labels(metric: Metric) -> int:
    """How many labels a cell may hold: 5 for `map_at_5`, else one."""
    found = re.search(r"at_(\d+)", metric.name)
    return int(found.group(1)) if found else 1


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """The cells of each column, (N,) of str.

    Raises:
        UserError: a label holds a space, so that it cannot stand in a list.
    """
    spaced = next((name for name in head.classes if name.split() != [name]), None)
    if spaced is not None and (most_labels(metric) > 1 or metric.name in WITH_SCORE):
        raise UserError(
            f"the label '{spaced}' of '{head.name}' holds a space, and a cell lists labels by spaces; "
            "build the column in src/competition/submission.py"
        )
    if metric.name in WITH_SCORE:
        labels, scores = listed_labels(predictions, head)
        pairs = zip(labels[:, 0], scores[:, 0], strict=True)
        cells = [f"{label} {score:.9g}" for label, score in pairs]
    else:
        labels = ranked(predictions, head)[0][:, : most_labels(metric)]
        cells = [" ".join(label for label in row if label != NOTHING) for row in labels]
    return {column.name: np.array(cells, dtype=object) for column in columns}


def read(head: Head, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
    """Predictions by column, from lists of labels: what stands before the answer for the unknown scores 1, what stands
    behind it -1. Where a label is followed by its score, that is taken."""
    if set(columns) != {None}:
        return None
    cells = columns[None].astype(str).str.split()
    width = len(label_columns(head))
    labels, scores = np.full((len(cells), width), NOTHING, object), np.full((len(cells), width), WORST)
    for row, words in enumerate(cells):
        if len(words) == 2 and words[1] not in _known(head):
            labels[row, 0], scores[row, 0] = words[0], float(words[1])
            continue
        before = words.index(head.unknown) if head.unknown in words else width
        told = [word for word in words if word != head.unknown][:width]
        labels[row, : len(told)] = told
        scores[row, :before] = 1.0
    return dict(
        zip([*label_columns(head), *score_columns(head)], [*labels.T, *scores.astype(np.float32).T], strict=True)
    )


def cell_problems(name: str, values: pd.Series, head: Head, column: Column | None, metric: Metric) -> list[Problem]:
    """What is wrong with the values of a column; where none is known, of numbers in a format of the user's own."""
    if column is None:
        return number_problems(name, values, probability=False)
    words: pd.Series[Any] = values[values.str.strip() != ""].str.split()
    found = blank_problems(name, values)
    if metric.name in WITH_SCORE:
        broken = words[words.map(lambda row: len(row) != 2 or as_numbers(pd.Series(row[1:])).isna().any())]
        found += _problem(name, values, broken, "are not a label and its score", "write both, with a space between")
        words, most = words.drop(broken.index).str[:1], 1
    else:
        most = most_labels(metric)
        long = words[words.str.len() > most]
        found += _problem(name, values, long, f"hold more than {most} labels", f"{metric.name} looks at {most}")
    known = _known(head)
    unknown: pd.Series[Any] = words.map(lambda row: next((word for word in row if word not in known), None)).dropna()
    unknown = unknown[~values[unknown.index].str.strip().str.lower().isin(["nan", "none", "null", "na"])]
    if len(unknown):
        remedy = f"write labels exactly, with spaces between them; {nearest(str(unknown.iloc[0]), list(head.classes))}"
        found += _problem(name, values, unknown, "hold what is no label", remedy, unknown.unique())
    twice = words[words.map(lambda row: len(set(row)) < len(row))]
    return found + _problem(name, values, twice, "name a label twice", "name it once")


def _known(head: Head) -> set[str]:
    return {*head.classes, *([head.unknown] if head.unknown else [])}


def _problem(
    name: str, values: pd.Series, hit: pd.Series, what: str, remedy: str, examples: Iterable[object] | None = None
) -> list[Problem]:
    """The rows of `hit`, as one problem; none where there are none."""
    if hit.empty:
        return []
    cells = values[hit.index]
    return [
        Problem("label", cell_text(name, cells, len(values), what, cells if examples is None else examples, remedy))
    ]
