"""Samplers: which rows an epoch sees, and in which order.

A sampler is called with the training rows and the epoch's own generator, and returns positions of rows, int64 (N,).
N is the same for every epoch. A row's `weight` multiplies its loss whichever sampler is chosen. Each raises a
`UserError` where its column is missing or holds what it cannot use, or where its settings leave no row.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.keys import ROW_GROUP, ROW_ID, ROW_SOURCE, ROW_WEIGHT, SOURCE_COMPETITION
from toolkit.errors import UserError, listed, nearest

Positions = NDArray[np.int64]


def shuffle(rows: pd.DataFrame, generator: np.random.Generator, *, times: int = 1) -> Positions:
    """Every row `times` times: one permutation after the other."""
    return _repeated(np.arange(len(rows)), _at_least_one(times, "shuffle: times") * len(rows), generator)


def balanced(
    rows: pd.DataFrame, generator: np.random.Generator, *, column: str, power: float = 1.0, length: float = 1.0
) -> Positions:
    """As many rows of each value of `column`, such as a target; the rows of a value are used evenly.

    Args:
        power: a value with n rows has a share in proportion to n^(1 - power): 1 equal shares, 0 shares as they are.
        length: rows of the epoch, over rows there are.
    """
    cells = _cells(rows, column, "balanced")
    # What has no order, such as a mask, is what it says of itself.
    codes, values = pd.factorize(cells.map(str) if cells.dtype == object else cells, sort=True)
    shares = np.bincount(codes, minlength=len(values)) ** (1 - power)
    total = _at_least_one(length * len(rows), "balanced: the length in rows")
    # Whole numbers, each less than one off its share; which are rounded up is drawn.
    edges = np.floor(np.cumsum((shares / shares.sum())[:-1]) * total + generator.random()).astype(np.int64)
    counts = np.diff(edges, prepend=0, append=total)
    drawn = [_repeated(np.flatnonzero(codes == code), int(count), generator) for code, count in enumerate(counts)]
    return generator.permutation(np.concatenate(drawn))


def weighted(
    rows: pd.DataFrame, generator: np.random.Generator, *, column: str = ROW_WEIGHT, length: float = 1.0
) -> Positions:
    """Rows drawn with replacement, in proportion to the numbers in `column`.

    The column `weight` also multiplies the losses: a row that is drawn by it counts by its square. Draw by a column of
    another name to have it count once.

    Args:
        length: rows of the epoch, over rows there are.
    """
    weights = pd.to_numeric(_cells(rows, column, "weighted"), errors="coerce").to_numpy(np.float64)
    right = np.isfinite(weights) & (weights >= 0)
    if not right.all() or not weights.any():
        wrong = rows.loc[~right | ~weights.any(), ROW_ID]
        what = f"sampler 'weighted': column '{column}' must hold numbers of at least 0, and not 0 alone"
        raise UserError(f"{what}; {len(wrong)} rows do not (id {listed(wrong)}); mend them in tables.py")
    total = _at_least_one(length * len(rows), "weighted: the length in rows")
    return generator.choice(len(rows), total, p=weights / weights.sum())


def groups(rows: pd.DataFrame, generator: np.random.Generator, *, per_group: int = 1) -> Positions:
    """At most `per_group` rows of each `group`, others in each epoch."""
    order, most = generator.permutation(len(rows)), _at_least_one(per_group, "groups: per_group")
    turn = _cells(rows, ROW_GROUP, "groups").iloc[order].reset_index(drop=True)
    return order[turn.groupby(turn).cumcount().to_numpy() < most]


def sources(
    rows: pd.DataFrame,
    generator: np.random.Generator,
    *,
    times: dict[str, float] | None = None,
    shares: dict[str, float] | None = None,
) -> Positions:
    """Rows by their `source`: so many times each, or so large a share of the epoch; all others are in once.

    Args:
        times: source -> how often each of its rows is in; 2.5 is twice, and half of them a third time.
        shares: source other than the competition -> its share of the epoch, in rows.
    """
    times, shares = times or {}, shares or {}
    source = _cells(rows, ROW_SOURCE, "sources")
    there = {name: np.flatnonzero(source == name) for name in sorted(set(source))}
    for name, value in (*times.items(), *shares.items()):
        if name not in there or not 0 <= value < np.inf:
            hint = nearest(name, there) if name not in there else "a number from 0 on is expected"
            raise UserError(f"sampler 'sources': {name}: {value:g} is of no training row, or no share of them; {hint}")
    if {SOURCE_COMPETITION, *times} & set(shares) or sum(shares.values()) >= 1:
        what = f"shares ({shares}) are for sources other than '{SOURCE_COMPETITION}' that have no times"
        raise UserError(f"sampler 'sources': {what}, and add up to less than 1; correct them")
    counts = {name: round(times.get(name, 1) * len(there[name])) for name in there if name not in shares}
    total = sum(counts.values()) / (1 - sum(shares.values()))
    counts |= {name: round(share * total) for name, share in shares.items()}
    return generator.permutation(np.concatenate([_repeated(there[name], counts[name], generator) for name in there]))


def _cells(rows: pd.DataFrame, column: str, sampler: str) -> pd.Series:
    """The column, which must be there and have a value in each row."""
    if column not in rows:
        hint = nearest(column, map(str, rows.columns))
        raise UserError(f"sampler '{sampler}': the rows have no column '{column}'; {hint} (tables.py makes them)")
    empty = rows.loc[rows[column].isna(), ROW_ID]
    if len(empty):
        where = f"column '{column}' is empty in {len(empty)} training rows (id {listed(empty)})"
        raise UserError(f"sampler '{sampler}': {where}; fill it in tables.py")
    return rows[column]


def _at_least_one(number: float, what: str) -> int:
    found = round(number) if np.isfinite(number) else 0
    if found < 1:
        raise UserError(f"sampler {what} is {number:g}; it must be at least 1")
    return found


def _repeated(positions: Positions, count: int, generator: np.random.Generator) -> Positions:
    """`count` of the positions, as whole permutations one after the other and a part of another one."""
    if not count:
        return positions[:0]
    return np.concatenate([generator.permutation(positions) for _ in range(-(-count // len(positions)))])[:count]
