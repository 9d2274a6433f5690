"""What pictures of every kind need."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.seam import SampleDataset

Texts = Sequence[str] | np.ndarray


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
    above, cell = 0.1 + 0.15 * lines, height + 0.45 + 0.15 * lines
    across, down = width * columns + 0.2, cell * rows + 0.45 + foot
    figure = Figure(figsize=(across, down), dpi=110)
    figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.02, y=1 - 0.1 / down, ha="left")
    # Laid out by hand: an engine for it takes longer than all of the drawing.
    for number, (image, name, title, color) in enumerate(zip(images, ids, titles, colors, strict=True)):
        left, top = 0.15 + width * (number % columns), down - 0.4 - cell * (number // columns) - above
        box = (left / across, (top - height) / down, (width - 0.1) / across, height / down)
        axes = figure.add_axes(box, anchor="N")
        _draw_image(axes, image, name, title, color)
    return figure


def _draw_image(axes: "Axes", image: np.ndarray, name: str, title: str, color: str) -> None:
    small = max(image.shape[:2]) < 100  # blown up, its pixels are what the model saw
    axes.imshow(image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=color, linewidth=3)
    axes.set_title(title, fontsize=9, color=color, fontweight="bold", parse_math=False)
    axes.set_xlabel(shortened(name, 30), fontsize=7.5, color="#666666", parse_math=False)


class RowImages(Sequence[np.ndarray]):
    """The images of some rows as a person can see them, uint8 (H, W, 3). Each is read when it is asked for."""

    def __init__(self, dataset: "SampleDataset", positions: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "RowImages": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | RowImages":
        if isinstance(index, slice):
            return RowImages(self.dataset, self.positions[index])
        return visible(self.dataset.picture(int(self.positions[index])))


def visible(image: np.ndarray) -> np.ndarray:
    """Any sample's image (H, W, C), uint8 or float in [0, 1], as uint8 (H, W, 3): grey from one or two channels."""
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return image[..., channels]
