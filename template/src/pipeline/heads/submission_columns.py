"""How predictions become the columns of a sample submission, which is recognised by its columns, and what may stand in
them. What is judged is text, as the grader will read it.

One column per class (its probability), or one column per head, which may have any name where there is a single head.
Or one row per image and head, whose ids end in the name of the head. What each holds, the `Columns` of the head know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.base import kind_of
from pipeline.heads.cells import as_numbers, blank_problems
from pipeline.heads.columns import Column
from pipeline.submission_schema import Keys, Problem, sample_id_column
from toolkit.errors import UserError, listed, nearest


def columns_of(sample: pd.DataFrame, id_column: str, heads: Sequence[Head], metric: Metric) -> tuple[Column, ...]:
    """What each column of the sample (all text) but the id's holds, and shows.

    A sample may ask for fewer classes, and for fewer heads, than were trained. With several heads, the column of a
    class is called `head_class` or `head:class`, or like the class where only one head has it.

    Raises:
        UserError: the columns are of no known kind; they are named.
    """
    columns = [name for name in sample.columns if name != id_column]
    of_class = _class_columns(heads)
    of_head = {head.name: head for head in heads}
    if columns and all(_found(name, of_class) in of_class for name in columns):
        return tuple(_showing(Column(name, *of_class[_found(name, of_class)]), sample[name]) for name in columns)
    if columns and all(_found(name, of_head) in of_head for name in columns):
        return tuple(_head_column(name, of_head[_found(name, of_head)], metric, sample[name]) for name in columns)
    if len(columns) == 1 and len(heads) == 1:
        return (_head_column(columns[0], heads[0], metric, sample[columns[0]]),)
    strange = [name for name in columns if name not in of_class and name not in of_head]
    if strange and len(strange) < len(columns):
        names = [*of_head, *_class_names(heads)]
        hint = nearest(strange[0], names) if len(names) <= 20 else f"known: {listed(names)}"
        what = f"{listed(map(repr, strange))}, neither a trained class nor a target column; {hint}"
    else:
        what = f"{listed(map(repr, columns), 5)}, which are neither the classes ({listed(_class_names(heads))}) nor "
        what += f"the target columns ({listed(of_head)})"
    raise UserError(f"the sample submission has the columns {what} (fill them in src/competition/submission.py)")


def _found(name: str, known: Collection[str]) -> str:
    """The name of a column as it is known: spaces around it do not count."""
    return name if name in known else name.strip()


def row_columns(sample: pd.DataFrame, id_column: str, heads: Sequence[Head], metric: Metric) -> tuple[Column, ...]:
    """What the one column of a sample (all text) with a row for each image and head holds in the rows of each head;
    none where it has no such rows."""
    names = [name for name in sample.columns if name != id_column]
    if len(names) != 1 or heads_of_rows(sample[id_column], heads) is None:
        return ()
    cells, ids = sample[names[0]], sample[id_column]
    return tuple(_head_column(names[0], head, metric, cells[ids.str.endswith(head.name)]) for head in heads)


def _showing(column: Column, cells: pd.Series) -> Column:
    return replace(column, shown=tuple(map(str, cells.dropna().unique())))


def _class_names(heads: Sequence[Head]) -> list[str]:
    return [name for head in heads for name in head.classes]


def _class_columns(heads: Sequence[Head]) -> dict[str, tuple[Head, str]]:
    """Every name under which a sample may ask for the probability of a class."""
    predicted = {column for head in heads for column in kind_of(head).columns.names}
    pairs = [(head, name) for head in heads for name in head.classes if f"{head.name}:{name}" in predicted]
    names = [name for _, name in pairs]
    known = {f"{head.name}{mark}{name}": (head, name) for head, name in pairs for mark in ":_"}
    return known | {name: (head, name) for head, name in pairs if names.count(name) == 1}


def _head_column(name: str, head: Head, metric: Metric, cells: pd.Series) -> Column:
    return _showing(Column(name, head, kind_of(head).columns.single_column(metric)), cells)


def heads_of_rows(ids: pd.Series, heads: Sequence[Head]) -> pd.DataFrame | None:
    """What the ids of a sample with a row for each image and head are made of (`Test_0_vowel`): the columns `mark`
    (what stands before the head's name) and `head`. None where some id ends in no head, or there is one head only."""
    if len(heads) < 2 or ids.empty:
        return None
    names = "|".join(re.escape(name) for name in sorted((head.name for head in heads), key=len, reverse=True))
    found = ids.str.extract(rf"(?P<mark>[^0-9A-Za-z])(?P<head>{names})$")
    return None if found.isna().to_numpy().any() else found


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str
) -> pd.DataFrame:
    """The sample's columns, one row per row of `predictions`, or per row and head: ids and labels as text, numbers as
    float64.

    Raises:
        UserError: the sample's columns are not recognised, or the predictions lack a column.
    """
    id_column = sample_id_column(list(sample.columns), id_column)
    named, parts = heads_of_rows(sample[id_column], heads), []
    if named is not None and (by_row := row_columns(sample, id_column, heads, metric)):
        for column in by_row:
            values = _filled(predictions, column.head, [column], metric)[column.name].astype(object)
            for mark in named["mark"][named["head"] == column.head.name].unique():
                ids = predictions.index.astype(str) + mark + column.head.name
                parts.append(pd.DataFrame({id_column: ids, column.name: values})[list(sample.columns)])
        return pd.concat(parts, ignore_index=True)
    columns = columns_of(sample, id_column, heads, metric)
    filled: dict[str, object] = {id_column: predictions.index.to_numpy()}
    for head in {column.head.name: column.head for column in columns}.values():
        filled |= _filled(predictions, head, [column for column in columns if column.head is head], metric)
    return pd.DataFrame(filled)[list(sample.columns)]


