"""Which classes are taken for which: arrays in, figure out. A notebook can call it as well."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from toolkit.plots.figures import draw_counts, set_heading, styled
from toolkit.plots.images import Texts, shortened

MOST_CLASSES = 100  # of more, the ones that are confused most are shown
MOST_NUMBERS = 30  # with more classes a cell is too small for its number
MOST_PAIRS = 10
SIZES = {3: (1.1, 11), 12: (0.5, 9), MOST_NUMBERS: (0.32, 7.5), MOST_CLASSES: (0.13, 6)}
"""Up to so many classes: inches of a cell, and points of its text."""


@styled
def confusion_matrix_figure(truth: Texts, predicted: Texts, classes: Sequence[str]) -> Figure:
    """Draw counts, shares of each true class, and the pairs that are confused most often, given names of classes, (N,);
    `classes` are in the order of rows and columns."""
    true, decided = (pd.Categorical(list(column), categories=list(classes)).codes for column in (truth, predicted))
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (true, decided), 1)
    total, right = int(counts.sum()), int(np.trace(counts))
    mistakes = counts - np.diag(np.diag(counts))
    drawn = np.sort(np.argsort(-(mistakes.sum(axis=0) + mistakes.sum(axis=1)), kind="stable")[:MOST_CLASSES])
    labels = [shortened(classes[number]) for number in drawn]
    cell, font = next(sizes for most, sizes in SIZES.items() if len(drawn) <= most)
    side = max(2.6, cell * len(drawn))
    beside = 0.0085 * font * max(map(len, labels), default=0)  # inches for the longest label
    figure = Figure(figsize=(2 * (side + beside) + 7, side + beside + 1.2), layout="constrained")
    some = f"; the {len(drawn)} of {len(classes)} classes with most mistakes" if len(drawn) < len(classes) else ""
    set_heading(figure, f"{right:,} of {total:,} right ({right / max(1, total):.1%}){some}")
    left, middle, pairs = figure.subplots(1, 3, width_ratios=[side, side, 2.0])
    part = counts[np.ix_(drawn, drawn)]
    _draw_matrix(left, part, "d", labels, font, "counts")
    shares = 100 * part / np.maximum(1, counts.sum(axis=1, keepdims=True)[drawn])
    _draw_matrix(middle, shares, ".0f", labels, font, "percent of each true class")
    order = np.argsort(-mistakes, axis=None, kind="stable")[: min(MOST_PAIRS, np.count_nonzero(mistakes))]
    confused = [[shortened(classes[number], 18) for number in divmod(int(at), len(classes))] for at in order]
    pairs.set_title("most frequent mistakes" if confused else "no mistakes")
    names = [f"{one} taken for {other}" for one, other in confused]
    draw_counts(pairs, names, mistakes.flat[order], slots=max(MOST_PAIRS, side / 0.4))
    return figure


def _draw_matrix(axes: Axes, values: np.ndarray, form: str, labels: list[str], font: float, title: str) -> None:
    display = ConfusionMatrixDisplay(values, display_labels=labels).plot(
        ax=axes,
        include_values=len(labels) <= MOST_NUMBERS,
        values_format=form,
        colorbar=False,
        cmap="Blues",
        # The diagonal is hundreds and a mistake is one: a root scale lets both be seen.
        im_kw={"norm": PowerNorm(0.5, 0, max(float(values.max(initial=0)), 1e-9))},
        text_kw={"fontsize": font},
        xticks_rotation=90 if len(labels) > 12 or max(map(len, labels)) > 5 else 0,
    )
    for text, value in zip(() if display.text_ is None else display.text_.flat, values.flat, strict=False):
        text.set_in_layout(False)  # inside its cell it needs no room of its own, and is not measured
        if not value:
            text.remove()
    axes.tick_params(length=0, labelsize=font)
    axes.set(xlabel="predicted", ylabel="true", title=title, anchor="NW")
