"""Pictures of masks: arrays in, figure out. A notebook can call them as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toolkit.plots.images import image_grid, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Green, red and yellow that also differ in lightness, for those who do not tell red from green.
RIGHT, MISSED, WRONG = "#56c98b", "#a8121f", "#ffe14d"
OUTCOMES = {"true positive": RIGHT, "false negative": MISSED, "false positive": WRONG}
# None of them is near one of the three above.
CLASSES = ("#4c9be8", "#f28e2b", "#b07aa1", "#7fe3e0", "#ff9da7", "#9c755f", "#6457c6", "#d7b5f0")
IGNORED_COLOR, IGNORED = "#8a8a8a", 255
DRAWN = 320  # pixels of the longer side in a picture
NAMED = 10  # classes in a legend
GREY = "#666666"


def class_colors(count: int) -> list[tuple[float, float, float]]:
    """A colour per class, told apart as far as may be."""
    if count <= len(CLASSES):
        return [mpl.colors.to_rgb(color) for color in CLASSES[:count]]
    return [mpl.colors.to_rgb(mpl.colormaps["turbo"](place)) for place in np.linspace(0.05, 0.95, count)]


def sample_figure(
    images: Sequence[np.ndarray],
    ids: Sequence[str] | np.ndarray,
    truths: Sequence[np.ndarray],
    decided: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray],
    classes: Sequence[str] = (),
    most: int = 6,
) -> Figure:
    """A row per image: the image, its true masks, those that are decided, both laid over each other, and the largest
    probability of any class.

    Args:
        images: (N,) uint8 (H, W, 3), or (H, W) or (H, W, 1); of many, only the first `most` are asked for, one by one.
        truths: (N,) uint8 (C, H, W) of 0, 1, and 255 for what is ignored.
        decided: (N,) bool (C, H, W).
        probabilities: (N,) uint8 (C, h, w).
        classes: names for the legend; none: `class 1` and so on.
    """
    rows = min(len(ids), most)
    shape = decided[0].shape if rows else (len(classes), 1, 1)
    colors = class_colors(shape[0])
    height = float(np.clip(2.3 * shape[1] / shape[2], 1.2, 4.6))
    figure = Figure(figsize=(12.4, (height + 0.35) * max(rows, 1) + 1.1), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.05)
    figure.suptitle(
        "Masks: truth, prediction, and where they differ", fontsize=11, fontweight="bold", x=0.02, ha="left"
    )
    grid = figure.subplots(max(rows, 1), 5, squeeze=False)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    seen: set[int] = set()
    for number in range(rows):
        truth, masks = truths[number], decided[number]
        seen |= set(np.flatnonzero((truth == 1).any(axis=(1, 2)) | masks.any(axis=(1, 2))).tolist())
        _draw_row(grid[number], images[number], truth, masks, probabilities[number], colors)
        grid[number, 0].set_xlabel(shortened(ids[number], 34), fontsize=7.5, color=GREY, parse_math=False)
    for axes, title in zip(grid[0], ("image", "truth", "prediction", "overlay", "probability"), strict=True):
        axes.set_title(title, fontsize=9, fontweight="bold")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "magma")
    figure.colorbar(scale, ax=grid[:, 4], shrink=min(1.0, 2 / max(rows, 1)), aspect=18).ax.tick_params(labelsize=7)
    figure.legend(handles=_handles(classes, colors, sorted(seen)), loc="outside lower left", ncols=6, fontsize=8)
    return figure


def masks_figure(
    images: Sequence[np.ndarray],
    ids: Sequence[str],
    truths: Sequence[Sequence[np.ndarray]],
    decided: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    heading: str,
) -> Figure:
    """Images (N,), each beside the overlays of its truths and predictions, one for each head, with a title; arguments
    as above, truths and decided masks (N, heads)."""
    tiles = [_tile(*each) for each in zip(images, truths, decided, strict=True)]
    panels = 1 + max(map(len, truths), default=1)
    columns = max(1, 4 // panels)
    figure = image_grid(tiles, ids, titles, [GREY] * len(tiles), heading, columns, width=2.5 * panels, foot=0.25)
    patches = [Patch(color=color, label=name) for name, color in OUTCOMES.items()]
    figure.legend(handles=patches, loc="lower right", ncols=3, fontsize=8, frameon=False)
    return figure


def _tile(image: np.ndarray, truths: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """The image and its overlays side by side, float32 (h, w + heads (w + gap), 3)."""
    panels: list[np.ndarray] = []
    for planes, said in zip(truths, masks, strict=True):
        small, true, found = _small(image, planes, said)
        panels = panels or [small.astype(np.float32) / 255]
        panels += [np.ones((len(small), max(1, small.shape[1] // 40), 3), np.float32), overlay(small, true, found)]
    return np.concatenate(panels, axis=1)


def overlay(image: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image, float32 (H, W, 3), where true positives are green, false negatives red and false positives yellow.

    Of several classes red comes before yellow, and green is a pixel of which every class is right. What is ignored for
    every class is grey.

    Args:
        image: uint8 (H, W, 3).
        truth: uint8 (C, H, W) of 0, 1, 255.
        masks: bool (C, H, W).
    """
    true, known = truth == 1, truth != IGNORED
    missed = (true & ~masks).any(axis=0)
    wrong = (masks & known & ~true).any(axis=0) & ~missed
    right = (true & masks).any(axis=0) & ~missed & ~wrong
    drawn = _dimmed(image)
    for where, color in ((wrong, WRONG), (missed, MISSED), (right, RIGHT)):
        drawn[where] = 0.25 * drawn[where] + 0.75 * np.array(mpl.colors.to_rgb(color))
    drawn[~known.any(axis=0)] = mpl.colors.to_rgb(IGNORED_COLOR)
    return drawn


