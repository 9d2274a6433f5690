"""How predictions become the columns of a sample submission, which is recognised by its columns.

- One column per class: its probability.
- One column per head (or a single column of any name, for a single head): the most probable class, as exact text. With
  a metric that needs probabilities and a head of two classes: the probability of the second one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.errors import UserError, listed, nearest
from pipeline.rules import sample_id_column
from pipeline.tasks.image_level.metrics import normalized
from pipeline.tasks.image_level.predictions import decided_labels, probability_columns

SUM_TO_ONE = frozenset({"log_loss"})  # metrics whose graders refuse rows of probabilities that do not sum to 1


@dataclass(frozen=True)
class Column:
    """What one column of a sample holds: the probability of class `of`, or the decided label when that is none."""

    name: str
    head: Head
    of: str | None = None

    def __str__(self) -> str:
        if self.of is None:
            return f"label of '{self.head.name}', one of {len(self.head.classes)}"
        return f"probability of '{self.of}' in '{self.head.name}'"


def recognise(columns: Sequence[str], heads: Sequence[Head], metric: Metric) -> tuple[Column, ...]:
    """What each column of the sample (without the id) holds.

    A sample may ask for fewer classes, and for fewer heads, than were trained. With several heads, the column of a
    class is called `head_class` or `head:class`, or like the class where only one head has it.

    Raises:
        UserError: the columns are of no known kind; they are named.
    """
    of_class = _class_columns(heads)
    of_head = {head.name: head for head in heads}
    if columns and all(name in of_class for name in columns):
        return tuple(Column(name, *of_class[name]) for name in columns)
    if columns and all(name in of_head for name in columns):
        return tuple(_head_column(name, of_head[name], metric) for name in columns)
    if len(columns) == 1 and len(heads) == 1:
        return (_head_column(columns[0], heads[0], metric),)
    strange = [name for name in columns if name not in of_class and name not in of_head]
    if strange and len(strange) < len(columns):
        names = [*of_head, *_class_names(heads)]
        hint = nearest(strange[0], names) if len(names) <= 20 else f"known: {listed(names)}"
        what = f"{listed(map(repr, strange))}, neither a trained class nor a target column; {hint}"
    else:
        what = f"{listed(map(repr, columns), 5)}, which are neither the classes ({listed(_class_names(heads))}) nor "
        what += f"the target columns ({listed(of_head)})"
    raise UserError(f"the sample submission has the columns {what} (fill them in src/competition/submission.py)")


def _class_names(heads: Sequence[Head]) -> list[str]:
    return [name for head in heads for name in head.classes]


def _class_columns(heads: Sequence[Head]) -> dict[str, tuple[Head, str]]:
    """Every name under which a sample may ask for the probability of a class."""
    pairs = [(head, name) for head in heads for name in head.classes]
    names = [name for _, name in pairs]
    known = {f"{head.name}{mark}{name}": (head, name) for head, name in pairs for mark in ":_"}
    return known | {name: (head, name) for head, name in pairs if names.count(name) == 1}


def _head_column(name: str, head: Head, metric: Metric) -> Column:
    second = metric.needs == "probabilities" and len(head.classes) == 2
    return Column(name, head, head.classes[1] if second else None)


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str
) -> pd.DataFrame:
    """The sample's columns, one row per row of `predictions`: ids and labels as text, probabilities as float64.

    Probabilities of a head are divided by their sum in float64, since float32 ones miss 1 by more than some graders
    take. When the sample asks for some of a head's classes only, those are divided by their own sum if the metric is
    one whose graders demand it (log loss); for any other metric that would change the ranking of rows within a column,
    so they stay as they are.

    Raises:
        UserError: the sample's columns are not recognised, or the predictions lack a class.
    """
    id_column = sample_id_column(list(sample.columns), id_column)
    columns = recognise([name for name in sample.columns if name != id_column], heads, metric)
    filled: dict[str, object] = {id_column: predictions.index.to_numpy()}
    for head in {column.head.name: column.head for column in columns}.values():
        filled |= _head_values(predictions, head, [column for column in columns if column.head is head], metric)
    return pd.DataFrame(filled)[list(sample.columns)]


def _head_values(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, object]:
    missing = [name for name in probability_columns(head.name, head.classes) if name not in predictions]
    if missing:
        raise UserError(f"the predictions lack the column '{missing[0]}'; the classes have changed: predict again")
    probabilities = normalized(predictions[probability_columns(head.name, head.classes)].to_numpy())
    asked = [head.classes.index(column.of) for column in columns if column.of is not None]
    if len(asked) > 1 and metric.name in SUM_TO_ONE:
        probabilities[:, asked] = normalized(probabilities[:, asked])
    return {
        column.name: decided_labels(predictions, head.name, head.classes)
        if column.of is None
        else probabilities[:, head.classes.index(column.of)]
        for column in columns
    }


def as_predictions(table: pd.DataFrame, columns: Sequence[Column], heads: Sequence[Head]) -> pd.DataFrame | None:
    """A submission, indexed by id, as a table of predictions: the way back from `submission_table`.

    A label becomes probability 1 of its class. None when the submission does not tell every class of every head.
    """
    parts: dict[str, np.ndarray] = {}
    for head in heads:
        mine = {column.of: table[column.name] for column in columns if column.head is head}
        if set(mine) == {None}:
            labels = mine[None].astype(str).to_numpy()
            values = {name: (labels == name).astype(np.float32) for name in head.classes}
        elif len(head.classes) == 2 and set(mine) == {head.classes[1]}:
            second = mine[head.classes[1]].to_numpy(np.float32)
            values = {head.classes[0]: 1 - second, head.classes[1]: second}
        elif set(mine) == set(head.classes):
            values = {str(name): column.to_numpy(np.float32) for name, column in mine.items()}
        else:
            return None
        parts |= {f"{head.name}:{name}": values[name] for name in head.classes}
    return pd.DataFrame(parts, index=table.index)


def shares(predictions: pd.DataFrame, head: Head) -> pd.Series:
    """How often each class is the most probable one: share of rows, indexed by class, in class order."""
    decided = pd.Series(decided_labels(predictions, head.name, head.classes))
    return decided.value_counts(normalize=True).reindex(list(head.classes), fill_value=0.0)
