"""A head's columns in a submission: one per label, its probability or 0 and 1, or one that lists the labels.

Everything that is judged is text, as the grader will read it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.rules import Problem
from pipeline.tasks.image_level.cells import label_problems, list_problems, number_problems
from pipeline.tasks.image_level.kinds.multilabel.decisions import decided
from pipeline.tasks.image_level.predictions import probability_columns
from pipeline.tasks.image_level.submission import Column


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """Lists as text, decisions as 0 and 1, probabilities as float64, (N,) by name of column."""
    probabilities = predictions[probability_columns(head)].to_numpy(np.float64)
    held = decided(probabilities, head)
    filled: dict[str, np.ndarray] = {}
    for column in columns:
        if column.of is None:
            filled[column.name] = label_lists(probabilities, head)
            continue
        place = head.classes.index(column.of)
        filled[column.name] = held[:, place].astype(np.int64) if metric.needs == "labels" else probabilities[:, place]
    return filled


def label_lists(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """The labels of each row with spaces between them, (N,) of str. Graders refuse empty cells, so a row without a
    label gets its most probable one."""
    held = decided(probabilities, head)
    held[np.arange(len(held)), probabilities.argmax(axis=1)] |= ~held.any(axis=1)
    return np.array([" ".join(np.array(head.classes)[row]) for row in held], dtype=object)


def read(head: Head, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
    """Predictions, float32 (N,) by column, from a submission's columns by label; a label in a list becomes 1."""
    if set(columns) == {None}:
        lists = columns[None].astype(str).str.split()
        return {
            f"{head.name}:{name}": lists.map(lambda words, name=name: name in words).to_numpy(np.float32)
            for name in head.classes
        }
    if set(columns) == set(head.classes):
        return {f"{head.name}:{name}": columns[name].astype(float).to_numpy(np.float32) for name in head.classes}
    return None


def cell_problems(name: str, values: pd.Series, head: Head, column: Column | None, metric: Metric) -> list[Problem]:
    """What is wrong with the values of a column; where none is known, of numbers in a format of the user's own."""
    if column is not None and column.of is None:
        return list_problems(name, values, head.classes)
    if column is not None and metric.needs == "labels":
        return label_problems(name, values, ("0", "1"))
    probability = column is not None or metric.needs == "probabilities"
    return number_problems(name, values, probability, metric="" if column is None else metric.name)
