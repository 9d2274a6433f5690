"""Learning curves: how losses and metrics moved over the epochs."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, VALID, BEST, FAINT = "#d1731f", "#1f5fa8", "#2a8a4a", "#e8c9a8"


def learning_curves_figure(frame: pd.DataFrame, metrics: Sequence[str] = (), best_epoch: int | None = None) -> Figure:
    """One panel for the losses and one for each metric, over the epochs.

    Args:
        frame: a run's `metrics.csv`.
        metrics: names of the metrics, the leaderboard's first; those that were not logged are left out.
        best_epoch: the epoch whose weights are kept, counted from 1.
    """
    shown = [name for name in metrics if f"valid/{name}" in frame]
    width = 1.0 + 4.6 * (1 + len(shown))
    figure = Figure(figsize=(width, 3.9), dpi=120)
    figure.subplots_adjust(0.75 / width, 0.14, 1 - 0.2 / width, 0.91, wspace=0.2)
    losses, *panels = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    _line(losses, frame, "batch/loss", "single batches", FAINT, linewidth=0.8)
    _line(losses, frame, "train/loss", "train", TRAIN)
    _line(losses, frame, "valid/loss", "valid", VALID)
    _limit(losses, frame)
    _finish(losses, "loss", frame, "valid/loss" if "valid/loss" in frame else "train/loss", best_epoch)
    for panel, name in zip(panels, shown, strict=True):
        _line(panel, frame, f"valid/{name}", "valid", VALID)
        _finish(panel, name, frame, f"valid/{name}", best_epoch)
    return figure


def _points(frame: pd.DataFrame, tag: str) -> pd.DataFrame:
    if tag not in frame or "epoch" not in frame:
        return pd.DataFrame({"epoch": [], tag: []}, dtype=float)
    return frame[["epoch", tag]].replace([math.inf, -math.inf], math.nan).dropna()


def _line(axes: "Axes", frame: pd.DataFrame, tag: str, label: str, color: str, linewidth: float = 1.8) -> None:
    points = _points(frame, tag)
    if len(points):
        marker = "o" if len(points) <= 40 and linewidth > 1 else ""
        axes.plot(points["epoch"], points[tag], marker=marker, ms=3.5, color=color, lw=linewidth, label=label)


def _limit(axes: "Axes", frame: pd.DataFrame) -> None:
    """A few wild batches must not press the curves flat."""
    single = _points(frame, "batch/loss")["batch/loss"]
    means = pd.concat([_points(frame, tag)[tag] for tag in ("train/loss", "valid/loss")])
    if len(single) and len(means):
        top = max(single.quantile(0.97, interpolation="lower"), means.max())
        axes.set_ylim(top=top + 0.05 * abs(top))


def _finish(axes: "Axes", name: str, frame: pd.DataFrame, tag: str, best_epoch: int | None) -> None:
    points = _points(frame, tag)
    at_best = points[points["epoch"] == best_epoch]
    if len(at_best):
        value = float(at_best[tag].iloc[-1])
        axes.axvline(float(at_best["epoch"].iloc[-1]), color=BEST, lw=1, ls=":")
        axes.plot(at_best["epoch"], at_best[tag], "D", color=BEST, ms=6, zorder=3, label=f"best epoch: {value:.4g}")
    axes.set_title(name, fontsize=11, fontweight="bold", loc="left", parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5)
