"""How predictions become the columns of a sample submission, and what may stand in them, as text.

One column per class (its probability), or one column per head, which may have any name where there is a single head.
Or one row per image and head, whose ids end in the name of the head. What each holds, the `Columns` of the head know.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.base import kind_of
from pipeline.heads.cells import blank, judge
from pipeline.heads.columns import Column
from pipeline.submission_schema import Keys, Problem, sample_id_column
from toolkit.errors import UserError, listed, nearest


def columns_of(sample: pd.DataFrame, id_column: str, heads: Sequence[Head], metric: Metric) -> tuple[Column, ...]:
    """What each column of the sample (all text) but the id's holds; with a row for each image and head, what its one
    column holds in the rows of each head. A `UserError` where they are of no known kind. A class's column is called
    `head_class` or `head:class`, or like the class where only one head has it; some may be missing."""
    names = [name for name in sample.columns if name != id_column]
    by_head = {head.name: (head, kind_of(head).columns.single_column(metric)) for head in heads}
    predicted = {name for head in heads for name in kind_of(head).columns.names}
    pairs = [(head, name) for head in heads for name in head.classes if f"{head.name}:{name}" in predicted]
    counts = Counter(name for _, name in pairs)
    by_class = {f"{head.name}{mark}{name}": (head, name) for head, name in pairs for mark in ":_"}
    by_class |= {name: (head, name) for head, name in pairs if counts[name] == 1}
    found = [name if name in by_head or name in by_class else name.strip() for name in names]
    cells = [sample[name] for name in names]
    if len(names) == 1 and len(heads) > 1 and (rows := heads_of_rows(sample[id_column], heads)) is not None:
        holds, names = list(by_head.values()), names * len(heads)
        cells = [cells[0][rows["head"] == head.name] for head in heads]
    elif names and by_class.keys() >= set(found):
        holds = [by_class[name] for name in found]
    elif names and by_head.keys() >= set(found):
        holds = [by_head[name] for name in found]
    elif len(names) == 1 and len(heads) == 1:
        holds = list(by_head.values())
    else:
        strange = [name for name in found if name not in by_class and name not in by_head] or names
        what = f"the columns {listed(map(repr, strange), 5)}, neither a trained class nor a target column"
        hint = nearest(strange[0], [*by_head, *counts])
        raise UserError(f"the sample submission has {what}; {hint} (fill them in src/competition/submission.py)")
    values = [tuple(map(str, each.dropna().unique())) for each in cells]
    return tuple(Column(name, *of, texts) for name, of, texts in zip(names, holds, values, strict=True))


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
    float64. A `UserError` where the columns are not recognised, or the predictions lack one."""
    id_column = sample_id_column(list(sample.columns), id_column)
    columns = columns_of(sample, id_column, heads, metric)
    filled: dict[str, dict[str, np.ndarray]] = {}
    for head in dict.fromkeys(column.head for column in columns):
        missing = [name for name in kind_of(head).columns.names if name not in predictions]
        if missing:
            raise UserError(f"the predictions lack the column '{missing[0]}'; the classes have changed: predict again")
        own = [column for column in columns if column.head is head]
        filled[head.name] = kind_of(head).columns.fill(predictions, own, metric)
    if len(columns) == len(sample.columns) - 1:
        values = {name: value for of_head in filled.values() for name, value in of_head.items()}
        return pd.DataFrame({id_column: predictions.index.to_numpy(), **values})[list(sample.columns)]
    parts, rows = [], heads_of_rows(sample[id_column], heads)
    for mark, head_name in [] if rows is None else rows.drop_duplicates().itertuples(index=False):
        [(name, cells)] = filled[head_name].items()
        ids = predictions.index.astype(str) + mark + head_name
        parts.append(pd.DataFrame({id_column: ids, name: cells.astype(object)}))
    return pd.concat(parts, ignore_index=True)[list(sample.columns)]


@dataclass(frozen=True)
class SubmissionRules:
    """The rules of one competition's submission for the grader of a metric."""

    id_column: str
    columns: tuple[Column, ...]  # as `columns_of` says; empty for a format of the user's own, which follows the sample:
    metric: Metric
    first: Head  # this head's kind judges
    numeric: tuple[str, ...]  # those columns that hold numbers there

    @property
    def keys(self) -> Keys:
        return Keys((self.id_column,))

    @property
    def by_row(self) -> bool:
        """Whether one column holds what `columns` say, each in the rows of its head."""
        return len({column.name for column in self.columns}) < len(self.columns)

    @property
    def heads(self) -> list[Head]:
        return list(dict.fromkeys(column.head for column in self.columns))

    def described(self) -> list[str]:
        """What each column holds."""
        return [f"{column.name}: {kind_of(column.head).columns.described(column)}" for column in self.columns]

    def notes(self) -> list[str]:
        """Classes that were trained and that a sample with a column for each class does not ask for."""
        found = []
        for head in self.heads:
            asked = {column.of for column in self.columns if column.head is head} - {None}
            left_out = [name for name in head.classes if name not in asked]
            if len(asked) > 1 and left_out:
                share = f"{len(asked)} of the {len(head.classes)} classes of '{head.name}'"
                found.append(f"the sample asks for {share}, and not for {listed(left_out)}")
        return found

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the values of `table` (all text; columns may be missing), ids aside."""
        rows = heads_of_rows(table[self.id_column], self.heads) if self.id_column in table else None
        if self.by_row and rows is None:
            return []
        judged = [(column.name, column, column.head) for column in self.columns if column.name in table]
        unknown = [] if self.columns else [name for name in table.columns if name != self.id_column]
        found: list[Problem] = []
        for name, column, head in [*judged, *((name, None, self.first) for name in unknown)]:
            values = table[name][rows["head"] == head.name] if rows is not None and self.by_row else table[name]
            if column is None and name not in self.numeric:
                found += judge(name, values, blank(values))
            else:
                found += kind_of(head).columns.cell_problems(name, values, column, self.metric)
        if found or self.by_row:
            return found
        numbers = {h: [c.name for c in self.columns if c.head is h and c.of is not None] for h in self.heads}
        for head, names in (numbers or {self.first: list(self.numeric)}).items():
            if not found and set(names) <= set(table.columns):
                found += kind_of(head).columns.row_problems(table[names], self.metric)
        return found
