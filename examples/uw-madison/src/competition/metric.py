"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from pipeline.competition import Head, Metric
from pipeline.heads.mask_decoding import decoded
from pipeline.metrics.masks import find_metric
from pipeline.settings import Settings

COMPANIONS = ("dice", "iou")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch, and thresholds are tuned for it."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return (Metric("dice_hausdorff", dice_hausdorff), *(find_metric(name) for name in names))


def dice_hausdorff(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
    """0.4 of the mean Dice of slices and classes, 0.6 of what the Hausdorff distances of volumes leave of 1."""
    [head] = heads
    volumes: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for name, true, mask in zip(truth.index, truth[head.name], decoded(predictions, head), strict=True):
        volumes.setdefault(name.rpartition("_slice_")[0], []).append((name, true.read() == 1, mask))
    near = []
    for slices in volumes.values():
        slices.sort(key=lambda each: each[0])
        _, true, said = zip(*slices, strict=True)
        near += [1 - hausdorff(*each) for each in zip(np.stack(true, axis=1), np.stack(said, axis=1), strict=True)]
    dice = find_metric("dice").function(truth, predictions, heads)
    return 0.4 * dice + 0.6 * float(np.mean(near))


def hausdorff(true: np.ndarray, said: np.ndarray) -> float:
    """The Hausdorff distance of two masks, bool (slices, height, width), over the diagonal of the volume.

    0 where both are empty, 1 where one is.
    """
    if not (true.any() and said.any()):
        return float(true.any() or said.any())
    diagonal = np.linalg.norm(true.shape)
    places = np.nonzero(true | said)  # beyond their box nothing is nearest
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in places)
    true, said = true[box], said[box]
    away = max(distance_transform_edt(~one)[other].max() for one, other in ((true, said), (said, true)))
    return float(min(away / diagonal, 1.0))
