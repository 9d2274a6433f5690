"""How far the best scores tell right from wrong and known from unknown. For notebooks as well."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from pipeline.tasks.image_level.drawing import RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEW = "#4a78b0"
BINS = 40


def scores_figure(
    scores: np.ndarray, right: np.ndarray, known: np.ndarray, ranks: np.ndarray, threshold: float | None
) -> Figure:
    """The best score of each row by what became of it, and at which rank the rows of known identities have theirs.

    Args:
        scores: (N,) cosines.
        right: (N,) bool: the best label is the true one.
        known: (N,) bool: the row shows an identity that is known.
        ranks: int (N,), from 0; where the true label is not listed, the length of the list.
        threshold: below it a row counts as unknown; none: no row does.
    """
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, middle = figure.subplots(1, 2, width_ratios=[3, 2])
    parts = {
        "right": (scores[known & right], RIGHT),
        "wrong": (scores[known & ~right], WRONG),
        "unknown identity": (scores[~known], NEW),
    }
    drawn = {f"{name} ({len(values):,})": (values, color) for name, (values, color) in parts.items() if len(values)}
    bins = np.linspace(min(0.0, float(scores.min(initial=0.0))), 1.0, BINS)
    left.hist(
        [values for values, _ in drawn.values()],
        bins=bins.tolist(),
        stacked=True,
        color=[color for _, color in drawn.values()],
        label=list(drawn),
    )
    if threshold is not None:
        left.axvline(threshold, color="#1b2a41", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3f}")
    left.set(title="cosine of the best label", ylabel="rows")
    left.legend(frameon=False, loc="upper left")
    _draw_ranks(middle, ranks[known])
    for axes in (left, middle):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_ranks(axes: "Axes", ranks: np.ndarray) -> None:
    first = 5
    counts = [*(int((ranks == place).sum()) for place in range(first)), int((ranks >= first).sum())]
    names = [*(str(place + 1) for place in range(first)), "later"]
    shares = np.array(counts) / max(1, len(ranks))
    bars = axes.bar(names, shares, color=[RIGHT, *[NEW] * (first - 1), WRONG])
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=2, fontsize=9)
    axes.set(title="rank of the true label, rows of known identities", ylabel="share", ylim=(0, 1.1))
