"""Figures as pixels and as files: drawn and encoded once, however many trackers ask."""

import io
import weakref
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from toolkit.plots.fonts import fit_fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODED: "weakref.WeakKeyDictionary[Figure, bytes]" = weakref.WeakKeyDictionary()


def pixels(figure: "Figure") -> np.ndarray:
    """The figure, drawn: uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    if figure.stale:
        fit_fonts(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def png(figure: "Figure") -> bytes:
    """The figure as a file."""
    if figure.stale or figure not in ENCODED:
        file = io.BytesIO()
        Image.fromarray(pixels(figure)).save(file, format="png", compress_level=3)  # half the time, a fifth larger
        ENCODED[figure] = file.getvalue()
    return ENCODED[figure]
