"""Masks that confident out-of-fold predictions speak against."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.competition import Head
from pipeline.keys import ROW_ID
from pipeline.tasks.segmentation import maps
from pipeline.tasks.segmentation.decoding import decoded
from pipeline.tasks.segmentation.drawing import masks_figure
from pipeline.tasks.segmentation.predictions import columns
from pipeline.tasks.segmentation.scoring import IGNORED
from pipeline.tasks.shared.drawing import shortened

SURE = 230  # of 255: at least so probable, or at most 255 - SURE
LEAST = 0.5  # of the area that either side names


def suspects(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Images where truth and confident pixels of the prediction disagree in more than half of the area of both.

    The score is that share, over all classes; pixels of which the model is unsure say nothing. Without maps
    in the table (`store: none`) there are no suspects.
    """
    if not set(columns(head)) <= set(predictions):
        predictions = predictions[:0].reindex(columns=columns(head))
        truth = truth[:0]
    found = []
    for name, mask, cells in zip(
        truth.index, truth[head.name], predictions[columns(head)].itertuples(index=False, name=None), strict=True
    ):
        if not hasattr(mask, "read"):
            continue
        score, sure, given, suggested = _compared(mask.read(), cells)
        if score > LEAST:
            found.append((name, in_words(given, head), in_words(suggested, head), score, sure))
    table = pd.DataFrame(found, columns=[ROW_ID, "given", "suggested", "score", "probability"])
    return table.assign(head=head.name).sort_values("score", ascending=False, kind="stable")


def _compared(planes: np.ndarray, cells: Sequence[bytes]) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The score of an image, the mean probability of where it disagrees, and the shares of the image that each class
    takes, as it is given and as it is suggested, (C,)."""
    wrong = area = 0
    sums, given, suggested = 0.0, [], []
    for plane, cell in zip(planes, cells, strict=True):
        probability = maps.at_image_size(cell)
        true, known, said = plane == 1, plane != IGNORED, probability >= SURE
        sure = known & (said | (probability <= 255 - SURE))
        differ = sure & (said != true)
        wrong += int(np.count_nonzero(differ))
        area += int(np.count_nonzero(sure & (said | true)))
        sums += float(np.abs(probability[differ].astype(np.float64) - 255 * true[differ]).sum()) / 255
        given.append(true.mean())
        suggested.append((said & known).mean())
    return wrong / max(area, 1), sums / max(wrong, 1), np.array(given), np.array(suggested)


def in_words(shares: np.ndarray, head: Head) -> str:
    """`cell 3.1%, wall 0.2%`: what takes how much of the image."""
    named = [f"{name} {share:.3g}%" for name, share in zip(head.classes, 100 * shares, strict=True) if share > 0]
    return ", ".join(named) or "nothing"


def suspects_figure(
    found: pd.DataFrame,
    images: Sequence[np.ndarray],
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    heads: Mapping[str, Head],
) -> Figure:
    """See `Task.suspects_figure`."""
    truths: list[list[np.ndarray]] = []
    masks: list[list[np.ndarray]] = []
    for place, name in enumerate(found["head"]):
        truths.append([truth[name].iloc[place].read()])
        masks.append(list(decoded(predictions.iloc[[place]], heads[name])))
    said = zip(found["given"], found["suggested"], strict=True)
    titles = [f"given: {shortened(given, 50)}\nsuggested: {shortened(other, 46)}" for given, other in said]
    shown = [images[place] for place in range(len(found))]
    return masks_figure(shown, list(found[ROW_ID]), truths, masks, titles, "Masks to look at, the worst first")
