"""Pictures of classes and labels, each against all others: arrays in, figures out. A notebook can call them as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from toolkit.errors import listed
from toolkit.plots.images import RIGHT, WRONG, shortened
from toolkit.plots.one_vs_rest import (
    Ranking,
    best_threshold,
    calibration,
    class_table,
    rankings,
    worst_first,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL_CURVES, WORST_CURVES = 8, 5  # of more classes than the first, so many are named
FAINT_CURVES = 100  # and the others are drawn up to this number
MOST_PANELS = 12
MOST_ROWS = 40
EDGES = np.linspace(0, 1, 26)  # of histograms
BLUE, DARK, GREY, FAINT = "#4a78b0", "#1b2a41", "#8a93a0", "#d3d8df"
COLORS = ("#1f77b4", "#d95f02", "#2a8a4a", "#c62f8f", "#7b5fc9", "#9c755f", "#17a2b8", "#b59a00")


def class_figures(
    name: str,
    truth: np.ndarray,
    probabilities: np.ndarray,
    decided: np.ndarray,
    classes: Sequence[str],
    shown: slice = slice(None),
    thresholds: np.ndarray | None = None,
) -> dict[str, Figure]:
    """The pictures of one head, by their names: `curves/NAME`, `probabilities/NAME` and `classes/NAME`.

    Args:
        truth: (N, C) of 0 and 1, NaN where it is not known.
        probabilities: (N, C).
        decided: bool (N, C).
        shown: the classes of the first two figures; of two that exclude each other, one says it all.
        thresholds: of these classes, from which probability on they are decided for; none: classes are compared.
    """
    ranked = rankings(truth, probabilities)
    table = class_table(truth, probabilities, decided, classes, ranked)
    return {
        f"curves/{name}": curves_figure(ranked[shown], classes[shown]),
        f"probabilities/{name}": probabilities_figure(
            truth[:, shown], probabilities[:, shown], decided[:, shown], table[shown], thresholds
        ),
        f"classes/{name}": table_figure(table),
    }


def curves_figure(ranked: Sequence[Ranking], classes: Sequence[str]) -> Figure:
    """ROC and precision-recall curves; of many classes their mean, and the few with the smallest area.

    Args:
        ranked: what `rankings` says of each class.
    """
    drawn = {place: each for place, each in enumerate(ranked) if each.has_curves}
    worst = sorted(drawn, key=lambda place: drawn[place].roc_auc)
    named = sorted(drawn) if len(drawn) <= ALL_CURVES else worst[:WORST_CURVES]
    figure = Figure(figsize=(13, 4.9), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = {place: f"{_areas([drawn[place]])}  {shortened(classes[place])}" for place in named}
    handles: list[Line2D] = []
    if len(drawn) > 1:
        roc, pr = _mean_curves(list(drawn.values()))
        label = f"{_areas(list(drawn.values()))}  mean of {len(drawn)} classes"
        right.plot(*pr, color=DARK, linewidth=2.6, zorder=3)
        handles += left.plot(*roc, color=DARK, linewidth=2.6, zorder=3, label=label)
    faint = [place for place in drawn if place not in labels and len(drawn) <= FAINT_CURVES]
    for place, color in [*((place, FAINT) for place in faint), *zip(named, COLORS, strict=False)]:
        style = {"color": color, "linewidth": 1.4 if place in labels else 0.7}
        right.plot(*drawn[place].pr, drawstyle="steps-post", **style)
        lines = left.plot(*drawn[place].roc, label=labels.get(place, ""), **style)
        handles += lines if place in labels else []
    if len(drawn) == 1:
        [one] = drawn.values()
        right.axhline(one.positives / (one.positives + one.negatives), color=GREY, linestyle=":", linewidth=1)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision-recall")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    some = f": of {len(drawn)} the {len(named)} with the smallest ROC AUC" if len(named) < len(drawn) else ""
    what = "each class" if len(classes) != 1 else shortened(classes[0])
    _title(figure, f"{what} against all others{some}{_without(ranked, classes)}")
    if handles:
        _legend(figure, handles)
    return figure


def calibration_figure(held: np.ndarray, probabilities: np.ndarray, of: str) -> Figure:
    """How often what was said with a probability is so, and how often each probability was said.

    Args:
        held: bool (N,), what is so.
        probabilities: (N,), of that; rows where it is not finite are left out.
        of: whose probability, in words.
    """
    finite = np.isfinite(probabilities)
    held, probabilities = held[finite], probabilities[finite]
    table, error = calibration(held, probabilities)
    figure = Figure(figsize=(6, 6.4), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    upper.plot(table["said"], table["so"], color=BLUE, linewidth=1.6)
    upper.scatter(table["said"], table["so"], s=8 + 90 * table["rows"] / max(1, len(held)), color=BLUE)
    upper.set(ylabel="how often it is so", ylim=(-0.02, 1.02))
    lower.stairs(*np.histogram(np.clip(probabilities, 0, 1), EDGES), fill=True, color=BLUE)
    lower.set(ylabel="count", xlim=(-0.02, 1.02))
    lower.set_xlabel(of, parse_math=False)
    if len(held):
        said, so = float(probabilities.mean()), float(held.mean())
        lines = [lower.axvline(said, color=BLUE), lower.axvline(so, color=DARK, linestyle="--")]
        names = [f"said on average {said:.3f}", f"so on average {so:.3f}"]
        upper.legend(lines, names, frameon=False, fontsize=9, loc="lower right")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    _title(figure, f"calibration: ECE {error:.4f}, {len(held):,} probabilities")
    return figure


def probabilities_figure(
    truth: np.ndarray,
    probabilities: np.ndarray,
    decided: np.ndarray,
    table: pd.DataFrame,
    thresholds: np.ndarray | None = None,
) -> Figure:
    """How the probability of each class is distributed over its rows, found and missed ones, and over all others. Of
    many classes, those with the lowest F1.

    Args:
        truth, probabilities, decided: see `class_figures`.
        table: what `class_table` says of these classes.
        thresholds: (C,), from which probability on each is decided for; none: classes are compared.
    """
    shown = np.sort(worst_first(table)[:MOST_PANELS])
    columns = min(4, max(1, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(width := max(9.2, 3.6 * columns), height := 2.5 * lines + 1.2), dpi=110)
    # By hand: an engine that measures so many panels takes longer than all of the drawing.
    figure.subplots_adjust(0.5 / width, 0.75 / height, 1 - 0.15 / width, 1 - 0.75 / height, 0.12, 0.3)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for number, (axes, place) in enumerate(zip(grid, shown, strict=False)):
        limit = None if thresholds is None else float(thresholds[place])
        there = ~np.isnan(truth[:, place]) & np.isfinite(probabilities[:, place])
        _draw_probabilities(axes, truth[there, place] >= 0.5, probabilities[there, place], decided[there, place], limit)
        axes.set_title(shortened(table.index[place]), fontsize=10, loc="left", y=1, parse_math=False)
        axes.tick_params(labelsize=8, labelbottom=number + columns >= len(shown))
    some = f", the {len(shown)} of {len(table)} with the lowest F1" if len(shown) < len(table) else ""
    _title(figure, f"the probability of each class, as shares of its rows and of all others, on a root scale{some}")
    handles = [Line2D([], [], color=color, linewidth=6) for color in (RIGHT, WRONG)]
    handles.append(Line2D([], [], color=DARK, linewidth=1.2))
    names = ["its rows, found", "its rows, missed", "other rows"]
    if thresholds is not None:
        handles += [Line2D([], [], color=DARK, linestyle="--"), Line2D([], [], color=BLUE, linestyle=":", linewidth=2)]
        names += ["threshold", "threshold of the best F1, on these rows"]
    figure.legend(handles, names, loc="lower left", ncols=5, frameon=False, fontsize=9)
    return figure


def table_figure(table: pd.DataFrame, most: int = MOST_ROWS) -> Figure:
    """What `class_table` says, as a picture; of many classes, the first ones."""
    part = table.iloc[worst_first(table)[:most]]
    names = [shortened(name, 40) for name in part.index]
    width, height = 9.5 + 0.075 * max(map(len, names), default=0), 1.2 + 0.27 * max(1, len(part))
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    scores = part.to_numpy(np.float64)
    shade = np.ma.masked_invalid(np.where(np.isin(part.columns, ["rows", "decided", "ECE"]), np.nan, scores))
    axes.imshow(shade, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto", alpha=0.45, interpolation="nearest")
    axes.set_xticks(range(len(part.columns)), list(part.columns), fontsize=9, fontweight="bold")
    axes.set_yticks(range(len(part)), names, fontsize=9, parse_math=False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(scores):
        whole = part.columns[column] in ("rows", "decided")
        text = "-" if np.isnan(value) else f"{value:,.0f}" if whole else f"{value:.3f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=DARK).set_in_layout(False)
    some = f", the first {len(part)} of {len(table)}" if len(part) < len(table) else ""
    _title(figure, f"classes, the lowest F1 first{some}")
    return figure


def _mean_curves(
    ranked: Sequence[Ranking],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """True positive rates at the same false positive rates, and precisions at the same recalls, averaged."""
    across = np.linspace(0, 1, 201)
    rates = [np.interp(across, *each.roc) for each in ranked]
    # a step, as in the average precision: a recall that is not reached exactly costs the precision of the next one
    precisions = [each.pr[1][::-1][np.searchsorted(each.pr[0][::-1], across)] for each in ranked]
    return (across, np.mean(rates, axis=0)), (across, np.mean(precisions, axis=0))


def _areas(ranked: Sequence[Ranking]) -> str:
    roc, pr = np.mean([(each.roc_auc, each.pr_auc) for each in ranked], axis=0)
    return f"{roc:.3f} {pr:.3f}"


def _without(ranked: Sequence[Ranking], classes: Sequence[str]) -> str:
    """Which classes have no curves, and why."""
    told = ""
    for reason, count in (("no positives", "positives"), ("no negatives", "negatives")):
        names = [shortened(name) for each, name in zip(ranked, classes, strict=True) if not getattr(each, count)]
        told += f"\n{reason}: {listed(names)}" if names else ""
    return told


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    labels = [str(handle.get_label()) for handle in handles]
    legend = figure.legend(handles, labels, loc="outside right center", frameon=False)
    legend.set_title("ROC AUC, PR AUC", prop=FontProperties(size=9, weight="bold"))
    legend.set_alignment("left")
    for text in legend.get_texts():
        text.set(parse_math=False, fontsize=9, fontfamily="monospace")


def _draw_probabilities(
    axes: "Axes", held: np.ndarray, given: np.ndarray, decided: np.ndarray, threshold: float | None
) -> None:
    # As a few outlines: bars, a patch for each, take ten times as long to draw.
    inside = np.clip(given, 0, 1)
    found, missed, others = (np.histogram(inside[rows], EDGES)[0] for rows in (held & decided, held & ~decided, ~held))
    found, both = found / max(1, held.sum()), (found + missed) / max(1, held.sum())
    axes.stairs(found, EDGES, fill=True, color=RIGHT)
    axes.stairs(both, EDGES, baseline=found, fill=True, color=WRONG)
    axes.stairs(others / max(1, others.sum()), EDGES, color=DARK)
    if threshold is not None:
        axes.axvline(threshold, color=DARK, linestyle="--", linewidth=1.2)
        best = best_threshold(held, given)
        if np.isfinite(best):
            axes.axvline(best, color=BLUE, linestyle=":", linewidth=2)
    count = f"{held.sum():,} rows" if held.any() else "no positives"
    axes.set_title(count, fontsize=8.5, loc="right", y=1, color=GREY)
    # most of the others are near 0: a root scale lets the few mistakes be seen
    axes.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1), yticks=[0, 0.01, 0.1, 0.3, 1])
    axes.spines[["top", "right"]].set_visible(False)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=11.5, fontweight="bold", x=0.01, ha="left", parse_math=False)
