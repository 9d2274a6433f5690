"""Which classes are taken for which: arrays in, figure out. A notebook can call it as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from toolkit.plots.images import WRONG, Texts, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 100  # of more, the ones that are confused most are shown
MOST_NUMBERS = 30  # with more classes a cell is too small for its number
MOST_PAIRS = 10
SHORT = 18  # characters of a name in a pair
INCHES_PER_CHARACTER = 0.0085  # and point of font size


def confusion_matrix_figure(truth: Texts, predicted: Texts, classes: Sequence[str]) -> Figure:
    """Counts, shares of each true class, and the pairs that are confused most often.

    Args:
        truth, predicted: (N,) class names.
        classes: all class names, in the order of rows and columns.
    """
    names = np.asarray(classes, dtype=object)
    position = {name: number for number, name in enumerate(classes)}
    true, said = (np.array([position[name] for name in column], dtype=np.int64) for column in (truth, predicted))
    counts = np.bincount(true * len(names) + said, minlength=len(names) ** 2).reshape(len(names), len(names))
    total, right = int(counts.sum()), int(np.trace(counts))
    title = f"{right:,} of {total:,} right ({right / max(1, total):.1%})"
    shown = _most_confused_classes(counts)
    if len(shown) < len(names):
        title += f"; the {len(shown)} of {len(names)} classes with most mistakes"
    labels = [shortened(name) for name in names[shown]]
    cell, font = _sizes(len(shown))
    side, room = max(2.6, cell * len(shown)), _longest(labels) * font * INCHES_PER_CHARACTER
    below = room if _crowded(labels) else 0.2
    pairs_width = 2.6 + 2 * min(_longest(labels), SHORT) * 9 * INCHES_PER_CHARACTER
    figure = Figure(figsize=(2 * (side + room + 0.6) + pairs_width, side + below + 1.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    left, middle, pairs = figure.subplots(1, 3, width_ratios=[side, side, 2.0])
    part = counts[np.ix_(shown, shown)]
    per_class = counts.sum(axis=1, keepdims=True)[shown]
    _draw_matrix(left, part, "d", labels, "counts")
    _draw_matrix(middle, 100 * part / np.maximum(1, per_class), ".0f", labels, "percent of each true class")
    _draw_pairs(pairs, counts, names, slots=max(MOST_PAIRS, side / 0.4))
    return figure


def _most_confused_classes(counts: np.ndarray) -> np.ndarray:
    """Positions of the classes to show, in class order."""
    mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])


def _sizes(classes: int) -> tuple[float, float]:
    """Inches of a cell and points of its text."""
    if classes <= 3:
        return 1.1, 11
    if classes <= 12:
        return 0.5, 9
    return (0.32, 7.5) if classes <= MOST_NUMBERS else (0.13, 6)


def _draw_matrix(axes: "Axes", values: np.ndarray, form: str, labels: Sequence[str], title: str) -> None:
    count, (_, size) = len(labels), _sizes(len(labels))
    # The diagonal is hundreds and a mistake is one: a root scale lets both be seen.
    scale = PowerNorm(0.5, 0, max(float(values.max(initial=0)), 1e-9))
    display = ConfusionMatrixDisplay(values, display_labels=np.arange(count)).plot(
        ax=axes,
        include_values=count <= MOST_NUMBERS,
        values_format=form,
        colorbar=False,
        cmap="Blues",
        im_kw={"norm": scale},
        text_kw={"fontsize": size},
    )
    for text, value in zip(() if display.text_ is None else display.text_.flat, values.flat, strict=False):
        # Inside its cell a number needs no room of its own; without this the layout measures each of them.
        text.set_in_layout(False)
        if not value:
            text.remove()
    axes.set_xticks(range(count), labels, rotation=90 if _crowded(labels) else 0, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), labels, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_anchor("NW")
    axes.spines[:].set_color("#cccccc")


def _draw_pairs(axes: "Axes", counts: np.ndarray, names: np.ndarray, slots: float) -> None:
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(cell), len(names)) for cell in order if mistakes.flat[cell] > 0]
    axes.set_title("most frequent mistakes" if pairs else "no mistakes", fontsize=10, loc="left")
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    labels = [f"{shortened(names[true], SHORT)} taken for {shortened(names[said], SHORT)}" for true, said in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=9, parse_math=False)
    axes.set_ylim(slots - 0.4, -0.6)
    bars = axes.barh(range(len(pairs)), [int(mistakes[pair]) for pair in pairs], color=WRONG, height=0.6)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.margins(x=0.15)


def _crowded(labels: Sequence[str]) -> bool:
    return len(labels) > 12 or _longest(labels) > (10 if len(labels) <= 3 else 5)


def _longest(labels: Sequence[str]) -> int:
    return max(map(len, labels), default=0)
