"""Pictures of masks: arrays in, figure out. A notebook can call them as well."""

from collections.abc import Sequence

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toolkit.plots.figures import set_heading, styled
from toolkit.plots.images import image_grid, shortened

# Green, red and yellow that also differ in lightness, for those who do not tell red from green.
RIGHT, MISSED, WRONG = "#56c98b", "#a8121f", "#ffe14d"
OUTCOMES = {"true positive": RIGHT, "false negative": MISSED, "false positive": WRONG}
# None of them is near one of the three above.
CLASSES = ("#4c9be8", "#f28e2b", "#b07aa1", "#7fe3e0", "#ff9da7", "#9c755f", "#6457c6", "#d7b5f0")
IGNORED_COLOR, IGNORED = "#8a8a8a", 255
DRAWN = 320  # pixels of the longer side in a picture
NAMED = 10  # classes in a legend
GREY = "#666666"
Color = tuple[float, float, float]


def class_colors(count: int) -> list[Color]:
    """A colour per class, told apart as far as may be."""
    if count <= len(CLASSES):
        return [mpl.colors.to_rgb(color) for color in CLASSES[:count]]
    return [mpl.colors.to_rgb(mpl.colormaps["turbo"](place)) for place in np.linspace(0.05, 0.95, count)]


@styled
def sample_figure(
    images: Sequence[np.ndarray],
    ids: Sequence[str] | np.ndarray,
    truths: Sequence[np.ndarray],
    decided: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray],
    classes: Sequence[str] = (),
    most: int = 6,
) -> Figure:
    """Draw a row per image: the image, its true masks, those that are decided, both laid over each other, and the
    largest probability of any class.

    Args:
        images: (N,) uint8 (H, W, 3), or (H, W) or (H, W, 1); of many, only the first `most` are asked for, one by one.
        truths: (N,) uint8 (C, H, W) of 0, 1, and 255 for what is ignored.
        decided: (N,) bool (C, H, W).
        probabilities: (N,) uint8 (C, h, w).
        classes: names for the legend; none: `class 1` and so on.
    """
    rows = min(len(ids), most)
    count, tall, wide = decided[0].shape if rows else (len(classes), 1, 1)
    colors, has = class_colors(count), np.zeros(count, dtype=bool)
    height = float(np.clip(2.3 * tall / wide, 1.2, 4.6)) + 0.35
    figure = Figure(figsize=(12.4, height * max(rows, 1) + 1.1), layout="constrained")
    set_heading(figure, "Masks: truth, prediction, and where they differ")
    grid = figure.subplots(max(rows, 1), 5, squeeze=False, subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
    for number in range(rows):
        image, truth, masks = shrunk_sample(images[number], truths[number], decided[number])
        has |= (truth == 1).any(axis=(1, 2)) | masks.any(axis=(1, 2))
        true = _painted(image, truth == 1, colors, np.all(truth == IGNORED, axis=0))
        pictures = (image, true, _painted(image, masks, colors), overlay(image, truth, masks))
        for axes, picture in zip(grid[number], pictures, strict=False):
            axes.imshow(picture)
        sure = shrunk(probabilities[number]).max(axis=0)
        grid[number, 4].imshow(sure, cmap="magma", vmin=0, vmax=255, extent=(0, *image.shape[1::-1], 0))
        grid[number, 0].set_xlabel(shortened(ids[number], 34), fontsize=7.5, color=GREY)
    for axes, title in zip(grid[0], ("image", "truth", "prediction", "overlay", "probability"), strict=True):
        axes.set_title(title)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "magma")
    figure.colorbar(scale, ax=grid[:, 4], shrink=min(1.0, 2 / max(rows, 1)), aspect=18)
    handles = [Patch(color=color, label=name) for name, color in OUTCOMES.items()]
    for number in np.flatnonzero(has)[:NAMED]:
        name = shortened(classes[number]) if classes else f"class {number + 1}"
        handles.append(Patch(color=colors[number], label=f"\u200b{name}"))  # or a leading underscore would hide it
    if has.sum() > NAMED:
        handles.append(Patch(color="none", label=f"and {has.sum() - NAMED} more classes"))
    figure.legend(handles=handles, loc="outside lower left", ncols=6)
    return figure


def masks_figure(
    images: Sequence[np.ndarray],
    ids: Sequence[str],
    truths: Sequence[Sequence[np.ndarray]],
    decided: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    heading: str,
) -> Figure:
    """Draw images (N,), each beside the overlays of its truths and predictions, one for each head, with a title;
    arguments as above, truths and decided masks (N, heads)."""
    tiles = []
    for image, planes, masks in zip(images, truths, decided, strict=True):
        heads = [shrunk_sample(image, *each) for each in zip(planes, masks, strict=True)]
        panels = [heads[0][0].astype(np.float32) / 255, *(overlay(*each) for each in heads)]
        gap = ((0, 0), (0, max(1, panels[0].shape[1] // 40)), (0, 0))
        padded = [np.pad(panel, gap, constant_values=1.0) for panel in panels[:-1]]
        tiles.append(np.concatenate([*padded, panels[-1]], axis=1))  # (h, (1 + heads) w + gaps, 3)
    across = 1 + max(map(len, truths), default=1)
    columns = max(1, 4 // across)
    figure = image_grid(tiles, ids, titles, [GREY] * len(tiles), heading, columns, width=2.5 * across, foot=0.25)
    patches = [Patch(color=color, label=name) for name, color in OUTCOMES.items()]
    figure.legend(handles=patches, loc="lower right", ncols=3, fontsize=8, frameon=False)
    return figure


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
    colors = [mpl.colors.to_rgb(color) for color in (WRONG, MISSED, RIGHT)]
    return _painted(image, (wrong, missed, right), colors, ~known.any(axis=0))


def shrunk(planes: np.ndarray, most: int = DRAWN) -> np.ndarray:
    """Planes (C, H, W) whose longer side is at most `most` pixels; what is smaller than such a pixel stays visible."""
    factor = -(-max(planes.shape[1:]) // most)
    if factor <= 1:
        return planes
    rows, columns = (np.arange(0, size, factor) for size in planes.shape[1:])
    return np.stack([np.maximum.reduceat(np.maximum.reduceat(plane, rows), columns, axis=1) for plane in planes])


def shrunk_truth(planes: np.ndarray) -> np.ndarray:
    """`shrunk` of a truth, uint8 (C, H, W) of 0, 1, 255; what is true comes before what is ignored."""
    true, ignored = shrunk(planes == 1), shrunk(planes == IGNORED)
    return np.where(true, np.uint8(1), np.where(ignored, np.uint8(IGNORED), np.uint8(0)))


def shrunk_sample(image: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3), truth and masks (C, h, w) at the size at which they are drawn."""
    planes = shrunk_truth(truth)
    channels = np.atleast_3d(image)
    rgb = np.ascontiguousarray(channels[..., [0, 1, 2] if channels.shape[2] > 2 else [0, 0, 0]])
    return cv2.resize(rgb, planes.shape[:0:-1], interpolation=cv2.INTER_AREA), planes, shrunk(masks)


def _painted(
    image: np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    colors: Sequence[Color],
    ignored: np.ndarray | bool = False,
) -> np.ndarray:
    """The image in dim grey, float32 (h, w, 3), under masks (C, h, w) in their colours."""
    drawn: np.ndarray = 0.6 / 255 * image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.float32)
    for mask, color in zip(masks, colors, strict=True):
        drawn[mask] = 0.25 * drawn[mask] + 0.75 * np.array(color)
    drawn[ignored] = mpl.colors.to_rgb(IGNORED_COLOR)
    return drawn
