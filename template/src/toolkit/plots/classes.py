"""Classes and labels, each against all others: arrays in, figures out. A notebook can call them as well."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay, calibration_curve
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from toolkit.errors import listed
from toolkit.plots.figures import DARK, GREY, NEUTRAL, RIGHT, WRONG, set_heading, styled
from toolkit.plots.images import shortened

ALL_CURVES, WORST_CURVES = 8, 5  # of more classes than the first, so many are drawn
MOST_PANELS = 12
MOST_ROWS = 40
BINS = 10  # of a calibration curve, equally wide
EDGES = np.linspace(0, 1, 26)  # of histograms

Known = tuple[np.ndarray, np.ndarray, np.ndarray]  # truth, bool (n,), probabilities, float64 (n,), decisions, bool (n,)


class Curves(NamedTuple):
    """How well one class's probabilities rank its rows before all others."""

    roc: tuple[np.ndarray, np.ndarray]  # false and true positive rate, float64 (K,) each, both rising
    pr: tuple[np.ndarray, np.ndarray]  # recall and precision, float64 (L,) each, recall falling
    areas: tuple[float, float]  # below the first, and the average precision


def class_figures(
    name: str,
    truth: np.ndarray,
    probabilities: np.ndarray,
    decided: np.ndarray,
    classes: Sequence[str],
    subset: slice = slice(None),
    thresholds: np.ndarray | None = None,
) -> dict[str, Callable[[], Figure]]:
    """What draws one head, by name of the figure: `curves/NAME`, `probabilities/NAME` and `classes/NAME`.

    Args:
        truth: (N, C) of 0 and 1, NaN where it is not known.
        probabilities: (N, C); where one is not finite, its row is left out for that class.
        decided: bool (N, C).
        subset: the classes of the first two figures; of two that exclude each other, one says it all.
        thresholds: those of these classes; none: classes are compared.
    """
    known = [_known(*columns) for columns in zip(truth.T, probabilities.T, decided.T, strict=True)]
    curves = [_curves(true, score) for true, score, _ in known]
    columns = [(true.sum(), decision.sum(), (true & decision).sum()) for true, _, decision in known]
    rows, counts, hits = np.array(columns).reshape(-1, 3).T
    table = pd.DataFrame({"rows": rows, "decided": counts}, index=pd.Index(list(classes), dtype=object))
    table["precision"], table["recall"] = _ratio(hits, counts), _ratio(hits, rows)
    table["F1"] = _ratio(2 * hits, rows + counts)
    table[["ROC AUC", "PR AUC"]] = [each.areas if each else (np.nan, np.nan) for each in curves]
    table["ECE"] = [calibration(true, predicted)[2] for true, predicted, _ in known]
    return {
        f"curves/{name}": partial(_curves_figure, curves[subset], table[subset]),
        f"probabilities/{name}": partial(_probabilities_figure, known[subset], table[subset], thresholds),
        f"classes/{name}": partial(_table_figure, table),
    }


@styled
def calibration_figure(true: np.ndarray, probabilities: np.ndarray, of: str) -> Figure:
    """Draw how often rows are positive, bool (N,), by their probability (N,), and how often each probability is;
    `of` names it, and rows where it is not finite are left out."""
    true, probabilities, _ = _known(true, probabilities, true)
    shares, means, error = calibration(true, probabilities)
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    CalibrationDisplay(shares, means, probabilities).plot(ax=upper)
    upper.set(xlabel="", ylabel="how often it is so", ylim=(-0.02, 1.02))
    lower.stairs(*np.histogram(np.clip(probabilities, 0, 1), EDGES), fill=True, color=NEUTRAL)
    lower.set(xlabel=of, ylabel="count", xlim=(-0.02, 1.02))
    if len(true):
        averages = ("said", probabilities.mean(), NEUTRAL), ("so", true.mean(), DARK)
        lines = [
            lower.axvline(mean, color=color, label=f"{name} on average {mean:.3f}") for name, mean, color in averages
        ]
        upper.legend(handles=lines, loc="lower right")
    set_heading(figure, f"calibration: ECE {error:.4f}, {len(true):,} probabilities")
    return figure


