"""Masks that out-of-fold predictions speak against."""

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_decoding import columns
from pipeline.keys import ROW_ID
from toolkit.audit.label_errors import LIMIT, modified_z_scores, worst_first
from toolkit.masks import maps

VALUES = np.arange(256) / 255  # probabilities as maps store them
ROUNDING = 1e-6  # of a mean of equal probabilities
SPECK = 0.05  # of the usual area: what is wrong in images without a mask has to be more
NEARLY = 0.75  # of the way from the usual score to 1, beyond which a weak model's scores have no outliers


def label_errors(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Images whose mask the prediction contradicts in far more of the area than it does in most images.

    Pixels are judged by confident learning (C. Northcutt, L. Jiang and I. Chuang, JAIR 70, 2021, arXiv:1911.00068): the
    model is sure of a class where its probability is at least what it is on average in the masks of this class, and
    sure of the background likewise. The score is the share of wrong pixels among the sure ones that either side gives a
    class. So a weak model is sure of less, and what it gets wrong everywhere is not suspicious. cleanlab does the
    same for masks, but wants all images at one size in memory.

    Without maps in the table (`store: none`) there are none.
    """
    if not set(columns(head)) <= set(predictions):
        truth, predictions = truth[:0], predictions[:0].reindex(columns=columns(head))
    known = np.array([hasattr(mask, "read") for mask in truth[head.name]], bool)
    truth, cells = truth[known], predictions.loc[known, columns(head)]
    total = sum(_counts(truth[head.name], cells), np.zeros((len(head.classes), 2, 256)))
    # The mean probability of the background where it is given, and of each class in its masks, (C, 2).
    sums, pixels = (total * np.stack([1 - VALUES, VALUES])).sum(axis=2), total.sum(axis=2)
    limits = np.divide(sums, pixels, out=np.full_like(sums, np.inf), where=pixels > 0)
    compared = [_compared(counts, limits) for counts in _counts(truth[head.name], cells)]
    wrong, areas = (np.array([each[place] for each in compared]) for place in (0, 1))
    scores = wrong / (areas + (SPECK * np.median(areas[areas > 0]) if areas.any() else 1.0))
    usual = np.median(scores) if len(scores) else 0.0
    chosen = (modified_z_scores(scores) > LIMIT) | (scores > usual + NEARLY * (1 - usual))
    rows = []
    for place, score in zip(*worst_first(scores, chosen), strict=True):
        _, _, probability, given, suggested = compared[place]
        rows.append((truth.index[place], in_words(given, head), in_words(suggested, head), score, probability))
    return pd.DataFrame(rows, columns=[ROW_ID, "given", "suggested", "score", "probability"]).assign(head=head.name)


def _counts(truth: pd.Series, cells: pd.DataFrame) -> Iterator[np.ndarray]:
    """For each image how many pixels of each class have which probability, float64 (C, 2, 256): those outside of the
    mask, and those in it; none of what is ignored."""
    for mask, row in zip(truth, cells.itertuples(index=False, name=None), strict=True):
        counts = np.empty((len(row), 2, 256))
        for number, (plane, cell) in enumerate(zip(mask.read(), row, strict=True)):
            probability = maps.at_image_size(cell)
            for value in (0, 1):
                where = np.equal(plane, value).view(np.uint8)
                counts[number, value] = cv2.calcHist([probability], [0], where, [256], [0, 256])[:, 0]
        yield counts


def _compared(counts: np.ndarray, limits: np.ndarray) -> tuple[float, float, float, np.ndarray, np.ndarray]:
    """One of `_counts` under the limits of the whole table, in shares of the image: the area where the model is sure
    and the mask says otherwise; that and where it surely agrees on a class; the mean probability, where it is wrong, of
    what is suggested; the areas of each class, (C,), given, and suggested: given, less and plus what is wrong."""
    sure = limits[:, 1:] <= VALUES + ROUNDING
    denied = (limits[:, :1] <= 1 - VALUES + ROUNDING) & ~sure
    added, missed, given = counts[:, 0] * sure, counts[:, 1] * denied, counts[:, 1].sum(axis=1)
    wrong = added.sum() + missed.sum()
    area = wrong + (counts[:, 1] * sure).sum()
    probability = (added * VALUES + missed * (1 - VALUES)).sum() / max(wrong, 1)
    suggested = given + added.sum(axis=1) - missed.sum(axis=1)
    pixels = max(counts.sum(axis=(1, 2)).max(), 1)
    return wrong / pixels, area / pixels, probability, given / pixels, suggested / pixels


def in_words(shares: np.ndarray, head: Head) -> str:
    """`cell 3.1%, wall 0.2%`: what takes how much of the image."""
    named = [f"{name} {share:.3g}%" for name, share in zip(head.classes, 100 * shares, strict=True) if share > 0]
    return ", ".join(named) or "nothing"
