"""Faults of target columns and groups: missing, rare, unseen and misspelt classes, and numbers that are none."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.faults import Fault, each, together
from pipeline.data.folds import CLASSES, is_scored
from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, answers, loose, strict
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID
from pipeline.settings import Settings
from toolkit.errors import listed

EMPTY = ("nan", "none", "null", "na", "n/a", "<na>", "nat", "")


def label_faults(
    rows: pd.DataFrame, labels: Labels, settings: Settings, classes: Mapping[str, Sequence[str]]
) -> Iterator[Fault]:
    """Missing labels and groups, labels that are no class, columns with one class, one thing in several spellings."""
    if ROW_GROUP in rows:
        empty = rows[ROW_ID][rows[ROW_GROUP].isna()]
        yield from each("missing group", empty, f"'{settings.group_column or ROW_GROUP}' is empty")
        yield from spelling_faults("groups", rows[ROW_GROUP].dropna(), rows[ROW_FOLD])
    for column in settings.target_columns:
        if column not in rows:
            yield Fault("table", column, "the training rows have no such target column")
            continue
        cells = labels.cells(rows, column)
        yield from each("missing label", rows[ROW_ID].loc[cells.index[cells.isna()]], f"'{column}' is empty")
        cells = cells.dropna().astype(str).rename(column)
        if 0 < cells.nunique() < labels.fewest_classes:
            detail = f"all rows have the label '{cells.iloc[0]}'; name another column in competition.yaml"
            yield Fault("labels", column, detail)
        wrong = cells[~cells.isin(classes[column])] if column in classes else cells[:0]
        problem, what = "unknown label", f"of '{column}' is not in folds/{CLASSES}"
        if column in labels.named:
            yield from spelling_faults("labels", cells)
        else:
            wrong = cells[~np.isfinite(pd.to_numeric(cells, errors="coerce"))]
            problem, what = "no number", f"of '{column}' is no finite number"
        for name, cell in zip(rows[ROW_ID].loc[wrong.index], wrong, strict=True):
            yield Fault(problem, str(name), f"'{cell}' {what}")


def spelling_faults(problem: str, cells: pd.Series, folds: pd.Series | None = None) -> Iterator[Fault]:
    """Classes or groups that are one in several spellings, and those that are the text of a missing value.

    Args:
        cells: every label or group, str.
        folds: of groups, the fold of each row: folds that were made without knowing that they are one tear them apart.
    """
    counts, column = cells.value_counts(), str(cells.name)
    remedy = f'make them one in src/competition/tables.py: rows["{column}"] = rows["{column}"].replace(...)'
    found = [(same, "differ by case, spaces or zeros only", bool(alike(same, strict))) for same in alike(counts.index)]
    if folds is None:
        found += [(same, f"all say {word}", True) for word, same in answers(counts.index).items()]
    else:
        n_folds = folds[folds >= 0].groupby(cells.map(loose)).nunique()
        torn = [n_folds.get(loose(same[0]), 0) > 1 for same, _, _ in found]
        ends = {True: ", and lie in several folds: make the folds anew", False: "; make_folds.py keeps them together"}
        found = [(same, what + ends[bad], sure and bad) for (same, what, sure), bad in zip(found, torn, strict=True)]
    for same, what, fatal in found:
        texts = ", ".join(f"{name!r} ({counts[name]} rows)" for name in same[:5])
        yield Fault(problem, column, f"{texts} {what}; {remedy}", fatal)
    for name in [name for name in counts.index if name.strip().lower() in EMPTY]:
        if folds is None or counts[name] > 1:
            detail = f"{name!r} stands in {counts[name]} rows; where it means that nothing is known, drop these rows"
            detail += " in src/competition/tables.py" + ("" if folds is None else ", or give each a group of its own")
            yield Fault(problem, column, detail, fatal=folds is None and not name.strip())


def target_faults(train: pd.DataFrame, test: pd.DataFrame, labels: Labels, n_folds: int) -> Iterator[Fault]:
    """Equal target columns, classes that cannot be in every fold, labels of test rows that nothing trains on.

    Args:
        train, test: rows; a test table seldom has targets.
        n_folds: how many there are, or are going to be.
    """
    columns = [column for column in labels.targets if column in train]
    for first, second in itertools.combinations(columns, 2):
        if train[first].notna().any() and train[first].equals(train[second]):
            detail = "these targets are the same in every row; drop one from target_columns in competition.yaml"
            yield Fault("equal targets", f"{first}, {second}", detail, fatal=False)
    for column in [column for column in columns if column in labels.named]:
        cells = labels.cells(train, column).dropna().astype(str).rename(column)
        yield from _rare_classes(train.loc[cells.index], cells, n_folds)
        asked = labels.cells(test, column).dropna().astype(str) if column in test else cells[:0]
        unseen = asked[~asked.isin(cells)]
        detail = f"'{column}' of {len(unseen)} test rows is {listed(unseen.unique(), 5)}, which no training row has"
        yield from together("unseen labels", test[ROW_ID].loc[unseen.index], detail, fatal=False)


def _rare_classes(rows: pd.DataFrame, cells: pd.Series, n_folds: int) -> Iterator[Fault]:
    """Classes of too few rows for each fold to hold one out; the rows are aligned with the cells."""
    scored = is_scored(rows).to_numpy()
    unit = ROW_GROUP if ROW_GROUP in rows else ROW_ID  # what a fold holds out as one
    counts = rows[unit][scored].groupby(cells[scored].to_numpy()).nunique().sort_values(kind="stable")
    rare = counts[counts < n_folds] if len(counts) > 1 else counts[:0]
    alone = f"; the {(rare == 1).sum()} with one only are never trained on where they are held out"
    few = listed((f"{name}: {count}" for name, count in rare.items()), 5)
    detail = (
        f"{len(rare)} of {len(counts)} classes of '{cells.name}' have fewer {'groups' if unit == ROW_GROUP else 'rows'}"
        f" than the {n_folds} folds ({few}){alone if 1 in rare.values else ''}; merge classes in tables.py"
    )
    yield from together("rare classes", rows[ROW_ID][scored & cells.isin(rare.index).to_numpy()], detail, fatal=False)


def limit_faults(rows: pd.DataFrame, heads: Iterable[Head]) -> Iterator[Fault]:
    """Numbers outside the limits of their head."""
    limits = {head.name: head.limits for head in heads if head.limits is not None and head.name in rows}
    for column, (least, most) in limits.items():
        values = pd.to_numeric(rows[column], errors="coerce")
        outside = rows[(values < least) | (values > most)]
        for name, cell in zip(outside[ROW_ID], outside[column], strict=True):
            detail = f"{cell} of '{column}' is outside its limits, {least:g} to {most:g}; correct the row, or them"
            yield Fault("outside the limits", str(name), detail)