def calibration(true: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute of the bins that hold rows the share of positives and the mean probability, float64 (bins,), and the
    expected calibration error, NaN without rows (M. Naeini et al., "Obtaining well calibrated probabilities using
    Bayesian binning", 2015)."""
    if not len(true):
        return np.empty(0), np.empty(0), float("nan")
    inside = np.clip(probabilities, 0, 1)
    shares, means = calibration_curve(true, inside, pos_label=True, n_bins=BINS)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], inside))
    return shares, means, float(np.average(np.abs(means - shares), weights=counts[counts > 0]))


def _known(truth: np.ndarray, probabilities: np.ndarray, decided: np.ndarray) -> Known:
    """What is known of one class, for the rows that have both truth and probability."""
    there = np.isfinite(truth) & np.isfinite(probabilities)
    return truth[there] >= 0.5, probabilities[there].astype(np.float64), decided[there]


def _curves(true: np.ndarray, score: np.ndarray) -> Curves | None:
    """The curves of one class; none without rows of it, or without others."""
    if true.all() or not true.any():
        return None
    false_positives, true_positives, _ = roc_curve(true, score)
    precision, recall, _ = precision_recall_curve(true, score, drop_intermediate=True)
    # scikit-learn's function of the average precision would sort the rows of hundreds of classes once more
    areas = float(auc(false_positives, true_positives)), float(-np.sum(np.diff(recall) * precision[:-1]))
    return Curves((false_positives, true_positives), (recall, precision), areas)


def _worst_first(table: pd.DataFrame) -> np.ndarray:
    """Positions from the lowest F1 to the highest, int64 (C,); classes without rows come last."""
    return np.lexsort((-table["rows"], np.where(table["rows"] > 0, table["F1"], np.inf)))


def _best_threshold(true: np.ndarray, probabilities: np.ndarray) -> float:
    """From which probability on a decision has the highest F1 on these rows; NaN where none or all are so."""
    if not true.any() or true.all():
        return float("nan")
    precision, recall, thresholds = precision_recall_curve(true, probabilities)
    f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
    return float(thresholds[f1[:-1].argmax()])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


