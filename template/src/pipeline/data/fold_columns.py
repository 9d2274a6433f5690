"""What `make_folds.py` shows of each fold beside its number of rows: classes, positives, or the range of numbers."""

import numpy as np
import pandas as pd

from pipeline.data.folds import FoldTable, class_order
from pipeline.data.labels import Labels
from pipeline.data.spellings import FALSE, TRUE, loose
from pipeline.keys import ROW_FOLD
from toolkit.errors import listed

MOST_CLASSES = 8  # of which each is counted by name


def fold_columns(folds: FoldTable, labels: Labels) -> dict[str, list[str]]:
    """Columns of the printed table, a cell for each fold."""
    rows = folds.rows[folds.rows[ROW_FOLD] >= 0]
    counts = {
        column: _counts(rows, labels, column, folds.n_folds) for column in labels.targets if column in labels.named
    }
    flags = [column for column, found in counts.items() if all(loose(name) in (*TRUE, *FALSE) for name in found.index)]
    if len(flags) > 1:  # a column for each label
        hold = {column: [loose(name) in TRUE for name in counts[column].index] for column in flags}
        positives = pd.DataFrame({column: counts.pop(column)[hold[column]].sum() for column in flags}).T
        counts = {"positives": positives, **counts}
    found: dict[str, list[str]] = {}
    for column in ["positives", *labels.targets]:
        if column in counts:
            found[column] = _class_cells(counts[column], "labels" if column == "positives" else "classes")
        elif column not in labels.named and column in rows:
            found[column] = _numbers(rows, column, folds.n_folds)
    single = {column: _classes_of_one_fold(table) for column, table in counts.items()}
    return found | {f"{column}: only here": cells for column, cells in single.items() if any(cells)}


def _counts(rows: pd.DataFrame, labels: Labels, column: str, n_folds: int) -> pd.DataFrame:
    """int64 (classes, folds): how many rows of each class a fold holds."""
    cells = labels.cells(rows, column).dropna().astype(str)
    counts = pd.crosstab(cells.to_numpy(), rows.loc[cells.index, ROW_FOLD].to_numpy())
    return counts.reindex(index=class_order(cells), columns=range(n_folds), fill_value=0)


def _class_cells(counts: pd.DataFrame, what: str) -> list[str]:
    """How many rows each class has in a fold; of many classes, how many there are and how often the rarest is."""
    if len(counts) <= MOST_CLASSES:
        return [", ".join(f"{name}: {count}" for name, count in counts[fold].items()) for fold in counts]
    cells = []
    for fold in counts:
        there = counts[fold][counts[fold] > 0]
        rarest = f", the rarest {there.idxmin()}: {there.min()}" if len(there) else ""
        cells.append(f"{len(there)} of {len(counts)} {what}{rarest}")
    return cells


def _classes_of_one_fold(counts: pd.DataFrame) -> list[str]:
    """The classes that a fold holds out as a whole, so that its run never trains them."""
    whole = counts[(counts > 0).sum(axis=1) == 1]
    names = [whole.index[whole[fold] > 0] for fold in counts]
    return [f"{len(found)} ({listed(found, 2)})" if len(found) else "" for found in names]


def _numbers(rows: pd.DataFrame, column: str, n_folds: int) -> list[str]:
    """Mean and range of numbers."""
    numbers = pd.to_numeric(rows[column], errors="coerce").astype("float64")
    parts = [numbers[rows[ROW_FOLD] == fold].dropna() for fold in range(n_folds)]
    return [
        f"mean {np.mean(part):.4g}, {part.min():.4g} to {part.max():.4g}" if len(part) else "no number"
        for part in parts
    ]
