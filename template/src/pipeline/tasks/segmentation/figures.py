"""Pictures of the scores of a table of masks."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.competition import Head
from pipeline.heads.mask_decoding import decisions
from pipeline.heads.mask_predictions import columns
from pipeline.metrics.mask_scores import FN, FP, KNOWN, TP, counts, pixels
from pipeline.metrics.masks import each_dice, each_iou, per_class
from toolkit.masks import maps
from toolkit.plots.images import shortened
from toolkit.plots.masks import GREY, class_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE = "#2b6cb0", "#dd7a1f"
MOST_CLASSES = 30  # in a grid; of more classes the first ones are drawn
COUNTED = ("images", "decided")  # columns of a table that hold numbers of images
MOST_ROWS = 40  # of a table
SAMPLED = 60  # images whose probabilities are looked at
SAMPLED_PIXELS = 100_000_000  # of all their classes


def figures(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> dict[str, Figure]:
    """By name of a file: IoU of each class, score against size, scores of each class, probabilities in and outside of
    the truth. Empty where the table has no rows."""
    if predictions.empty:
        return {}
    found = counts(truth, predictions, head, pixels)
    return {
        f"{head.name}_iou": iou_figure(head, found),
        f"{head.name}_size": size_figure(head, found),
        f"{head.name}_classes": class_figure(head, per_class(truth, predictions, head)),
        f"{head.name}_probabilities": probability_figure(head, probability_counts(truth, predictions, head)),
    }


def worst_and_best(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, most: int = 6) -> list[int]:
    """Positions of the images with the lowest mean Dice (two thirds), then of the best that have a truth."""
    found = counts(truth, predictions, head, pixels)
    scores = np.where(found[..., TP] + found[..., FN] + found[..., FP] > 0, each_dice(found), np.nan)
    told = np.flatnonzero(~np.isnan(scores).all(axis=1))
    order = told[np.argsort(np.nanmean(scores[told], axis=1), kind="stable")].tolist()
    worst = order[: max(1, 2 * most // 3)]
    best = order[len(worst) :][::-1][: most - len(worst)]
    rest = [number for number in range(len(found)) if number not in set(order)]
    return (worst + best + rest)[:most] if order else rest[:most]


def iou_figure(head: Head, found: np.ndarray) -> Figure:
    """A histogram of IoU per class over the images where truth or prediction has the class; counts (N, C, 5)."""
    there = found[..., TP] + found[..., FP] + found[..., FN] > 0
    scores = each_iou(found)

    def draw(axes: "Axes", number: int) -> None:
        values = scores[there[:, number], number]
        axes.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=BLUE)
        if len(values):
            axes.axvline(float(np.median(values)), color=ORANGE, linewidth=1.5)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        if not len(values):
            axes.set_yticks([])
            _note(axes, "in no image")

    return _grid(head, "Images by IoU; line: median", "IoU, without images empty in both", draw)


def size_figure(head: Head, found: np.ndarray) -> Figure:
    """Dice against the share of the image that the class takes; counts (N, C, 5)."""
    area, known = found[..., TP] + found[..., FN], found[..., KNOWN]
    figure = _figure("Score against size", (7.5, 4.6))
    axes = figure.subplots()
    colors = class_colors(len(head.classes))
    for number, name in enumerate(head.classes):
        there = area[:, number] > 0
        label = _text(shortened(name)) if 1 < len(colors) <= 10 else None
        share = 100 * area[there, number] / known[there, number]
        dice = each_dice(found)[there, number]
        axes.scatter(share, dice, s=14, color=colors[number] if len(colors) > 1 else BLUE, alpha=0.7, lw=0, label=label)
    there = area > 0
    if there.any():
        share = 100 * area[there] / known[there]
        if share.max() > 10 * share.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        _median_line(axes, share, each_dice(found)[there])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    else:
        axes.set_xticks([])
        _note(axes, "no image has a truth")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("size of the truth, % of the image")
    axes.set_ylabel("Dice")
    return figure


def class_figure(head: Head, scores: pd.DataFrame) -> Figure:
    """The table of `metrics.per_class`, the lowest Dice first."""
    ranked = scores.sort_values("dice_present", na_position="last", kind="stable")
    shown = ranked[:MOST_ROWS]
    left_out = f" ({len(ranked) - len(shown)} better ones left out)" if len(ranked) > len(shown) else ""
    figure = _figure(f"Scores of each class{left_out}", (9, 0.205 * len(shown) + 1.0))
    axes = figure.subplots()
    axes.set_axis_off()
    cells = [
        [
            _text(shortened(name, 30)),
            *[_number(value, column in COUNTED) for value, column in zip(row, shown, strict=True)],
        ]
        for name, *row in shown.itertuples(name=None)
    ]
    table = axes.table(
        cellText=cells,
        colLabels=["class", *[str(column).replace("_", " ") for column in shown]],
        colWidths=[0.3, *[0.1] * len(shown.columns)],
        loc="upper center",
        cellLoc="right",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    for (row, column), cell in table.get_celld().items():
        cell.set(edgecolor="#dddddd", linewidth=0.6, facecolor="#f3f3f3" if row == 0 else "white")
        if column == 0:
            cell.set_text_props(ha="left")
            cell.PAD = 0.03
    return figure


def probability_counts(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """How often each probability 0..255 occurs outside and inside of the truth, int64 (C, 2, 256).

    A fixed sample of images is looked at, as large as their maps are stored, one after the other.
    """
    counted = np.zeros((len(head.classes), 2, 256), np.int64)
    order, looked_at = np.random.default_rng(0).permutation(len(predictions))[:SAMPLED], 0
    for number in order:
        planes = truth[head.name].iloc[number].read()
        for index, cell in enumerate(predictions[columns(head)].iloc[number]):
            size, plane = maps.stored_size(cell), planes[index]
            if plane.shape != size:
                plane = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_NEAREST)
            for rows, band in zip(maps.strips(size), maps.bands(cell), strict=True):
                for side in (0, 1):
                    counted[index, side] += np.bincount(band[plane[rows] == side], minlength=256)
        looked_at += planes.size
        if looked_at > SAMPLED_PIXELS:
            break
    return counted


def probability_figure(head: Head, counted: np.ndarray) -> Figure:
    """The distribution of probabilities outside and inside of the truth, with the threshold; counts (C, 2, 256)."""
    chosen = decisions(head)
    edges = np.linspace(0, 1, 33)

    def draw(axes: "Axes", number: int) -> None:
        for side, color, label in ((0, GREY, "outside of the truth"), (1, BLUE, "inside")):
            share = counted[number, side].reshape(32, 8).sum(axis=1) / max(counted[number, side].sum(), 1)
            axes.stairs(np.maximum(share, 1e-6), edges, fill=True, color=color, alpha=0.55, label=label, baseline=1e-6)
        axes.axvline(chosen[number].threshold, color=ORANGE, linewidth=1.5, label="threshold")
        axes.set(yscale="log", xlim=(0, 1), ylim=(1e-5, 1.5))
        if not counted[number, 1].sum():
            _note(axes, "never in the truth")

    figure = _grid(head, "Share of the pixels by probability", "probability", draw)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


def _grid(head: Head, title: str, x: str, draw: Callable[["Axes", int], None]) -> Figure:
    """Small axes, one per class."""
    shown = min(len(head.classes), MOST_CLASSES)
    across = min(5, shown)
    down = -(-shown // across)
    more = f" ({shown} of {len(head.classes)} classes)" if shown < len(head.classes) else ""
    figure = _figure(title + more, (max(6.5, 2.6 * across), 1.9 * down + 1.0 if down > 1 else 3.6))
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.ravel()[shown:]:
        axes.set_axis_off()
    for number, axes in enumerate(grid.ravel()[:shown]):
        draw(axes, number)
        axes.set_title(shortened(head.classes[number], 30 if across < 4 else 22), fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
        if number >= shown - across:
            axes.set_xlabel(x, fontsize=8)
    return figure


def _figure(title: str, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.07)
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.02, ha="left")
    return figure


def _median_line(axes: "Axes", sizes: np.ndarray, scores: np.ndarray) -> None:
    """The median score of the objects of similar size, where there are at least three."""
    group = np.round(2 * np.log10(sizes)).astype(int)
    points = [
        (np.median(sizes[group == each]), np.median(scores[group == each]))
        for each in np.unique(group)
        if (group == each).sum() >= 3
    ]
    if points:
        axes.plot(*zip(*points, strict=True), color="black", marker="o", markersize=4, linewidth=1.5, label="median")


def _note(axes: "Axes", text: str) -> None:
    axes.text(0.03, 0.95, text, transform=axes.transAxes, fontsize=7.5, color=GREY, va="top")


def _number(value: float, whole: bool) -> str:
    return "" if np.isnan(value) else f"{value:,.0f}" if whole else f"{value:.3f}"


def _text(name: str) -> str:
    """A name as it stands: a dollar sign starts no formula, and an underscore at its start hides no entry."""
    return "\u200b" + name.replace("$", r"\$") if name.startswith("_") or "$" in name else name
