"""Figures as pixels: drawn once, however many trackers ask for them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pixels(figure: "Figure") -> np.ndarray:
    """The figure, drawn: uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    if figure.stale:
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
