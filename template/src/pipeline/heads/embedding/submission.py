"""A head's column in a submission: the best labels with spaces between them, as many as the metric looks at.

For `gap` it is the best label and its score. Everything that is judged is text, as the grader will read it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import (
    BLANK,
    as_numbers,
    cell_text,
    list_problems,
    listable,
    lower_case,
    most_listed,
    number_problems,
)
from pipeline.heads.embedding.rankings import (
    NOTHING,
    WORST,
    label_columns,
    listed_labels,
    ranked,
    score_columns,
)
from pipeline.heads.submission_columns import Column
from pipeline.submission_schema import Problem

WITH_SCORE = ("gap",)


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """The cells of each column, (N,) of str.

    Raises:
        UserError: a label holds a space, so that it cannot stand in a list.
    """
    if most_listed(metric) > 1 or metric.name in WITH_SCORE:
        listable(head)
    if metric.name in WITH_SCORE:
        labels, scores = listed_labels(predictions, head)
        pairs = zip(labels[:, 0], scores[:, 0], strict=True)
        cells = [f"{label} {score:.9g}" for label, score in pairs]
    else:
        labels = ranked(predictions, head)[0][:, : most_listed(metric)]
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
    if metric.name not in WITH_SCORE:
        return list_problems(name, values, _known(head), most_listed(metric))
    words = values.str.split()
    broken = words.map(lambda row: len(row) != 2 or bool(as_numbers(pd.Series(row[1:])).isna().any()))
    broken &= ~lower_case(values).isin(BLANK)
    found = list_problems(name, values.where(broken, words.str[0])[~broken], _known(head))
    if broken.any():
        hit = values[broken]
        remedy = "write both, with a space between"
        found.append(Problem("label", cell_text(name, hit, len(values), "are not a label and its score", hit, remedy)))
    return found


def _known(head: Head) -> list[str]:
    return [*head.classes, *([head.unknown] if head.unknown else [])]
