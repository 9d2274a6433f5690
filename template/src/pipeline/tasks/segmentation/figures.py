"""Pictures of the scores of a table of masks."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from pipeline.competition import Head
from pipeline.heads.mask_decoding import columns, decisions
from pipeline.metrics.masks import FN, FP, KNOWN, TP, counts, each_dice, each_iou, per_class, pixels
from toolkit.masks import maps
from toolkit.plots.images import shortened
from toolkit.plots.masks import GREY, class_colors

BLUE, ORANGE = "#2b6cb0", "#dd7a1f"
MOST_CLASSES = 30  # in a grid; of more classes the first ones are drawn
COUNTED = ("images", "decided")  # columns of a table that hold numbers of images
MOST_ROWS = 40  # of a table
SAMPLED = 60  # images whose probabilities are looked at
SAMPLED_PIXELS = 100_000_000  # of all their classes


def figures(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> dict[str, Callable[[], Figure]]:
    """What draws, by name of a file: IoU of each class, score against size, scores of each class, probabilities in and
    outside of the truth. Empty where the table has no rows."""
    if predictions.empty:
        return {}
    found = counts(truth, predictions, head, pixels)
    return {
        f"{head.name}_iou": partial(iou_figure, head, found),
        f"{head.name}_size": partial(size_figure, head, found),
        f"{head.name}_classes": partial(class_figure, per_class(truth, predictions, head)),
        f"{head.name}_probabilities": partial(probability_figure, head, probability_counts(truth, predictions, head)),
    }


def worst_and_best(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, most: int = 6) -> list[int]:
    """Positions of the images with the lowest mean Dice (two thirds), then of the best that have a truth."""
    found = counts(truth, predictions, head, pixels)
    scores = np.ma.masked_where(found[..., TP] + found[..., FN] + found[..., FP] == 0, each_dice(found)).mean(axis=1)
    rest = np.flatnonzero(np.ma.getmaskarray(scores)).tolist()
    order = np.argsort(scores.filled(np.inf), kind="stable").tolist()[: len(scores) - len(rest)]
    worst = order[: max(1, 2 * most // 3)]
    best = order[len(worst) :][::-1][: most - len(worst)]
    others = sorted(set(range(len(found))) - set(order))
    return [*worst, *best, *others][:most]


def iou_figure(head: Head, found: np.ndarray) -> Figure:
    """IoU of the images where truth or prediction has a class, a line for each class; counts (N, C, 5)."""
    shown = head.classes[:MOST_ROWS]
    figure, axes = _figure("IoU of each image by class; orange: median", (7.5, 0.25 * len(shown) + 1.4))
    there, scores = found[..., TP] + found[..., FP] + found[..., FN] > 0, each_iou(found)
    for number in range(len(shown)):
        values = scores[there[:, number], number]
        axes.plot(values, np.full(len(values), number), "|", color=BLUE, alpha=0.5, markersize=9)
        if len(values):
            axes.plot(np.median(values), number, "|", color=ORANGE, markersize=16, markeredgewidth=2.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5), xlabel="IoU, without images empty in both")
    axes.set_yticks(range(len(shown)), [shortened(name) for name in shown], fontsize=8, parse_math=False)
    return figure


def size_figure(head: Head, found: np.ndarray) -> Figure:
    """Dice against the share of the image that the class takes; counts (N, C, 5)."""
    figure, axes = _figure("Score against size", (7.5, 4.6))
    area, dice = found[..., TP] + found[..., FN], each_dice(found)
    share = 100 * area / np.maximum(found[..., KNOWN], 1)
    for number, color in enumerate(class_colors(len(head.classes))):
        there = area[:, number] > 0
        label = _text(head.classes[number]) if 1 < len(head.classes) <= 10 else None
        axes.scatter(share[there, number], dice[there, number], s=14, color=color, alpha=0.7, lw=0, label=label)
    there = area > 0
    if there.any():
        group = pd.Series(np.round(2 * np.log10(share[there])))  # of similar sizes
        table = pd.DataFrame({"share": share[there], "dice": dice[there]}).groupby(group)
        medians = table.median()[table.size() > 2]
        if len(medians):
            axes.plot(medians["share"], medians["dice"], "o-", color="black", markersize=4, label="median")
        if share[there].max() > 10 * share[there].min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    axes.set(ylim=(-0.03, 1.03), xlabel="size of the truth, % of the image", ylabel="Dice")
    return figure


def class_figure(scores: pd.DataFrame) -> Figure:
    """The table of `metrics.per_class`, the lowest Dice first."""
    shown = scores.sort_values("dice_present", na_position="last", kind="stable")[:MOST_ROWS]
    more = f" ({len(scores) - len(shown)} better ones left out)" if len(scores) > len(shown) else ""
    figure, axes = _figure(f"Scores of each class{more}", (9, 0.22 * len(shown) + 1.0))
    axes.set_axis_off()
    names = [str(name) for name in shown]
    cells = [
        [f"{row[name]:,.0f}" if name in COUNTED else f"{row[name]:.3f}".replace("nan", "") for name in names]
        for row in shown.to_dict("records")
    ]
    rows, labels = [_text(name) for name in shown.index], [name.replace("_", " ") for name in names]
    table = axes.table(cells, rowLabels=rows, colLabels=labels, bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
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
    shown, chosen = head.classes[:MOST_CLASSES], decisions(head)
    across = min(5, len(shown))
    down = -(-len(shown) // across)
    figure, axes = _figure("Share of the pixels by probability", (max(6.5, 2.6 * across), 1.9 * down + 1.4))
    axes.remove()
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for number, (axes, name) in enumerate(zip(grid, shown, strict=False)):
        for side, color, label in ((0, GREY, "outside of the truth"), (1, BLUE, "inside")):
            share = counted[number, side].reshape(32, 8).sum(axis=1) / max(counted[number, side].sum(), 1)
            edges = np.linspace(0, 1, 33)
            axes.stairs(np.maximum(share, 1e-6), edges, fill=True, color=color, alpha=0.55, label=label, baseline=1e-6)
        axes.axvline(chosen[number][0], color=ORANGE, linewidth=1.5, label="threshold")
        axes.set_title(shortened(name, 22), fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
    grid[0].set(yscale="log", xlim=(0, 1), ylim=(1e-5, 1.5))  # and so all, which share them
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.02, ha="left")
    return figure, figure.add_subplot()


def _text(name: object) -> str:
    """A name as it stands: a dollar sign starts no formula, and an underscore at its start hides no entry."""
    return ("\u200b" + shortened(name, 30)).replace("$", r"\$")
