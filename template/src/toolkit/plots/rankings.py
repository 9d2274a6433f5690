"""How far the best scores tell right from wrong and known from unknown. For notebooks as well."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from toolkit.plots.images import RIGHT, WRONG

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


def neighbours_figure(true_scores: np.ndarray, wrong_scores: np.ndarray) -> Figure:
    """How near rows are to their own label and to the nearest wrong one, and by how much the one leads the other.

    Args:
        true_scores, wrong_scores: cosines (N,) of rows of known identities; NaN where no such label is listed.
    """
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = {"its own label": (true_scores, RIGHT), "the nearest wrong one": (wrong_scores, WRONG)}
    for name, (scores, color) in parts.items():
        listed = scores[np.isfinite(scores)]
        bins = np.linspace(min(0.0, float(listed.min(initial=0.0))), 1.0, BINS).tolist()
        left.hist(listed, bins=bins, color=color, alpha=0.6, label=f"{name} ({len(listed):,})")
    left.set(title="cosine", ylabel="rows")
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    lead = true_scores - wrong_scores
    lead = lead[np.isfinite(lead)]
    # an edge at 0, so that no bar holds right and wrong rows
    reach = float(np.abs(lead).max(initial=0.1))
    edges = np.linspace(-reach, reach, BINS + 1).tolist()
    right.hist([lead[lead > 0], lead[lead <= 0]], bins=edges, stacked=True, color=[RIGHT, WRONG])
    right.axvline(0, color="#1b2a41", linewidth=1)
    missing = len(true_scores) - int(np.isfinite(true_scores).sum())
    right.set(title=f"lead of its own label; {missing:,} rows do not list it", ylabel="rows")
    for axes in (left, right):
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