@styled
def _curves_figure(curves: Sequence[Curves | None], table: pd.DataFrame) -> Figure:
    """ROC and precision-recall curves; of many classes the few with the smallest area, and the mean of all."""
    drawn = {name: each for name, each in zip(table.index, curves, strict=True) if each}
    few = sorted(drawn, key=lambda name: drawn[name].areas)[:WORST_CURVES] if len(drawn) > ALL_CURVES else list(drawn)
    lines = {shortened(name): drawn[name] for name in few}
    if len(drawn) > 1:
        lines = {f"mean of {len(drawn)} classes": _mean(list(drawn.values())), **lines}
    figure = Figure(figsize=(13, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, each in lines.items():
        style = {"color": DARK, "linewidth": 2.6, "zorder": 3} if name.startswith("mean of ") else {}
        left.plot(*each.roc, label=f"{each.areas[0]:.3f} {each.areas[1]:.3f}  {name}", **style)
        right.plot(*each.pr, drawstyle="steps-post", **style)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision-recall")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    title = f"{shortened(table.index[0]) if len(table) == 1 else 'each class'} against all others"
    if len(few) < len(drawn):
        title += f": of {len(drawn)} the {len(few)} with the smallest ROC AUC"
    for reason, missing in (("no positives", table["rows"] == 0), ("no negatives", table["rows"] > 0)):
        if names := [shortened(name) for name in table.index[missing] if name not in drawn]:
            title += f"\n{reason}: {listed(names)}"
    set_heading(figure, title)
    if lines:
        figure.legend(loc="outside right center", title="ROC AUC, PR AUC", alignment="left")
    return figure


def _mean(curves: Sequence[Curves]) -> Curves:
    """True positive rates at the same false positive rates, and precisions at the same recalls, averaged."""
    across = np.linspace(0, 1, 201)
    rates = np.mean([np.interp(across, *each.roc) for each in curves], axis=0)
    # a step, as in the average precision: a recall that is not reached exactly costs the precision of the next one
    steps = [each.pr[1][::-1][np.searchsorted(each.pr[0][::-1], across)] for each in curves]
    roc_auc, pr_auc = np.mean([each.areas for each in curves], axis=0)
    return Curves((across, rates), (across, np.mean(steps, axis=0)), (roc_auc, pr_auc))


@styled
def _probabilities_figure(known: Sequence[Known], table: pd.DataFrame, thresholds: np.ndarray | None) -> Figure:
    """How the probability of each class is distributed over its rows, found and missed ones, and over all others. Of
    many classes, those with the lowest F1."""
    order = np.sort(_worst_first(table)[:MOST_PANELS])
    columns = min(4, max(1, len(order)))
    rows = -(-max(1, len(order)) // columns)
    width, height = max(9.2, 3.6 * columns), 2.5 * rows + 1.2
    figure = Figure(figsize=(width, height))
    # By hand: an engine that measures so many panels takes longer than all of the drawing.
    figure.subplots_adjust(0.5 / width, 0.75 / height, 1 - 0.15 / width, 1 - 0.75 / height, 0.12, 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(order) :]:
        axes.set_axis_off()
    for number, (axes, row) in enumerate(zip(grid, order, strict=False)):
        _draw_probabilities(axes, *known[row])
        if thresholds is not None:
            axes.axvline(thresholds[row], color=DARK, linestyle="--", linewidth=1.2, label="threshold")
            if np.isfinite(best := _best_threshold(*known[row][:2])):
                axes.axvline(best, color=NEUTRAL, linestyle=":", linewidth=2, label="threshold of the best F1 here")
        axes.set_title(shortened(table.index[row]), y=1)
        axes.tick_params(labelsize=8, labelbottom=number + columns >= len(order))
    some = f", the {len(order)} of {len(table)} with the lowest F1" if len(order) < len(table) else ""
    set_heading(figure, f"probabilities of each class, as shares of its rows and of all others, on a root scale{some}")
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower left", ncols=5)
    return figure


def _draw_probabilities(axes: Axes, true: np.ndarray, score: np.ndarray, decided: np.ndarray) -> None:
    # As a few outlines: bars, a patch for each, take ten times as long to draw.
    inside = np.clip(score, 0, 1)
    found, missed, others = (np.histogram(inside[rows], EDGES)[0] for rows in (true & decided, true & ~decided, ~true))
    found, both = found / max(1, true.sum()), (found + missed) / max(1, true.sum())
    axes.stairs(found, EDGES, fill=True, color=RIGHT, label="its rows, found")
    axes.stairs(both, EDGES, baseline=found, fill=True, color=WRONG, label="its rows, missed")
    axes.stairs(others / max(1, others.sum()), EDGES, color=DARK, label="other rows")
    count = f"{true.sum():,} rows" if true.any() else "no positives"
    axes.set_title(count, fontsize=8.5, loc="right", y=1, color=GREY)
    # most of the others are near 0: a root scale lets the few mistakes be seen
    axes.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1), yticks=[0, 0.01, 0.1, 0.3, 1])


@styled
def _table_figure(table: pd.DataFrame) -> Figure:
    """The table as a picture, the lowest F1 first; of many classes, the first ones."""
    part = table.iloc[_worst_first(table)[:MOST_ROWS]]
    names = [shortened(name, 40) for name in part.index]
    width, height = 9.5 + 0.075 * max(map(len, names), default=0), 1.2 + 0.27 * max(1, len(part))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    shade = part.assign(rows=np.nan, decided=np.nan, ECE=np.nan).to_numpy(np.float64)
    axes.imshow(shade, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto", alpha=0.45, interpolation="nearest")
    axes.set_xticks(range(len(part.columns)), list(part.columns), fontsize=9, fontweight="bold")
    axes.set_yticks(range(len(part)), names, fontsize=9)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(part.to_numpy(np.float64)):
        text = "-" if np.isnan(value) else f"{value:,.0f}" if column < 2 else f"{value:.3f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=DARK).set_in_layout(False)
    some = f", the first {len(part)} of {len(table)}" if len(part) < len(table) else ""
    set_heading(figure, f"classes, the lowest F1 first{some}")
    return figure
