"""How alike several models predict, and what joining them gains. For notebooks as well."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from toolkit.plots.figures import DARK, GREY, NEUTRAL, RIGHT, WRONG, styled
from toolkit.plots.images import shortened

Scores = Mapping[str, np.ndarray]  # of parts of the rows, by name
MOST_NUMBERS = 20  # models up to which cells are annotated


@styled
def correlation_figure(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the correlation of each model's predictions with each other's, (models, models), as a heat map."""
    side = 3 + 0.55 * min(len(names), 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    low = min(float(np.nanmin(matrix)), 0.99)
    image = axes.imshow(matrix, cmap="viridis", vmin=low, vmax=1)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.spines[:].set_visible(False)
    axes.set_title("correlation of out-of-fold predictions")
    for (row, column), value in np.ndenumerate(matrix if len(names) <= MOST_NUMBERS else np.empty((0, 0))):
        color = DARK if value > (1 + low) / 2 else "white"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, shrink=0.8)
    return figure


@styled
def gains_figure(alone: Scores, methods: Scores, gains: Scores, taken: str, metric: str) -> Figure:
    """Draw what members score `alone` and what `methods` of joining them do, (parts,) each, as means with their
    standard errors, and what the ensemble `gains` by each of its members; `taken` is its method."""
    scores = [*alone.items(), *methods.items()]
    figure = Figure(figsize=(11, 1.2 + 0.35 * max(len(scores), 3)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for place, (name, values) in enumerate(scores):
        color = GREY if place < len(alone) else RIGHT if name == taken else NEUTRAL
        left.errorbar(values.mean(), place, xerr=_error(values), fmt="o", color=color, capsize=3)
    left.set_yticks(range(len(scores)), [shortened(name) for name, _ in scores])
    left.axvline(methods[taken].mean(), color=RIGHT, linewidth=1, linestyle=":")
    left.set(title=f"{metric}, mean and standard error: members, then methods", ylim=(len(scores) - 0.4, -0.6))
    for place, values in enumerate(gains.values()):
        color = RIGHT if values.mean() > 0 else WRONG
        right.barh(place, values.mean(), xerr=_error(values), color=color, height=0.6, capsize=3, ecolor=DARK)
    right.set_yticks(range(len(gains)), [shortened(name) for name in gains])
    right.axvline(0, color=DARK, linewidth=1)
    right.set(title=f"what '{taken}' gains by each member", ylim=(len(gains) - 0.4, -0.6))
    return figure


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
