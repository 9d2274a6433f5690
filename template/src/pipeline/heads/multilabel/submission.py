"""A head's columns in a submission: one per label, its probability or 0 and 1, or one that lists the labels.

Everything that is judged is text, as the grader will read it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import label_problems, list_problems, number_problems
from pipeline.heads.multilabel.decisions import decided
from pipeline.heads.multilabel.lists import SPACES, ListForm, form_for, read_list
from pipeline.heads.predictions import probability_columns
from pipeline.heads.submission_columns import Column
from pipeline.submission_schema import Problem
from toolkit.errors import UserError


def fill(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """Lists as text, decisions as 0 and 1, probabilities as float64, (N,) by name of column."""
    probabilities = predictions[probability_columns(head)].to_numpy(np.float64)
    held = decided(probabilities, head)
    filled: dict[str, np.ndarray] = {}
    for column in columns:
        if column.of is None:
            filled[column.name] = label_lists(probabilities, head, list_form(head, column))
            continue
        place = head.classes.index(column.of)
        filled[column.name] = held[:, place].astype(np.int64) if metric.needs == "labels" else probabilities[:, place]
    return filled


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


def read(head: Head, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
    """Predictions, float32 (N,) by column, from a submission's columns by label; a label in a list becomes 1."""
    if set(columns) == {None}:
        known = set(head.classes)
        lists = columns[None].astype(str).map(lambda cell: read_list(cell, known))
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
        form = list_form(head, column)
        return list_problems(name, values, head.classes, divided=form.read, form=str(form))
    if column is not None and metric.needs == "labels":
        return label_problems(name, values, ("0", "1"))
    probability = column is not None or metric.needs == "probabilities"
    return number_problems(name, values, probability, metric="" if column is None else metric.name)
