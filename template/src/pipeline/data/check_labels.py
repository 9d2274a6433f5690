"""Faults of target columns and groups: missing, rare, unseen and misspelt classes, and numbers that are none."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.faults import Fault
from pipeline.data.folds import CLASSES, is_scored
from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, answers, are_one, loose
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID
from pipeline.settings import Settings
from toolkit.errors import listed

MISSING = ("nan", "none", "null", "na", "n/a", "<na>", "nat", "")


def label_faults(
    rows: pd.DataFrame, labels: Labels, settings: Settings, classes: Mapping[str, Sequence[str]]
) -> Iterator[Fault]:
    """Missing labels and groups, labels that are no class, columns with one class, one thing in several spellings."""
    if ROW_GROUP in rows:
        for name in rows[ROW_ID][rows[ROW_GROUP].isna()]:
            yield Fault("missing group", str(name), f"'{settings.group_column or ROW_GROUP}' is empty")
        yield from group_spellings(rows)
    for column in settings.target_columns:
        if column not in rows:
            yield Fault("table", column, "the training rows have no such target column")
            continue
        cells = labels.cells(rows, column)
        for name in rows[ROW_ID].loc[cells.index[cells.isna()]]:
            yield Fault("missing label", str(name), f"'{column}' is empty")
        found = cells.dropna().astype(str)
        if 0 < found.nunique() < labels.fewest_classes:
            detail = f"all rows have the label '{found.iloc[0]}'; name another column in competition.yaml"
            yield Fault("labels", column, detail)
        for name, label in zip(rows.loc[found.index, ROW_ID], found, strict=True):
            if column in classes and label not in classes[column]:
                yield Fault("unknown label", str(name), f"'{label}' of '{column}' is not in folds/{CLASSES}")
        if column in labels.named:
            yield from label_spellings(column, found)


def label_spellings(column: str, cells: pd.Series) -> Iterator[Fault]:
    """Classes that are one in several spellings, and those that are the text of a missing value.

    Args:
        cells: every label of the rows (str).
    """
    remedy = f'make them one in src/competition/tables.py: rows["{column}"] = rows["{column}"].replace(...)'
    counts = cells.value_counts()
    for same in alike(counts.index):
        detail = (
            f"{_counted(same, counts)} differ by case, spaces or zeros only, and are classes of their own; {remedy}"
        )
        yield Fault("labels", column, detail, fatal=are_one(same))
    said = answers(counts.index)
    for word, same in said.items():
        if len(same) > 1:
            yield Fault("labels", column, f"{_counted(same, counts)} all say {word}; {remedy}")
    for name in [name for name in counts.index if name.strip().lower() in MISSING]:
        detail = (
            f"{name!r} is the class of {counts[name]} rows; where it means that the label is not known, drop these "
            "rows in src/competition/tables.py"
        )
        yield Fault("labels", column, detail, fatal=not name.strip())


def group_spellings(rows: pd.DataFrame) -> Iterator[Fault]:
    """Groups that are one in several spellings: folds that were made without knowing it tear them apart."""
    if ROW_GROUP not in rows:
        return
    known = rows[rows[ROW_GROUP].notna()]
    counts = known[ROW_GROUP].value_counts()
    found = alike(counts.index)
    if found:
        keys = known[ROW_GROUP].map(loose)
        scored = known[ROW_FOLD] >= 0
        torn = known.loc[scored, ROW_FOLD].groupby(keys[scored]).nunique() > 1
        leaks = [same for same in found if bool(torn.get(loose(same[0]), False))]
        what = (
            f"{len(found)} groups stand in several spellings ({listed((_counted(same, counts) for same in found), 2)})"
        )
        where = f", and {len(leaks)} of them lie in several folds" if leaks else "; make_folds.py keeps them together"
        remedy = (
            "give each one name in src/competition/tables.py, such as "
            f'rows["{ROW_GROUP}"].str.strip().str.lower(){", and make the folds anew" if leaks else ""}'
        )
        yield Fault("groups", ROW_GROUP, f"{what}{where}; {remedy}", fatal=any(map(are_one, leaks)))
    for name in [name for name in counts.index if name.strip().lower() in MISSING and counts[name] > 1]:
        detail = f"{counts[name]} rows are one group called {name!r}; where it means that the group is not known, "
        detail += "give each such row a name of its own in src/competition/tables.py"
        yield Fault("groups", ROW_GROUP, detail, fatal=False)


def _counted(names: Sequence[str], counts: pd.Series) -> str:
    return ", ".join(f"{name!r} ({counts[name]} rows)" for name in names[:5])


def target_faults(train: pd.DataFrame, test: pd.DataFrame, labels: Labels, n_folds: int) -> Iterator[Fault]:
    """Equal target columns, classes that cannot be in every fold, labels of test rows that nothing trains on.

    Args:
        train, test: rows; a test table seldom has targets.
        n_folds: how many there are, or are going to be.
    """
    there = [column for column in labels.targets if column in train]
    for first, second in itertools.combinations(there, 2):
        if train[first].notna().any() and train[first].equals(train[second]):
            detail = "these targets are the same in every row; drop one from target_columns in competition.yaml"
            yield Fault("equal targets", f"{first}, {second}", detail, fatal=False)
    for column in [column for column in there if column in labels.named]:
        whole = _by_label(train, labels, column)
        yield from _rare_classes(whole[is_scored(whole)], column, n_folds)
        if column in test:
            asked = _by_label(test, labels, column)
            unseen = asked[asked[column].notna() & ~asked[column].isin(whole[column])]
            if len(unseen):
                detail = (
                    f"'{column}' of {len(unseen)} test rows is {listed(unseen[column].unique(), 5)}, which no training "
                    "row has and nothing can predict; find such rows, or leave the column out of test_rows in tables.py"
                )
                yield Fault("unseen labels", listed(unseen[ROW_ID]), detail, fatal=False)


def number_faults(train: pd.DataFrame, labels: Labels, heads: Iterable[Head]) -> Iterator[Fault]:
    """What is no number in a column of numbers, and numbers outside the limits of their head."""
    limits = {head.name: head.limits for head in heads if head.limits is not None}
    for column in [column for column in labels.targets if column in train]:
        values = pd.to_numeric(train[column], errors="coerce")
        if column not in labels.named:
            strange = train[train[column].notna() & ~np.isfinite(values)]
            for name, cell in zip(strange[ROW_ID], strange[column], strict=True):
                yield Fault("no number", str(name), f"'{cell}' of '{column}' is no finite number")
        if column in limits:
            least, most = limits[column]
            outside = (values < least) | (values > most)
            for name, cell in zip(train.loc[outside, ROW_ID], train.loc[outside, column], strict=True):
                detail = f"{cell} of '{column}' is outside its limits, {least:g} to {most:g}; correct the row, or them"
                yield Fault("outside the limits", str(name), detail)


def _by_label(rows: pd.DataFrame, labels: Labels, column: str) -> pd.DataFrame:
    """The rows, one for each label in the column."""
    cells = labels.cells(rows, column)
    return rows.loc[cells.index].assign(**{column: cells})


def _rare_classes(rows: pd.DataFrame, column: str, n_folds: int) -> Iterator[Fault]:
    whole = rows[rows[column].notna()]
    unit = ROW_GROUP if ROW_GROUP in rows else ROW_ID  # what a fold holds out as one
    counts = whole.groupby(whole[column].astype(str))[unit].nunique().sort_values(kind="stable")
    rare = counts[counts < n_folds]
    if rare.empty or len(counts) < 2:
        return
    things = "groups" if unit == ROW_GROUP else "rows"
    single = int((rare == 1).sum())
    alone = f"; the {single} with one only are never trained on where they are held out" if single else ""
    few = listed((f"{name}: {count}" for name, count in rare.items()), 5)
    detail = (
        f"{len(rare)} of {len(counts)} classes of '{column}' have fewer {things} than the {n_folds} folds ({few}), so "
        f"some folds hold out none of them{alone}; add rows, merge classes in tables.py, or make fewer folds"
    )
    yield Fault("rare classes", listed(whole[ROW_ID][whole[column].astype(str).isin(rare.index)]), detail, fatal=False)
