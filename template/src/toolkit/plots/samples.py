"""Samples with truth and prediction: arrays in, figures out. A notebook can call them as well."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toolkit.plots.images import RIGHT, WRONG, Texts, image_grid, shortened


def sample_figure(
    images: Sequence[np.ndarray],
    ids: Texts,
    truths: Texts,
    predictions: Texts,
    probabilities: Sequence[float] | np.ndarray,
    most: int = 12,
) -> Figure:
    """The surest mistakes first, then some right ones, each with id, truth, prediction and its probability.

    Args:
        images: (N,) uint8 (H, W, 3); of many, only those that are shown are asked for.
        ids, truths, predictions: (N,) names.
        probabilities: (N,) of the predicted class; NaN for rows that are left out.
        most: how many to show.
    """
    chosen = worst_and_right(truths, predictions, probabilities, most)
    told = np.isfinite(np.asarray(probabilities, dtype=float))
    wrong = sum(
        true != said for true, said in zip(np.asarray(truths)[told], np.asarray(predictions)[told], strict=True)
    )
    titles, colors = [], []
    for true, said, sure in ((truths[number], predictions[number], probabilities[number]) for number in chosen):
        titles.append(
            f"{shortened(said, 20)} ({sure:.0%})" + ("" if true == said else f"\ntrue: {shortened(true, 20)}")
        )
        colors.append(RIGHT if true == said else WRONG)
    title = f"{wrong:,} of {told.sum():,} wrong: the surest mistakes, then right ones"
    return image_grid([images[number] for number in chosen], [ids[number] for number in chosen], titles, colors, title)


def worst_and_right(
    truths: Texts, predictions: Texts, probabilities: Sequence[float] | np.ndarray, most: int
) -> list[int]:
    """Positions of the surest mistakes (two thirds), then of right predictions from unsure to sure."""
    sure = np.asarray(probabilities, dtype=float)
    surest_first = np.argsort(-sure, kind="stable")[: np.isfinite(sure).sum()]  # NaN is sorted last
    right = np.asarray(truths, dtype=object) == np.asarray(predictions, dtype=object)
    wrong_ones = [int(number) for number in surest_first if not right[number]]
    right_ones = [int(number) for number in surest_first[::-1] if right[number]]
    mistakes = min(len(wrong_ones), max(2 * most // 3, most - len(right_ones)))
    spread = np.linspace(0, len(right_ones) - 1, min(len(right_ones), most - mistakes)).round().astype(int)
    return wrong_ones[:mistakes] + [right_ones[number] for number in spread]


def label_errors_figure(found: pd.DataFrame, images: Sequence[np.ndarray]) -> Figure:
    """Labels that are suspected to be wrong, with what is suggested.

    Args:
        found: the columns id, given, suggested and probability (NaN where there is none), (N,).
        images: (N,) uint8 (H, W, 3).
    """
    titles = []
    for given, suggested, sure in zip(found["given"], found["suggested"], found["probability"], strict=True):
        probability = f" ({sure:.0%})" if np.isfinite(sure) else ""
        titles.append(f"given: {shortened(given, 20)}\nsuggested: {shortened(suggested, 16)}{probability}")
    shown = [images[place] for place in range(len(found))]
    return image_grid(shown, list(found["id"]), titles, [WRONG] * len(found), "Labels to look at, the worst first")
