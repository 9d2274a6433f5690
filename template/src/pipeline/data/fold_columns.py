"""What `make_folds.py` shows of each fold beside its number of rows: classes, positives, or the range of numbers."""

import pandas as pd

from pipeline.data.folds import FoldTable, class_order
from pipeline.data.labels import Labels
from pipeline.data.spellings import FALSE, TRUE, loose
from pipeline.keys import ROW_FOLD
from toolkit.errors import listed

MOST_CLASSES = 8  # of which each is counted by name


def fold_columns(folds: FoldTable, labels: Labels) -> dict[str, list[str]]:
    """Columns of the printed table, a cell for each fold: classes, positives, or the mean and range of numbers."""
    rows, numbers = folds.rows[folds.rows[ROW_FOLD] >= 0], range(folds.n_folds)
    counts: dict[str, pd.DataFrame] = {}  # int64 (classes, folds): rows of each class that a fold holds
    found: dict[str, list[str]] = {}
    for column in labels.named:
        cells = labels.cells(rows, column).dropna().astype(str)
        made = pd.crosstab(cells.to_numpy(), rows.loc[cells.index, ROW_FOLD].to_numpy())
        counts[column] = made.reindex(index=class_order(cells), columns=numbers, fill_value=0)
    flags = [name for name, each in counts.items() if all(loose(label) in (*TRUE, *FALSE) for label in each.index)]
    if len(flags) > 1:  # one column of the table for all of them
        held = {name: counts.pop(name) for name in flags}
        sums = {name: each[[loose(label) in TRUE for label in each.index]].sum() for name, each in held.items()}
        counts = {"positives": pd.DataFrame(sums).T, **counts}
    for column in dict.fromkeys(["positives", *labels.targets]):
        if column in counts:
            found[column] = [_classes(counts[column][fold], column) for fold in numbers]
        elif column not in labels.named and column in rows:
            parts = pd.to_numeric(rows[column], errors="coerce").astype("float64").groupby(rows[ROW_FOLD])
            found[column] = [f"mean {part.mean():.4g}, {part.min():.4g} to {part.max():.4g}" for _, part in parts]
    for column, each in counts.items():  # what a fold holds out as a whole, so that its run never trains it
        whole = each[(each > 0).sum(axis=1) == 1]
        names = [whole.index[whole[fold] > 0] for fold in numbers]
        if len(whole):
            found[f"{column}: only here"] = [f"{len(some)} ({listed(some, 2)})" if len(some) else "" for some in names]
    return found


def _classes(counts: "pd.Series[int]", column: str) -> str:
    """How many rows each class has in a fold; of many classes, how many there are and how often the rarest is."""
    if len(counts) <= MOST_CLASSES:
        return ", ".join(f"{name}: {count}" for name, count in counts.items())
    there = counts[counts > 0]
    rarest = f", the rarest {there.idxmin()}: {there.min()}" if len(there) else ""
    return f"{len(there)} of {len(counts)} {'labels' if column == 'positives' else 'classes'}{rarest}"
