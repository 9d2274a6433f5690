"""How predictions become the columns of a sample submission, and what may stand in them, as text.

One column per class (its probability), or one per head, which may have any name where there is a single head. Or one
column for them all, in a row for each image and class, or image and head: ids end in its name (`ID_12_edema`), or a
column of its own holds it. What each holds, the `Columns` of the head know.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.base import kind_of
from pipeline.heads.columns import Column
from pipeline.submission_schema import Keys, Problem, sample_id_column
from toolkit.errors import UserError, listed, nearest

MARK = re.compile(r"[^0-9A-Za-z]")
Known = dict[str, tuple[Head, str | None]]  # name -> what is held under it, as in `Column`


@dataclass(frozen=True)
class SubmissionRules:
    """The rules of one competition's submission for the grader of a metric."""

    id_column: str
    columns: tuple[Column, ...]  # what is predicted
    metric: Metric
    extra: tuple[str, ...] = ()  # further columns, which are the sample's
    cell: str = ""  # the one column that holds all `columns`, each in rows of its own; empty where each is a column
    key: str = ""  # the column with the names of those rows; empty where ids end in them
    mark: str = ""  # what stands before them there

    @property
    def keys(self) -> Keys:
        columns = (self.id_column, self.key) if self.key else (self.id_column,)
        return Keys(columns, rows=self.rows if self.cell else None)

    @property
    def heads(self) -> list[Head]:
        return list(dict.fromkeys(column.head for column in self.columns))

    def rows(self, ids: pd.Series) -> pd.DataFrame:
        """The rows that these predictions should have, of key columns alone."""
        images = ids.astype(str).repeat(len(self.columns)).reset_index(drop=True)
        names = pd.Series([column.name for column in self.columns] * len(ids), dtype="str")
        keys = {self.id_column: images, self.key: names} if self.key else {self.id_column: images + self.mark + names}
        return pd.DataFrame(keys)

    def described(self) -> list[str]:
        """What each column holds."""
        return [f"{column.name}: {kind_of(column.head).columns.described(column)}" for column in self.columns]

    def notes(self) -> list[str]:
        """Classes that were trained and that a sample with a column or row for each class does not ask for; columns
        that nothing predicts."""
        found = []
        if self.extra:
            found.append(f"no class or target is called {listed(map(repr, self.extra))}: filled as in the sample")
        for head in self.heads:
            asked = {column.of for column in self.columns if column.head is head} - {None}
            left_out = [name for name in head.classes if name not in asked]
            if len(asked) > 1 and left_out:
                share = f"{len(asked)} of the {len(head.classes)} classes of '{head.name}'"
                found.append(f"the sample asks for {share}, and not for {listed(left_out)}")
        return found

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the values of `table` (all text; columns may be missing), ids aside."""
        found: list[Problem] = []
        if self.cell:
            if not {self.cell, *self.keys.columns} <= set(table.columns):
                return []
            names = {column.name: f"{column.head.name} {column.of is None}" for column in self.columns}
            held = (table[self.key] if self.key else names_in(table[self.id_column], names)["name"]).map(names)
            for column in {
                names[column.name]: column for column in self.columns
            }.values():  # classes are judged at once
                values = table[self.cell][(held == names[column.name]).to_numpy()]
                found += kind_of(column.head).columns.cell_problems(self.cell, values, column, self.metric)
            return found
        for column in self.columns:
            if column.name in table:
                judged = kind_of(column.head).columns
                found += judged.cell_problems(column.name, table[column.name], column, self.metric)
        for head in self.heads:
            numbers = [column.name for column in self.columns if column.head is head and column.of is not None]
            if not found and set(numbers) <= set(table.columns):
                found += kind_of(head).columns.row_problems(table[numbers], self.metric)
        return found


def rules_of(
    sample: pd.DataFrame, id_column: str, heads: Sequence[Head], metric: Metric, ids: Collection[str] = ()
) -> SubmissionRules:
    """What the sample (all text) asks for; a `UserError` where it is of no known form.

    A class's column or row is called `head_class` or `head:class`, or like the class where only one head has it; some
    may be missing. Beside all classes or targets there may be further columns. `ids` are those of the predictions, as
    far as they are known: such an id does not end in the name of a class.
    """
    id_column = sample_id_column(list(sample.columns), id_column)
    names = [name for name in sample.columns if name != id_column]
    by_head: Known = {head.name: (head, kind_of(head).columns.single_column(metric)) for head in heads}
    pairs = [(head, name) for head in heads for name in kind_of(head).columns.classes]
    counts = Counter(name for _, name in pairs)
    by_class: Known = {f"{head.name}{mark}{name}": (head, name) for head, name in pairs for mark in ":_"}
    by_class |= {name: (head, name) for head, name in pairs if counts[name] == 1}
    alone = len(heads) == 1 and names == [heads[0].name]
    known: Known = by_class | by_head if len(heads) > 1 else by_class
    if not alone and (rules := _by_row(sample, id_column, known, metric, ids)) is not None:
        return rules
    twice = sample[id_column][sample[id_column].duplicated()].unique()
    if len(twice):
        what = f"{len(twice)} ids of column '{id_column}' stand more than once ({listed(twice)})"
        remedy = "correct id_column in competition.yaml, or build the rows in src/competition/submission.py"
        raise UserError(f"the sample submission: {what}; {remedy}")
    known = by_class if all(name in by_class or name.strip() in by_class for name in names) else by_class | by_head
    found = {name: known.get(name) or known.get(name.strip()) for name in names}
    held = set(found.values())
    if len(names) == 1 and len(heads) == 1 and None in held:
        found = {names[0]: by_head[heads[0].name]}
    elif None in held and not all(
        by_head[head.name] in held or (head.classes and held >= {(head, name) for name in head.classes})
        for head in heads
    ):
        strange = [name.strip() for name, of in found.items() if of is None]
        what = f"the columns {listed(map(repr, strange), 5)}, neither a trained class nor a target column"
        hint = nearest(strange[0], [*by_head, *counts])
        raise UserError(f"the sample submission has {what}; {hint} (fill them in src/competition/submission.py)")
    shown = {name: tuple(map(str, sample[name].dropna().unique())) for name in names}
    columns = [Column(name, *of, shown[name]) for name, of in found.items() if of is not None]
    if columns and not {columns[0].name, columns[0].name.strip()} & known.keys():
        _require_form(columns[0], metric)
    return SubmissionRules(id_column, tuple(columns), metric, tuple(name for name, of in found.items() if of is None))


def _require_form(column: Column, metric: Metric) -> None:
    """Raise a `UserError` where a column of another name than the head's shows cells of several words, none of them a
    label: boxes, say."""
    known = set(column.head.classes)
    odd = [cell for cell in column.shown if len(words := cell.split()) > 1 and not {cell, *words} & known]
    if odd and kind_of(column.head).columns.cell_problems(column.name, pd.Series(odd[:1]), column, metric):
        what = f"'{odd[0][:40]}' in column '{column.name}', which is no {'number' if column.of else 'label'}"
        raise UserError(f"the sample submission has {what}; fill it in src/competition/submission.py")


def _by_row(
    sample: pd.DataFrame, id_column: str, known: Known, metric: Metric, ids: Collection[str]
) -> SubmissionRules | None:
    """The rules of a sample with a row for each image and class, or image and head; none where it has no such."""
    names = [name for name in sample.columns if name != id_column]
    key = next((name for name in names if sample[name].isin(known).all()), "") if len(names) == 2 else ""
    columns = [id_column, *([key] if key else [])]
    if sample.empty or len(names) != len(columns) or sample.duplicated(columns).any():
        return None
    parts = sample[columns].set_axis(["image", "name"], axis=1) if key else names_in(sample[id_column], known)
    marks = [""] if key else parts["mark"].unique()
    if parts.isna().to_numpy().any() or len(marks) > 1:
        return None
    cells = sample[next(name for name in names if name != key)].groupby(parts["name"], sort=False).unique()
    found = [Column(str(name), *known[str(name)], tuple(map(str, shown))) for name, shown in cells.items()]
    if any(column.name != column.head.name for column in found):  # each image has all classes
        head, images = found[0].head, parts["image"]
        whole = len(sample) == images.nunique() * len(found) > images.nunique()
        # ids may merely end in numbers, and classes be called by numbers
        likely = names[0] != head.name and (images.isin(ids).any() or len(found) >= len(head.classes))
        if not whole or not (key or (likely and not sample[id_column].isin(ids).any())):
            return None
    return SubmissionRules(id_column, tuple(found), metric, (), str(cells.name), key, marks[0])


def names_in(ids: pd.Series, names: Collection[str]) -> pd.DataFrame:
    """The columns `image`, `mark` and `name` of ids that end in one of the names, of several in the longest; missing
    where an id ends in none."""

    def parts(text: str) -> tuple[str | None, ...]:
        marks = (mark for mark in MARK.finditer(text) if text[mark.end() :] in names)
        mark = next(marks, None)
        return (None,) * 3 if mark is None else (text[: mark.start()], mark[0], text[mark.end() :])

    return pd.DataFrame(list(map(parts, ids)), ids.index, ["image", "mark", "name"])


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str
) -> pd.DataFrame:
    """The sample's columns, one row per row of `predictions`, or per row and class or head: ids and labels as text,
    numbers as float64. A `UserError` where the columns are not recognised, or the predictions lack one."""
    ids = predictions.index.to_series().astype(str)
    rules = rules_of(sample, id_column, heads, metric, set(ids))
    values: dict[str, np.ndarray] = {}
    for head in dict.fromkeys(column.head for column in rules.columns):
        missing = [name for name in kind_of(head).columns.names if name not in predictions]
        if missing:
            raise UserError(f"the predictions lack the column '{missing[0]}'; the classes have changed: predict again")
        own = [column for column in rules.columns if column.head is head]
        values |= kind_of(head).columns.fill(predictions, own, metric)
    if rules.cell:
        same = len({cells.dtype for cells in values.values()}) == 1  # floats are written shorter than objects
        cells = np.stack([values[c.name] if same else values[c.name].astype(object) for c in rules.columns], axis=1)
        return rules.rows(ids).assign(**{rules.cell: cells.ravel()})[list(sample.columns)]
    table = pd.DataFrame({rules.id_column: predictions.index.to_numpy(), **values})
    return rules.keys.completed(table, sample) if rules.extra else table[list(sample.columns)]
