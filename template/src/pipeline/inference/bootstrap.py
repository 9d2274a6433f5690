"""What a score is worth: how it would change had other rows been drawn, by the percentile bootstrap (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16)."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.keys import ROW_GROUP, ROW_ID
from toolkit.terminal import progress

MOST, FEWEST = 500, 50  # resamples; where the time allows fewer than that, nothing is said
SECONDS = 20.0
INSIDE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where `INSIDE` of the resamples lie, how many of them, and what they draw."""

    low: float
    high: float
    resamples: int
    units: str

    @classmethod
    def of(cls, values: np.ndarray, groups: np.ndarray) -> "Interval | None":
        """That of the scores (R,) of resamples; none where they are too few."""
        if len(values) < FEWEST:
            return None
        low, high = np.quantile(values, [(1 - INSIDE) / 2, (1 + INSIDE) / 2])
        count = groups.max() + 1
        return cls(float(low), float(high), len(values), f"{count:,} {'rows' if count == len(groups) else 'groups'}")

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f} ({INSIDE:.0%} of {self.resamples:,} resamples of {self.units})"


def groups_of(rows: pd.DataFrame, ids: pd.Index) -> np.ndarray:
    """The number of the group of each id, int64 (N,): what is drawn as a whole. A row without one stands for itself."""
    names = pd.Series(ids, index=ids)
    if ROW_GROUP in rows:
        names = rows.set_index(ROW_ID)[ROW_GROUP].loc[ids].astype(object).fillna(names)
    return pd.factorize(names)[0]


def resampled(
    scores: Callable[[np.ndarray], Sequence[float]], groups: np.ndarray, most: int = MOST, seconds: float = SECONDS
) -> np.ndarray:
    """The scores (R, K) of resamples, as many as the time allows. Those in which one is not defined are left out.

    Args:
        scores: positions of the drawn rows, int64 -> K scores, NaN where one is not defined.
        groups: the number of the group of each row, int64 (N,).
    """
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    starts, generator = np.cumsum(sizes) - sizes, np.random.default_rng(0)
    scores(order)  # what is counted once for all of them is counted now
    found, began = [], time.monotonic()
    for _ in progress(range(most), "bootstrap"):
        drawn = generator.integers(len(sizes), size=len(sizes))
        counts = sizes[drawn]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found.append(scores(order[np.repeat(starts[drawn], counts) + within]))
        spent = time.monotonic() - began
        if spent > seconds or (len(found) == 3 and spent * FEWEST > 3 * seconds):  # it will be too few
            break
    values = np.array(found, np.float64)
    return values[~np.isnan(values).any(axis=1)]


def score_of(
    metric: Metric, truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], rows: np.ndarray | slice
) -> float:
    """The metric of rows by position, some of them several times; NaN where it is not defined, as with one class only.

    A metric whose function has `of_rows(truth, predictions, heads, rows)` need not score each row anew.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if of_rows := getattr(metric.function, "of_rows", None):
                return float(of_rows(truth, predictions, heads, rows))
            tables = [table.iloc[rows].reset_index(drop=True) for table in (truth, predictions)]  # no id comes twice
            return float(metric.function(tables[0], tables[1], heads))
        except Exception:  # as many of scikit-learn's do where a class is missing
            return float("nan")
