"""Pictures of predictions: arrays in, figure out. A notebook can call them as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from pipeline.tasks.shared.drawing import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Texts = Sequence[str] | np.ndarray

RIGHT, WRONG = "#2a8a4a", "#c62f2f"


def sample_figure(
    images: Sequence[np.ndarray],
    ids: Texts,
    truths: Texts,
    predictions: Texts,
    probabilities: Sequence[float] | np.ndarray,
    most: int = 12,
) -> Figure:
    """The surest mistakes first, then some right ones, each with id, truth, prediction and its probability.

    Args:
        images: (N,) uint8 (H, W, 3); of many, only those that are shown are asked for.
        ids, truths, predictions: (N,) names.
        probabilities: (N,) of the predicted class; NaN for rows that are left out.
        most: how many to show.
    """
    chosen = worst_and_right(truths, predictions, probabilities, most)
    told = np.isfinite(np.asarray(probabilities, dtype=float))
    wrong = sum(
        true != said for true, said in zip(np.asarray(truths)[told], np.asarray(predictions)[told], strict=True)
    )
    titles, colors = [], []
    for true, said, sure in ((truths[number], predictions[number], probabilities[number]) for number in chosen):
        titles.append(
            f"{shortened(said, 20)} ({sure:.0%})" + ("" if true == said else f"\ntrue: {shortened(true, 20)}")
        )
        colors.append(RIGHT if true == said else WRONG)
    title = f"{wrong:,} of {told.sum():,} wrong: the surest mistakes, then right ones"
    return image_grid([images[number] for number in chosen], [ids[number] for number in chosen], titles, colors, title)


def image_grid(
    images: Sequence[np.ndarray], ids: Texts, titles: Sequence[str], colors: Sequence[str], heading: str
) -> Figure:
    """Images (N,), uint8 (H, W, 3), each with its id, a title, and a frame in its colour."""
    columns = min(4, max(1, len(images)))
    rows = max(1, -(-len(images) // columns))
    height = max((2.4 * image.shape[0] / image.shape[1] for image in images), default=2.4)
    figure = Figure(figsize=(2.5 * columns + 0.3, (height + 0.75) * rows + 0.5), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.07)
    figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.02, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    for axes, image, name, title, color in zip(grid, images, ids, titles, colors, strict=False):
        _draw_image(axes, image, name, title, color)
    return figure


def worst_and_right(
    truths: Texts, predictions: Texts, probabilities: Sequence[float] | np.ndarray, most: int
) -> list[int]:
    """Positions of the surest mistakes (two thirds), then of right predictions from unsure to sure."""
    sure = np.asarray(probabilities, dtype=float)
    surest_first = np.argsort(-sure, kind="stable")[: np.isfinite(sure).sum()]  # NaN is sorted last
    right = np.asarray(truths, dtype=object) == np.asarray(predictions, dtype=object)
    wrong_ones = [int(number) for number in surest_first if not right[number]]
    right_ones = [int(number) for number in surest_first[::-1] if right[number]]
    mistakes = min(len(wrong_ones), max(2 * most // 3, most - len(right_ones)))
    spread = np.linspace(0, len(right_ones) - 1, min(len(right_ones), most - mistakes)).round().astype(int)
    return wrong_ones[:mistakes] + [right_ones[number] for number in spread]


def _draw_image(axes: "Axes", image: np.ndarray, name: str, title: str, color: str) -> None:
    small = max(image.shape[:2]) < 100  # blown up, its pixels are what the model saw
    axes.imshow(image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=color, linewidth=3)
    axes.set_title(title, fontsize=9, color=color, fontweight="bold", parse_math=False)
    axes.set_xlabel(shortened(name, 30), fontsize=7.5, color="#666666", parse_math=False)
