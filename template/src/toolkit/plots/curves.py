"""How losses and metrics moved over the epochs, and gradients over the steps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolkit.plots.figures import RIGHT, styled

TRAIN, VALID, FAINT = "#d1731f", "#1f5fa8", "#e8c9a8"
MOST_COLUMNS = 128  # in a picture that can still be read


@styled
def learning_curves_figure(frame: pd.DataFrame, metrics: Sequence[str] = (), best_epoch: int | None = None) -> Figure:
    """Draw a run's `metrics.csv`, over the epochs: a panel for the losses and one for each metric that was logged; the
    best epoch, counted from 1, is marked."""
    logged = [name for name in metrics if f"valid/{name}" in frame]
    figure = Figure(figsize=(1.0 + 4.6 * (1 + len(logged)), 3.9), layout="constrained")
    losses, *panels = figure.subplots(1, 1 + len(logged), squeeze=False)[0]
    single = _draw(losses, frame, "batch/loss", "single batches", FAINT, None)
    train = _draw(losses, frame, "train/loss", "train", TRAIN, best_epoch if "valid/loss" not in frame else None)
    valid = _draw(losses, frame, "valid/loss", "valid", VALID, best_epoch)
    if len(single) and len(train) + len(valid):  # a few wild batches must not press the curves flat
        low = min([*single, *train, *valid])
        top = max(np.quantile(single, 0.97, method="lower"), *train, *valid)
        losses.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low) + 1e-9)
    for panel, name in zip(panels, logged, strict=True):
        _draw(panel, frame, f"valid/{name}", "valid", VALID, best_epoch)
    for panel, name in zip((losses, *panels), ("loss", *logged), strict=True):
        panel.set(title=name, xlabel="epoch", axisbelow=True)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(color="#e6e6e6", lw=0.7)
        if panel.get_legend_handles_labels()[0]:
            panel.legend()
    return figure


def _draw(axes: Axes, frame: pd.DataFrame, tag: str, label: str, color: str, best_epoch: int | None) -> np.ndarray:
    """Draw what was logged under a tag, and mark the best epoch; returns the finite values, (N,)."""
    points = frame.reindex(columns=["epoch", tag]).astype(float).replace([np.inf, -np.inf], np.nan).dropna()
    if len(points):
        marker = "o" if len(points) <= 40 and color != FAINT else ""
        axes.plot(points["epoch"], points[tag], marker=marker, ms=3.5, color=color, label=label)
    at_best = points[points["epoch"] == best_epoch]
    if len(at_best):
        axes.axvline(at_best["epoch"].iloc[-1], color=RIGHT, lw=1, ls=":")
        label = f"best epoch: {at_best[tag].iloc[-1]:.4g}"
        axes.plot(at_best["epoch"], at_best[tag], "D", color=RIGHT, ms=6, zorder=3, label=label)
    return points[tag].to_numpy()


def gradients_figure(names: Sequence[str], steps: Sequence[int], table: np.ndarray) -> Figure:
    """Heat maps of mean |g| and relative update of each block over the steps, on a logarithmic scale."""
    every = -(-len(steps) // MOST_COLUMNS)
    steps, table = steps[::every], table[::every]
    figure = Figure(figsize=(13, max(3.0, 1.2 + 0.2 * len(names))), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, title in zip(panels, (1, 4), ("mean |gradient|", "|update| / |weights|"), strict=True):
        values = table[:, :, column].T
        image = axes.pcolormesh(np.log10(np.where((values > 0) & np.isfinite(values), values, np.nan)))
        axes.set_facecolor("#d9d9d9")  # zeros, and what was not seen
        axes.set_title(f"{title}, log10; grey: none", fontsize=11, fontweight="bold", loc="left")
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 7)).round().astype(int))
        axes.set_xticks(ticks + 0.5, [str(steps[tick]) for tick in ticks])
        axes.set_xlabel("step")
        figure.colorbar(image, ax=axes, pad=0.01)
    panels[0].set_yticks(np.arange(len(names)) + 0.5, list(names), fontsize=7.5)
    panels[0].invert_yaxis()
    return figure
