"""Numbers against their truth: arrays in, figure out. A notebook can call it as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import r2_score

from toolkit.plots.images import RIGHT, WRONG, Texts, image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 5000  # of more rows, so many at random
PARTS = 10
DOT, LINE = "#4a78b0", "#1b2a41"


def scatter_figure(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Prediction against truth, what is left over against the prediction, and how that is distributed.

    Args:
        truth, predicted: (N,) numbers; rows without a truth or a finite prediction are left out.
        name: of what is predicted.
    """
    truth, predicted = _known(truth, predicted)
    residuals = predicted - truth
    figure = Figure(figsize=(13, 4.4), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.6])
    title = f"{name}: {len(truth):,} rows"
    if len(truth):
        root = float(np.sqrt(np.mean(residuals**2)))
        title += f", root mean squared error {root:.4g}, mean error {np.mean(residuals):+.4g}"
    if len(truth) > 1 and np.ptp(truth) > 0:
        title += f", R² {r2_score(truth, predicted):.3f}"
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left", parse_math=False)
    drawn = np.sort(np.random.default_rng(0).permutation(len(truth))[:MOST_POINTS])
    _scatter(left, truth[drawn], predicted[drawn])
    middle_of = float(truth.mean()) if len(truth) else 0.0
    left.axline((middle_of, middle_of), slope=1, color=LINE, linewidth=1)
    left.set(xlabel="truth", ylabel="prediction", title="on the line it is right")
    _scatter(middle, predicted[drawn], residuals[drawn])
    middle.axhline(0, color=LINE, linewidth=1)
    middle.set(xlabel="prediction", ylabel="prediction - truth", title="a slope or a fan is something left to learn")
    right.hist(residuals, bins=40, color=DOT)
    right.axvline(0, color=LINE, linewidth=1)
    right.set(xlabel="prediction - truth", ylabel="rows", title="errors")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_truth_figure(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Errors against the truth, and by parts of the rows that are equally large, in the order of their truth.

    Args:
        truth, predicted: (N,) numbers; rows without a truth or a finite prediction are left out.
        name: of what is predicted.
    """
    truth, predicted = _known(truth, predicted)
    table = errors_by_truth(truth, predicted)
    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{name}: errors by truth", fontsize=12, fontweight="bold", x=0.01, ha="left", parse_math=False)
    drawn = np.sort(np.random.default_rng(0).permutation(len(truth))[:MOST_POINTS])
    _scatter(left, truth[drawn], (predicted - truth)[drawn])
    left.axhline(0, color=LINE, linewidth=1)
    left.set(xlabel="truth", ylabel="prediction - truth", title="falling: pulled to the middle")
    places = np.arange(len(table))
    right.bar(places, table["absolute"], color=DOT, width=0.8, label="mean absolute error")
    right.plot(places, table["mean"], color=WRONG, marker="o", markersize=4.5, label="mean error")
    right.axhline(0, color=LINE, linewidth=1)
    ranges = [f"{row.first:.4g}\n{row.last:.4g}\n{row.rows:,}" for row in table.itertuples()]
    right.set_xticks(places, ranges, fontsize=8)
    right.set(xlabel="truth from, to, and rows", title="by parts of the rows")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def errors_by_truth(truth: np.ndarray, predicted: np.ndarray, parts: int = PARTS) -> pd.DataFrame:
    """A row for each of `parts` quantiles of the truth that holds any rows: `first` and `last` truth, `rows`, and the
    `absolute` and `mean` error. Rows of the same truth stay together.

    Args:
        truth, predicted: (N,) finite numbers.
    """
    part = pd.Series(
        pd.qcut(truth, parts, labels=False, duplicates="drop") if len(np.unique(truth)) > 1 else np.zeros(len(truth))
    )
    frame = pd.DataFrame({"truth": truth, "error": predicted - truth, "size": np.abs(predicted - truth)})
    return frame.groupby(part.to_numpy()).agg(
        first=("truth", "min"),
        last=("truth", "max"),
        rows=("truth", "size"),
        absolute=("size", "mean"),
        mean=("error", "mean"),
    )


def _known(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = ~np.isnan(truth) & np.isfinite(predicted)
    return truth[there], predicted[there]


def _scatter(axes: "Axes", across: np.ndarray, up: np.ndarray) -> None:
    axes.scatter(across, up, s=12, color=DOT, alpha=float(np.clip(200 / max(1, len(up)), 0.15, 0.8)), linewidths=0)


def errors_figure(
    images: Sequence[np.ndarray], ids: Texts, truth: np.ndarray, predicted: np.ndarray, most: int = 12
) -> Figure:
    """The largest errors first, then some from large to small, each with id, prediction, truth and error.

    Args:
        images: (N,) uint8 (H, W, 3); of many, only those that are shown are asked for.
        truth, predicted: (N,) numbers; rows without a truth are left out.
        most: how many to show.
    """
    errors = predicted - truth
    order = np.argsort(-np.abs(errors), kind="stable")[: int((~np.isnan(errors)).sum())]
    worst = min(len(order), 2 * most // 3)
    rest = order[worst:]
    spread = np.linspace(0, len(rest) - 1, min(len(rest), most - worst) + 1).round().astype(int)[1:]
    chosen = [*order[:worst], *rest[spread]]
    titles = [f"{predicted[row]:.4g} ({errors[row]:+.3g})\ntrue: {truth[row]:.4g}" for row in chosen]
    colors = [WRONG] * worst + [RIGHT] * (len(chosen) - worst)
    shown, names = [images[int(row)] for row in chosen], [ids[int(row)] for row in chosen]
    return image_grid(shown, names, titles, colors, f"the largest errors of {len(order):,}, then smaller ones")