def shrunk(planes: np.ndarray, most: int = DRAWN) -> np.ndarray:
    """Planes (C, H, W) whose longer side is at most `most` pixels; what is smaller than such a pixel stays visible."""
    height, width = planes.shape[1:]
    factor = -(-max(height, width) // most)
    if factor <= 1:
        return planes
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    return np.stack([np.maximum.reduceat(np.maximum.reduceat(plane, rows), columns, axis=1) for plane in planes])


def shrunk_truth(planes: np.ndarray) -> np.ndarray:
    """`shrunk` of a truth, uint8 (C, H, W) of 0, 1, 255; what is true comes before what is ignored."""
    true, ignored = shrunk(planes == 1), shrunk(planes == IGNORED)
    return np.where(true, np.uint8(1), np.where(ignored, np.uint8(IGNORED), np.uint8(0)))


def _draw_row(
    axes: "Sequence[Axes]",
    image: np.ndarray,
    truth: np.ndarray,
    masks: np.ndarray,
    probability: np.ndarray,
    colors: Sequence[tuple[float, float, float]],
) -> None:
    small, planes, said = _small(image, truth, masks)
    axes[0].imshow(small)
    axes[1].imshow(_painted(small, planes == 1, colors, np.all(planes == IGNORED, axis=0)))
    axes[2].imshow(_painted(small, said, colors))
    axes[3].imshow(overlay(small, planes, said))
    axes[4].imshow(shrunk(probability).max(axis=0), cmap="magma", vmin=0, vmax=255, extent=(0, *small.shape[1::-1], 0))


def _small(image: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3), truth and masks (C, h, w) at the size at which they are drawn; of true and ignored pixels that
    fall together the true one counts."""
    planes = shrunk_truth(truth)
    return cv2.resize(_rgb(image), planes.shape[:0:-1], interpolation=cv2.INTER_AREA), planes, shrunk(masks)


def _rgb(image: np.ndarray) -> np.ndarray:
    """The first three channels, or a grey image three times."""
    planes = image.reshape(*image.shape[:2], -1)
    return np.ascontiguousarray(planes[..., :3] if planes.shape[2] > 2 else planes[..., :1].repeat(3, axis=2))


def _painted(
    image: np.ndarray,
    masks: np.ndarray,
    colors: Sequence[tuple[float, float, float]],
    ignored: np.ndarray | None = None,
) -> np.ndarray:
    drawn = _dimmed(image)
    for mask, color in zip(masks, colors, strict=True):
        drawn[mask] = 0.25 * drawn[mask] + 0.75 * np.array(color)
    if ignored is not None:
        drawn[ignored] = mpl.colors.to_rgb(IGNORED_COLOR)
    return drawn


def _dimmed(image: np.ndarray) -> np.ndarray:
    grey: np.ndarray = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.float32) / 255
    return 0.6 * grey


def _handles(classes: Sequence[str], colors: Sequence[tuple[float, float, float]], seen: Sequence[int]) -> list[Patch]:
    names = classes or [f"class {number + 1}" for number in range(len(colors))]
    handles = [Patch(color=color, label=name) for name, color in OUTCOMES.items()]
    for number in seen[:NAMED]:
        # A leading underscore would hide the entry, and a dollar sign would start a formula.
        label = "\u200b" + shortened(names[number]).replace("$", r"\$")
        handles.append(Patch(color=colors[number], label=label))
    if len(seen) > NAMED:
        handles.append(Patch(color="none", label=f"and {len(seen) - NAMED} more classes"))
    return handles
