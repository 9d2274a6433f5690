"""Numbers against their truth: arrays in, figure out. A notebook can call it as well."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import r2_score

from toolkit.plots.figures import DARK, NEUTRAL, RIGHT, WRONG, set_heading, styled
from toolkit.plots.images import Texts, image_grid

MOST_POINTS = 5000  # of more rows, so many at random
PARTS = 10


@styled
def scatter_figure(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Draw prediction against truth, (N,) each, what is left over against the prediction, and how that is distributed;
    rows without a truth or a finite prediction are left out."""
    truth, predicted = _known(truth, predicted)
    residuals = predicted - truth
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.6])
    title = f"{name}: {len(truth):,} rows"
    if len(truth):
        root = float(np.sqrt(np.mean(residuals**2)))
        title += f", root mean squared error {root:.4g}, mean error {np.mean(residuals):+.4g}"
        left.axline((truth.mean(), truth.mean()), slope=1, color=DARK, linewidth=1)
    if len(truth) > 1 and np.ptp(truth) > 0:
        title += f", R² {r2_score(truth, predicted):.3f}"
    set_heading(figure, title)
    _scatter(left, truth, predicted)
    left.set(xlabel="truth", ylabel="prediction", title="on the line it is right")
    _scatter(middle, predicted, residuals)
    middle.axhline(0, color=DARK, linewidth=1)
    middle.set(xlabel="prediction", ylabel="prediction - truth", title="a slope or a fan is something left to learn")
    right.hist(residuals, bins=40, color=NEUTRAL)
    right.axvline(0, color=DARK, linewidth=1)
    right.set(xlabel="prediction - truth", ylabel="rows", title="errors")
    return figure


@styled
def by_truth_figure(truth: np.ndarray, predicted: np.ndarray, name: str) -> Figure:
    """Draw errors against the truth, and by parts of the rows that are equally large, in the order of their truth; rows
    without a truth or a finite prediction are left out."""
    truth, predicted = _known(truth, predicted)
    table = errors_by_truth(truth, predicted)
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    set_heading(figure, f"{name}: errors by truth")
    _scatter(left, truth, predicted - truth)
    left.set(xlabel="truth", ylabel="prediction - truth", title="falling: pulled to the middle")
    places = np.arange(len(table))
    right.bar(places, table["absolute"], color=NEUTRAL, label="mean absolute error")
    right.plot(places, table["mean"], color=WRONG, marker="o", markersize=4.5, label="mean error")
    ranges = [f"{row.first:.4g}\n{row.last:.4g}\n{row.rows:,}" for row in table.itertuples()]
    right.set_xticks(places, ranges, fontsize=8)
    right.set(xlabel="truth from, to, and rows", title="by parts of the rows")
    right.legend()
    for axes in (left, right):
        axes.axhline(0, color=DARK, linewidth=1)
    return figure


def errors_by_truth(truth: np.ndarray, predicted: np.ndarray, parts: int = PARTS) -> pd.DataFrame:
    """Make a row for each of `parts` quantiles of the truth, (N,), with any rows: `first` and `last` truth, `rows`,
    and the `absolute` and `mean` error. Rows of the same truth stay together."""
    frame = pd.DataFrame({"truth": truth, "error": predicted - truth, "size": np.abs(predicted - truth)})
    several = frame["truth"].nunique() > 1
    part = pd.qcut(frame["truth"], parts, labels=False, duplicates="drop") if several else np.zeros(len(frame))
    return frame.groupby(part).agg(
        first=("truth", "min"),
        last=("truth", "max"),
        rows=("truth", "size"),
        absolute=("size", "mean"),
        mean=("error", "mean"),
    )


def errors_figure(
    images: Sequence[np.ndarray], ids: Texts, truth: np.ndarray, predicted: np.ndarray, most: int = 12
) -> Callable[[], Figure]:
    """What draws the largest errors first, then some from large to small, each with id, prediction, truth and error.

    Of images (N,), uint8 (H, W, 3), only those that are drawn are asked for. Rows without a truth are left out.
    """
    errors = predicted - truth
    order = np.argsort(-np.abs(errors), kind="stable")[: int((~np.isnan(errors)).sum())]
    worst = min(len(order), 2 * most // 3)
    rest = order[worst:]
    spread = np.linspace(0, len(rest) - 1, min(len(rest), most - worst) + 1).round().astype(int)[1:]
    drawn = [*order[:worst], *rest[spread]]
    titles = [f"{predicted[row]:.4g} ({errors[row]:+.3g})\ntrue: {truth[row]:.4g}" for row in drawn]
    colors = [WRONG] * worst + [RIGHT] * (len(drawn) - worst)
    pictures, names = [images[int(row)] for row in drawn], [ids[int(row)] for row in drawn]
    heading = f"the largest errors of {len(order):,}, then smaller ones"
    return partial(image_grid, pictures, names, titles, colors, heading)


def _known(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = ~np.isnan(truth) & np.isfinite(predicted)
    return truth[there], predicted[there]


def _scatter(axes: Axes, across: np.ndarray, up: np.ndarray) -> None:
    drawn = np.sort(np.random.default_rng(0).permutation(len(up))[:MOST_POINTS])
    alpha = float(np.clip(200 / max(1, len(drawn)), 0.15, 0.8))
    axes.scatter(across[drawn], up[drawn], s=12, color=NEUTRAL, alpha=alpha, linewidths=0)
