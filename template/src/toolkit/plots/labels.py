"""Labels side by side: what is right and wrong about each. Arrays in, figures out; a notebook can call them as well."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toolkit.plots.images import RIGHT, WRONG, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOO_MUCH = "#e0b020"
MOST_LABELS = 40  # of more, the ones with most mistakes are shown
MOST_PAIRS = 12


def label_counts(truth: np.ndarray, said: np.ndarray, labels: tuple[str, ...]) -> tuple[pd.DataFrame, pd.Series]:
    """What became of the labels.

    Args:
        truth, said: bool (N, labels).

    Returns:
        A row per label, those with most mistakes first: `found`, `missed`, `said by mistake`. And how many rows miss a
        label and are given another one, by (missed, said), the most frequent first.
    """
    missed, mistaken = truth & ~said, ~truth & said
    names = pd.Index(list(labels), dtype=object)
    table = pd.DataFrame(
        {"found": (truth & said).sum(0), "missed": missed.sum(0), "said by mistake": mistaken.sum(0)}, index=names
    )
    order = np.argsort(-(table["missed"] + table["said by mistake"]).to_numpy(), kind="stable")
    together = missed.T.astype(np.float32) @ mistaken.astype(np.float32)  # integers have no fast product
    rows, columns = np.nonzero(together)
    pairs = pd.Series(
        together[rows, columns].astype(np.int64), index=pd.MultiIndex.from_arrays([names[rows], names[columns]])
    )
    return table.iloc[order], pairs.sort_values(ascending=False, kind="stable")


def labels_figure(table: pd.DataFrame, pairs: pd.Series) -> Figure:
    """The rows of each label: found, missed, and said by mistake; and which is missed where which is said.

    Args:
        table, pairs: what `label_counts` says.
    """
    part = table.iloc[:MOST_LABELS]
    names, places = [shortened(name) for name in part.index], np.arange(len(part))
    figure = Figure(figsize=(12, max(3.2, 1.6 + 0.3 * len(part))), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    start = np.zeros(len(part))
    for name, color in zip(part, (RIGHT, WRONG, TOO_MUCH), strict=True):
        left.barh(places, part[name], left=start, color=color, label=name)
        start = start + part[name].to_numpy()
    left.set_yticks(places, names, fontsize=9, parse_math=False)
    left.set_ylim(max(len(part), 4) - 0.4, -0.6)
    some = f", the {len(part)} of {len(table)} labels with most mistakes" if len(part) < len(table) else ""
    left.set_title(f"rows by label{some}", fontsize=10, loc="left")
    _draw_pairs(right, pairs.iloc[:MOST_PAIRS], max(len(part), MOST_PAIRS))
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def _draw_pairs(axes: "Axes", pairs: pd.Series, slots: int) -> None:
    texts = [f"{shortened(missed, 18)} missed, {shortened(said, 18)} said" for missed, said in pairs.index]
    axes.set_title(
        "mistakes in the same row" if texts else "no row misses one label for another", fontsize=10, loc="left"
    )
    axes.set_yticks(range(len(texts)), texts, fontsize=9, parse_math=False)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    bars = axes.barh(range(len(texts)), pairs.to_numpy(), color=WRONG, height=0.6)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.margins(x=0.15)