def _filled(predictions: pd.DataFrame, head: Head, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
    """The head's columns; a `UserError` where its predictions are not all there."""
    missing = [name for name in kind_of(head).columns.names if name not in predictions]
    if missing:
        raise UserError(f"the predictions lack the column '{missing[0]}'; the classes have changed: predict again")
    return kind_of(head).columns.fill(predictions, columns, metric)


def as_predictions(table: pd.DataFrame, columns: Sequence[Column], heads: Sequence[Head]) -> pd.DataFrame | None:
    """A submission, indexed by id, as a table of predictions: the way back from `submission_table`.

    None when the submission does not tell everything of every head.
    """
    parts: list[pd.DataFrame] = []
    for head in heads:
        own = kind_of(head).columns
        values = own.read({column.of: table[column.name] for column in columns if column.head is head})
        if values is None:
            return None
        parts.append(pd.DataFrame(values, index=table.index, columns=own.names))
    return pd.concat(parts, axis=1)


def submission_rules(sample: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str) -> SubmissionRules:
    """The rules for this sample. With columns of an unknown kind, they follow the sample's own values."""
    id_column = sample_id_column(list(sample.columns), id_column)
    names = [name for name in sample.columns if name != id_column]
    if by_row := row_columns(sample, id_column, heads, metric):
        return SubmissionRules(id_column, by_row, metric, heads[0], by_row=True)
    try:
        columns = columns_of(sample, id_column, heads, metric)
    except UserError:  # a format of the user's own
        columns = ()
    numeric = tuple(name for name in names if len(sample) and not as_numbers(sample[name]).isna().any())
    return SubmissionRules(id_column, columns, metric, heads[0], numeric)


@dataclass(frozen=True)
class SubmissionRules:
    """The rules of one competition's submission.

    Attributes:
        id_column: the sample's id column; ids are not judged here.
        columns: what each column holds; empty when that is not known.
        metric: graders of different metrics refuse different things.
        first: the head whose kind judges numbers of an unknown format.
        numeric: columns that hold numbers in the sample; they stand in where `columns` is empty.
        by_row: the one column beside the id holds what `columns` say, each in the rows of its head.
    """

    id_column: str
    columns: tuple[Column, ...]
    metric: Metric
    first: Head
    numeric: tuple[str, ...] = ()
    by_row: bool = False

    @property
    def keys(self) -> Keys:
        return Keys((self.id_column,))

    def described(self) -> list[str]:
        """What each column holds."""
        return [f"{column.name}: {kind_of(column.head).columns.described(column)}" for column in self.columns]

    def notes(self) -> list[str]:
        """Classes that were trained and that a sample with a column for each class does not ask for."""
        found = []
        for head, names in self._numbers_by_head():
            asked = {column.of for column in self.columns if column.name in names}
            left_out = [name for name in head.classes if name not in asked]
            if len(asked) > 1 and left_out:
                share = f"{len(asked)} of the {len(head.classes)} classes of '{head.name}'"
                found.append(f"the sample asks for {share}, and not for {listed(left_out)}")
        return found

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the values of `table` (all text; columns may be missing)."""
        if self.by_row:
            return self._row_problems(table)
        found: list[Problem] = []
        for name in [name for name in table.columns if name != self.id_column]:
            found += self._cell_problems(name, table[name])
        for head, names in self._numbers_by_head():
            if not found and set(names) <= set(table.columns):
                found += kind_of(head).columns.row_problems(table[names], self.metric)
        return found

    def _row_problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the rows of each head, where each row is of one; ids are judged elsewhere."""
        found: list[Problem] = []
        name, heads = self.columns[0].name, [column.head for column in self.columns]
        if {self.id_column, name} <= set(table) and (named := heads_of_rows(table[self.id_column], heads)) is not None:
            for column in self.columns:
                values = table[name][named["head"] == column.head.name]
                found += kind_of(column.head).columns.cell_problems(name, values, column, self.metric)
        return found

    def _cell_problems(self, name: str, values: pd.Series) -> list[Problem]:
        column = next((column for column in self.columns if column.name == name), None)
        if column is None and name not in self.numeric:
            return blank_problems(name, values)
        head = self.first if column is None else column.head
        return kind_of(head).columns.cell_problems(name, values, column, self.metric)

    def _numbers_by_head(self) -> Iterator[tuple[Head, list[str]]]:
        """The columns of each head that hold numbers."""
        for head in {column.head.name: column.head for column in self.columns}.values():
            yield head, [column.name for column in self.columns if column.head is head and column.of is not None]
        if not self.columns:
            yield self.first, list(self.numeric)
