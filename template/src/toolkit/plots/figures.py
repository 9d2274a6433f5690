"""How figures look, and how they become pixels and files."""

import contextlib
import io
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter
from PIL import Image

from toolkit.files import atomic

Drawing = Figure | Callable[[], Figure]
RIGHT, WRONG, NEUTRAL, DARK, GREY = "#2a8a4a", "#c62f2f", "#4a78b0", "#1b2a41", "#8a93a0"
styled = mpl.rc_context(  # a decorator of what makes a figure
    {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "figure.dpi": 110,
        "figure.titlesize": 12,
        "figure.titleweight": "bold",
        "legend.fontsize": 9,
        "legend.frameon": False,
        "text.parse_math": False,
    }
)
FOUND: dict[str, str | None] = {}  # character -> a font that has it; none: no installed font has


def set_heading(figure: Figure, text: str) -> None:
    """Write `text` above the whole figure, from the left."""
    figure.suptitle(text, x=0.01, ha="left")


def draw_counts(axes: Axes, names: list[str], counts: np.ndarray, slots: float) -> None:
    """Draw named counts as bars, the first one on top, with room for `slots` of them."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.bar_label(axes.barh(range(len(names)), counts, color=WRONG, height=0.6), padding=3, fontsize=9)
    axes.margins(x=0.15)


def pixels(figure: Figure) -> np.ndarray:
    """Draw the figure, once: uint8 (H, W, 3)."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    if figure.stale:
        fit_fonts(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def png(figure: Drawing) -> bytes:
    """Encode the figure, or the one that a function draws."""
    file, drawn = io.BytesIO(), pixels(figure if isinstance(figure, Figure) else figure())
    Image.fromarray(drawn).save(file, format="png", compress_level=3)  # half the time, a fifth larger
    return file.getvalue()


def save_figure(figure: Drawing, path: Path) -> None:
    """Write a figure, or the one that a function draws, as PNG, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(png(figure))


def start_drawing() -> ProcessPoolExecutor | None:
    """Start a process that draws (`png_of_pickled`) beside this one, as far as the system lets us: with one thread,
    without a GPU, giving way to others. It knows nothing of Ctrl-C and SIGTERM, and ends with this process even if that
    is killed."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        return None
    environment = {"CUDA_VISIBLE_DEVICES": "", **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        pool = ProcessPoolExecutor(1, get_context("spawn"), _prepare_drawing, (os.getpid(),))  # it may unblock signals
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # inherited, like the variables
        with patch.dict(os.environ, environment):
            pool.submit(png_of_pickled, pickle.dumps(Figure))  # imports and fonts are there when they are needed
    except OSError:
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pool


def encoded(figure: Drawing | bytes, pool: ProcessPoolExecutor | None) -> "Future[bytes]":
    """Encode a figure: in the process that draws, where there is one and a function that can be pickled draws it, or
    else here and now. What fails is in the result."""
    if pool is not None and callable(figure):
        with contextlib.suppress(BrokenExecutor, pickle.PicklingError, AttributeError, TypeError):
            return pool.submit(png_of_pickled, pickle.dumps(figure))
    found: Future[bytes] = Future()
    try:
        found.set_result(figure if isinstance(figure, bytes) else png(figure))
    except Exception as error:
        found.set_exception(error)
    return found


def png_of_pickled(draw: bytes) -> bytes:
    """Encode the figure that a pickled function draws."""
    try:
        return png(pickle.loads(draw))
    except Exception as error:  # which itself may not come through a pipe
        raise RuntimeError(str(error) or type(error).__name__) from None


def _prepare_drawing(parent: int) -> None:
    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    os.nice(10)
    threading.Thread(target=end_with_parent, daemon=True).start()


def fit_fonts(figure: Figure) -> None:
    """Let every text of a figure be drawn: names of classes and ids may be of any script.

    What the font lacks is taken from another installed one; what none has is written as an escape (`\\u732b`).
    """
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if labels != (fitted := [_escaped(label) for label in labels]):
                axis.set_ticks(axis.get_ticklocs(), labels=fitted)  # or drawing would put the old ones back
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (content := _escaped(text.get_text())) != text.get_text():
            text.set_text(content)
        others = {family for one in content if (family := FOUND.get(one)) and family not in text.get_fontfamily()}
        if others:
            text.set_fontfamily([*text.get_fontfamily(), *sorted(others)])


def _escaped(content: str) -> str:
    """The content with escapes for what no font has."""
    special = {one for one in content if one != "\n" and not (one.isascii() and one.isprintable())}
    if special - FOUND.keys():
        _look_up(special - FOUND.keys())
    return content.translate({ord(one): one.encode("unicode_escape").decode() for one in special if FOUND[one] is None})


def _look_up(characters: set[str]) -> None:
    """Find a font for each of these characters; say once that some have none."""
    listed = {entry.fname for entry in fontManager.ttflist}  # matplotlib made the list once and keeps it in a file
    for path in set(findSystemFonts()) - listed:
        with contextlib.suppress(Exception):  # no font that it can read
            fontManager.addfont(path)
    usual = findfont(FontProperties())
    entries = [entry for entry in fontManager.ttflist if "Last Resort" not in entry.name]  # which has boxes only
    left = set(characters)
    for entry in sorted(entries, key=lambda one: (one.fname != usual, "sans" not in one.name.lower(), one.name)):
        if left:
            with contextlib.suppress(Exception):
                has = {one for one in left if ord(one) in get_font(entry.fname).get_charmap()}
                FOUND.update(dict.fromkeys(has, entry.name))
                left -= has
    if left and None not in FOUND.values():
        some = ", ".join(one.encode("unicode_escape").decode() for one in sorted(left)[:3])
        print(
            f"note: no installed font has some characters of the names in pictures ({some}), which are written like "
            "that; install one that has, such as fonts-noto-cjk",
            file=sys.stderr,
            flush=True,
        )
    FOUND.update(dict.fromkeys(left))
