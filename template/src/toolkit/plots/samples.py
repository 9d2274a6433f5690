"""Samples with truth and prediction: arrays in, figures out. A notebook can call them as well."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toolkit.plots.figures import RIGHT, WRONG
from toolkit.plots.images import Texts, image_grid, shortened


def sample_figure(
    images: Sequence[np.ndarray],
    ids: Texts,
    truths: Texts,
    predictions: Texts,
    probabilities: Sequence[float] | np.ndarray,
    most: int = 12,
) -> Callable[[], Figure]:
    """What draws the surest mistakes first, then some right ones, each with id, truth, prediction and its probability.

    Of images (N,), uint8 (H, W, 3), only those that are drawn are asked for. Rows without a probability are left out.
    """
    known = np.isfinite(np.asarray(probabilities, dtype=float))
    wrong = (np.asarray(truths, dtype=object) != np.asarray(predictions, dtype=object)) & known
    drawn, titles = worst_and_right(truths, predictions, probabilities, most), []
    for number in drawn:
        true = f"\ntrue: {shortened(truths[number], 20)}" if wrong[number] else ""
        titles.append(f"{shortened(predictions[number], 20)} ({probabilities[number]:.0%}){true}")
    colors = [WRONG if wrong[number] else RIGHT for number in drawn]
    title = f"{wrong.sum():,} of {known.sum():,} wrong: the surest mistakes, then right ones"
    read, names = [images[number] for number in drawn], [ids[number] for number in drawn]
    return partial(image_grid, read, names, titles, colors, title)


def worst_and_right(
    truths: Texts, predictions: Texts, probabilities: Sequence[float] | np.ndarray, most: int
) -> list[int]:
    """Positions of the surest mistakes (two thirds), then of right predictions from unsure to sure."""
    sure = np.asarray(probabilities, dtype=float)
    surest_first = np.argsort(-sure, kind="stable")[: np.isfinite(sure).sum()]  # NaN is sorted last
    is_right = (np.asarray(truths, dtype=object) == np.asarray(predictions, dtype=object))[surest_first]
    wrong, right = surest_first[~is_right], surest_first[is_right][::-1]
    mistakes = min(len(wrong), max(2 * most // 3, most - len(right)))
    spread = np.linspace(0, len(right) - 1, min(len(right), most - mistakes)).round().astype(int)
    return [*wrong[:mistakes].tolist(), *right[spread].tolist()]


def label_errors_figure(found: pd.DataFrame, images: Sequence[np.ndarray]) -> Figure:
    """Draw labels that are suspected to be wrong, the rows of `found` (id, given, suggested, probability or NaN), on
    images (N,), uint8 (H, W, 3)."""
    titles = []
    for given, suggested, sure in zip(found["given"], found["suggested"], found["probability"], strict=True):
        probability = f" ({sure:.0%})" if np.isfinite(sure) else ""
        titles.append(f"given: {shortened(given, 20)}\nsuggested: {shortened(suggested, 16)}{probability}")
    colors, heading = [WRONG] * len(found), "Labels to look at, the worst first"
    return image_grid([images[row] for row in range(len(found))], list(found["id"]), titles, colors, heading)
