"""Pictures of predictions: arrays in, figure out. A notebook can call them as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.data.sample_record import SeenSample
from toolkit.plots.images import Texts, image_grid, shortened, visible

if TYPE_CHECKING:
    from pipeline.heads.base import HeadKind

RIGHT, WRONG, NEUTRAL = "#2a8a4a", "#c62f2f", "#4a78b0"
MOST_HEADS = 3  # whose answers are written at an image

# of a head: its kind, which samples have a truth, bool (N,), and its `read_out`: truth, prediction, how sure, (N,) each
ReadOut = tuple["HeadKind", np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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


def seen_figure(
    samples: Sequence[SeenSample],
    heads: Sequence[str],
    read: Sequence[ReadOut],
    heading: str,
) -> Figure:
    """Samples (N,) as the model saw them, with their losses, and predictions and truths of the first heads.

    Args:
        heads: their names.
        read: of each head.
    """
    titles, colors = [], []
    for place, sample in enumerate(samples):
        lines, wrong, judged = [sample.told()], False, False
        for name, (kind, known, true, said, sure) in list(zip(heads, read, strict=True))[:MOST_HEADS]:
            label = f"{shortened(name, 10)}: " if len(heads) > 1 else ""
            lines.append(label + kind.told(shortened(said[place], 16), float(sure[place])))
            if not known[place]:
                lines[-1] += ", no truth"
            elif true[place] != said[place]:
                lines[-1] += f"\ntrue: {shortened(true[place], 20)}"
            if known[place] and kind.head.classes:
                wrong, judged = wrong or true[place] != said[place], True
        titles.append("\n".join(lines))
        colors.append(WRONG if wrong else RIGHT if judged else NEUTRAL)
    images = [visible(sample.image) for sample in samples]
    return image_grid(images, [sample.id for sample in samples], titles, colors, heading)


def seen_words(heads: Sequence[str], read: Sequence[ReadOut]) -> pd.DataFrame:
    """See `Task.words`; arguments as above."""
    truths, predictions = [], []
    for name, (kind, known, true, said, sure) in zip(heads, read, strict=True):
        label = f"{name}: " if len(heads) > 1 else ""
        truths.append([label + (str(true[k]) if known[k] else "no truth") for k in range(len(true))])
        predictions.append([label + kind.told(str(said[k]), float(sure[k])) for k in range(len(said))])
    joined = (["; ".join(each) for each in zip(*lines, strict=True)] for lines in (truths, predictions))
    return pd.DataFrame(dict(zip(("truth", "prediction"), joined, strict=True)))


def suspects_figure(found: pd.DataFrame, images: Sequence[np.ndarray]) -> Figure:
    """Labels that are suspected to be wrong, with what is suggested; `found` as `Task.suspects` gives it."""
    titles = []
    for given, suggested, sure in zip(found["given"], found["suggested"], found["probability"], strict=True):
        probability = f" ({sure:.0%})" if np.isfinite(sure) else ""
        titles.append(f"given: {shortened(given, 20)}\nsuggested: {shortened(suggested, 16)}{probability}")
    shown = [images[place] for place in range(len(found))]
    return image_grid(shown, list(found["id"]), titles, [WRONG] * len(found), "Labels to look at, the worst first")


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
