"""What pictures of every kind need."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


class Pictures(Protocol):
    """Rows with an image each."""

    def picture(self, row: int) -> np.ndarray:
        """The image of a row: uint8 or float32 (H, W, C)."""


Texts = Sequence[str] | np.ndarray

RIGHT, WRONG, NEUTRAL = "#2a8a4a", "#c62f2f", "#4a78b0"


def shortened(name: object, most: int = 24) -> str:
    """A long name with its middle left out: names often differ at both ends."""
    text = str(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


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
    """Images (N,), uint8 or float32 (H, W, 3), each with its id, a title, and a frame in its colour.

    Args:
        width: of a column, in inches.
        foot: room for a legend below, in inches.
    """
    columns = min(columns, max(1, len(images)))
    rows = max(1, -(-len(images) // columns))
    height = max(((width - 0.1) * image.shape[0] / image.shape[1] for image in images), default=2.4)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    cell = height + 0.35 + 0.15 * lines
    across, down = width * columns + 0.2, cell * rows + 0.45 + foot
    figure = Figure(figsize=(across, down), dpi=110)
    figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.02, y=1 - 0.1 / down, ha="left")
    axes = figure.add_axes((0, 0, 1, 1))  # a single one, in inches: one for each image would take twice as long
    axes.set_axis_off()
    for number, (image, name, title, color) in enumerate(zip(images, ids, titles, colors, strict=True)):
        left, top = 0.15 + width * (number % columns), 0.5 + 0.15 * lines + cell * (number // columns)
        box = (left, left + width - 0.1, top + (width - 0.1) * image.shape[0] / image.shape[1], top)
        small = max(image.shape[:2]) < 100  # blown up, its pixels are what the model saw
        axes.imshow(image, extent=box, interpolation="nearest" if small else "antialiased")
        axes.add_patch(Rectangle((left, top), width - 0.1, box[2] - top, fill=False, color=color, linewidth=3))
        style: dict[str, Any] = {"ha": "center", "parse_math": False}
        middle = left + (width - 0.1) / 2
        axes.text(middle, top - 0.06, title, va="bottom", fontsize=9, color=color, fontweight="bold", **style)
        axes.text(middle, box[2] + 0.06, shortened(name, 30), va="top", fontsize=7.5, color="#666666", **style)
    axes.set(xlim=(0, across), ylim=(down, 0), aspect="auto")
    return figure


class RowImages(Sequence[np.ndarray]):
    """The images of some rows as a person can see them, uint8 (H, W, 3). Each is read when it is asked for."""

    def __init__(self, dataset: Pictures, positions: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        return visible(self.dataset.picture(int(self.positions[index])))


def visible(image: np.ndarray) -> np.ndarray:
    """Any sample's image (H, W, C), uint8 or float in [0, 1], as uint8 (H, W, 3): grey from one or two channels."""
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return image[..., channels]
