"""What may stand in the columns of a submission. Everything is judged as text, as the grader will read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.base import kind_of
from pipeline.heads.cells import as_numbers, blank_problems
from pipeline.heads.columns import Column
from pipeline.heads.submission_columns import columns_of, heads_of_rows, row_columns
from pipeline.submission_schema import Keys, Problem, sample_id_column
from toolkit.errors import UserError, listed


def submission_rules(sample: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str) -> "SubmissionRules":
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
        found: list[Problem] = []
        if self.by_row:
            return [problem for column in self.columns for problem in self._row_problems(table, column)]
        for name in [name for name in table.columns if name != self.id_column]:
            found += self._cell_problems(name, table[name])
        for head, names in self._numbers_by_head():
            if not found and set(names) <= set(table.columns):
                found += kind_of(head).columns.row_problems(table[names], self.metric)
        return found

    def _row_problems(self, table: pd.DataFrame, column: Column) -> list[Problem]:
        """What is wrong with the rows of a head, where each row is of one."""
        heads = [column.head for column in self.columns]
        named = (
            heads_of_rows(table[self.id_column], heads) if set(table.columns) >= {self.id_column, column.name} else None
        )
        if named is None:  # the ids are judged elsewhere
            return []
        values = table[column.name][named["head"] == column.head.name]
        return kind_of(column.head).columns.cell_problems(column.name, values, column, self.metric)

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
