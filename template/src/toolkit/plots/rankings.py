"""How far the best scores tell right from wrong and known from unknown. For notebooks as well."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.plots.figures import DARK, NEUTRAL, RIGHT, WRONG, styled

BINS = 40


@styled
def scores_figure(
    scores: np.ndarray, right: np.ndarray, known: np.ndarray, ranks: np.ndarray, threshold: float | None
) -> Figure:
    """Draw the best score of each row by what became of it, and at which rank rows of known identities have theirs.

    Args:
        scores: (N,) cosines.
        right: (N,) bool: the best label is the true one.
        known: (N,) bool: the row shows an identity that is known.
        ranks: int (N,), from 0; where the true label is not listed, the length of the list.
        threshold: below it a row counts as unknown; none: no row does.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, middle = figure.subplots(1, 2, width_ratios=[3, 2])
    parts = {
        "right": (scores[known & right], RIGHT),
        "wrong": (scores[known & ~right], WRONG),
        "unknown identity": (scores[~known], NEUTRAL),
    }
    _draw_scores(left, parts, stacked=True)
    if threshold is not None:
        left.axvline(threshold, color=DARK, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3f}")
    left.set(title="cosine of the best label", ylabel="rows")
    left.legend(loc="upper left")
    places, counts = np.unique(np.minimum(ranks[known], 5), return_counts=True)
    shares = np.zeros(6)
    shares[places] = counts / known.sum()
    bars = middle.bar([*"12345", "later"], shares, color=[RIGHT, *[NEUTRAL] * 4, WRONG])
    middle.bar_label(bars, [f"{share:.1%}" for share in shares], padding=2, fontsize=9)
    middle.set(title="rank of the true label, rows of known identities", ylabel="share", ylim=(0, 1.1))
    return figure


@styled
def neighbours_figure(true_scores: np.ndarray, wrong_scores: np.ndarray) -> Figure:
    """Draw how near rows of known identities are to their own label and to the nearest wrong one, cosines (N,), NaN
    where no such label is listed, and by how much the one leads the other."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    listed = np.isfinite(true_scores)
    parts = {
        "its own label": (true_scores[listed], RIGHT),
        "the nearest wrong one": (wrong_scores[np.isfinite(wrong_scores)], WRONG),
    }
    _draw_scores(left, parts, alpha=0.6)
    left.set(title="cosine", ylabel="rows")
    figure.legend(loc="outside lower left", ncols=2, reverse=True)
    lead = true_scores - wrong_scores
    lead = lead[np.isfinite(lead)]
    reach = float(np.abs(lead).max(initial=0.1))
    edges = np.linspace(-reach, reach, BINS + 1)  # one is 0, so that no bar holds right and wrong rows
    right.hist([lead[lead > 0], lead[lead <= 0]], bins=edges.tolist(), stacked=True, color=[RIGHT, WRONG])
    right.axvline(0, color=DARK, linewidth=1)
    right.set(title=f"lead of its own label; {(~listed).sum():,} rows do not list it", ylabel="rows")
    return figure


def _draw_scores(
    axes: Axes, parts: dict[str, tuple[np.ndarray, str]], stacked: bool = False, alpha: float = 1.0
) -> None:
    parts = {f"{name} ({len(values):,})": (values, color) for name, (values, color) in parts.items()}
    values, colors = [values for values, _ in parts.values()], [color for _, color in parts.values()]
    bins = np.linspace(min(0.0, float(np.concatenate(values).min(initial=0.0))), 1.0, BINS).tolist()
    style: dict[str, Any] = {"histtype": "barstacked" if stacked else "stepfilled", "alpha": alpha}
    axes.hist(values, bins=bins, color=colors, label=list(parts), **style)
