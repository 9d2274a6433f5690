"""Images side by side, and what pictures of every kind need."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from toolkit.plots.figures import set_heading, styled

Texts = Sequence[str] | np.ndarray


class Pictures(Protocol):
    def picture(self, row: int) -> np.ndarray:
        """The image of a row: uint8 or float32 (H, W, C)."""


def shortened(name: object, most: int = 24) -> str:
    """A long name with its middle left out: names often differ at both ends."""
    text = str(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


@styled
def image_grid(
    images: Sequence[np.ndarray],
    ids: Texts,
    titles: Sequence[str],
    colors: Sequence[str],
    heading: str,
    columns: int = 4,
    width: float = 2.5,
    foot: float = 0.0,
) -> Figure:
    """Draw images (N,), uint8 or float32 (H, W, 3), each with its id, a title, and a frame in its colour; the width of
    a column and the room for a legend at the foot are in inches."""
    columns = min(columns, max(1, len(images)))
    side, above = width - 0.1, 0.15 * max((title.count("\n") + 1 for title in titles), default=1)
    cell = above + 0.35 + max((side * image.shape[0] / image.shape[1] for image in images), default=2.4)
    across, down = width * columns + 0.2, cell * max(1, -(-len(images) // columns)) + 0.45 + foot
    figure = Figure(figsize=(across, down))
    set_heading(figure, heading)
    axes = figure.add_axes((0, 0, 1, 1))  # a single one, in inches: one for each image would take twice as long
    axes.set_axis_off()
    for number, (image, name, title, color) in enumerate(zip(images, ids, titles, colors, strict=True)):
        left, top = 0.15 + width * (number % columns), 0.5 + above + cell * (number // columns)
        bottom, middle = top + side * image.shape[0] / image.shape[1], left + side / 2
        small = max(image.shape[:2]) < 100  # blown up, its pixels are what the model saw
        box = (left, left + side, bottom, top)
        axes.imshow(image, extent=box, interpolation="nearest" if small else "antialiased")
        axes.add_patch(Rectangle((left, top), side, bottom - top, fill=False, color=color, linewidth=3))
        axes.text(middle, top - 0.06, title, ha="center", va="bottom", fontsize=9, color=color, fontweight="bold")
        axes.text(middle, bottom + 0.06, shortened(name, 30), ha="center", va="top", fontsize=7.5, color="#666666")
    axes.set(xlim=(0, across), ylim=(down, 0), aspect="auto")
    return figure


class RowImages(Sequence[np.ndarray]):
    """The images of some rows as a person can see them, uint8 (H, W, 3). Each is read when it is asked for."""

    def __init__(self, dataset: Pictures, positions: Sequence[int] | np.ndarray) -> None:
        self.dataset, self.positions = dataset, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        return visible(self.dataset.picture(int(self.positions[index])))


def visible(image: np.ndarray) -> np.ndarray:
    """Any sample's image (H, W, C), uint8 or float in [0, 1], as uint8 (H, W, 3): grey from one or two channels."""
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    return image[..., [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]]
