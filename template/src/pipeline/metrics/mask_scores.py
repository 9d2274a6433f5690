"""What is counted per image and class, and what the scores make of it.

A score is a count of every image and a reduction of all counts. So no masks are held, one pass over the images serves
every score of a table, and a tuned threshold changes counts that are there already.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_decoding import EXCLUSIVE, decoded
from pipeline.heads.mask_predictions import require_columns
from toolkit.errors import UserError
from toolkit.masks.components import Components
from toolkit.masks.maps import strips

TP, FP, FN, KNOWN, CROSSED = range(5)
IGNORED = 255
CACHED = 8  # tables whose counts are remembered

Instances = Callable[[], Sequence[np.ndarray]]
Count = Callable[[np.ndarray, np.ndarray, np.ndarray, Instances], np.ndarray]


class MaskTruth(Protocol):
    """The masks of one image, as scores read them."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def read(self) -> np.ndarray:
        """The planes, uint8 (C, H, W) of 0, 1 or 255."""

    def instances(self, class_index: int) -> Iterable[np.ndarray]:
        """The objects of a class, bool (H, W) each."""


def pixels(plane: np.ndarray, mask: np.ndarray, foreground: np.ndarray, instances: Instances) -> np.ndarray:
    """Pixels of one class of one image: true positive, false positive, false negative, not ignored, and those false
    positives that are another class, int64 (5,).

    Args:
        plane: the truth, uint8 (H, W) of 0, 1, 255.
        mask: what is decided, bool (H, W).
        foreground: where any class is, bool (H, W).
        instances: gives the true objects, see `instances_of`; not asked for here.
    """
    counts = np.zeros(5, np.int64)
    for rows in strips((plane.shape[0], plane.shape[1])):
        true, known = plane[rows] == 1, plane[rows] != IGNORED
        decided = mask[rows] & known
        hit = np.count_nonzero(true & decided)
        crossed = np.count_nonzero(decided & foreground[rows] & ~true)
        counts += hit, np.count_nonzero(decided) - hit, np.count_nonzero(true) - hit, np.count_nonzero(known), crossed
    return counts


def objects(plane: np.ndarray, mask: np.ndarray, foreground: np.ndarray, instances: Instances) -> np.ndarray:
    """F2 of the objects of one class of one image, mean over the thresholds 0.5, 0.55, ..., 0.95 that an IoU must
    exceed, float64 (1,); the evaluation of Kaggle's Airbus ship challenge.

    What is decided is taken apart into connected components. 1 where neither truth nor prediction has an object, 0
    where only one of them has; NaN where every pixel is ignored.
    """
    known = plane != IGNORED
    if not known.any():
        return np.array([np.nan])
    found, true = Components.of(mask & known, 8), instances()
    areas = found.areas
    if not true or not len(areas):
        return np.array([float(not true and not len(areas))])
    shared = np.stack([found.counted(instance) for instance in true])
    union = np.array([len(instance) for instance in true])[:, None] + areas - shared
    scores = []
    for twentieths in range(10, 20):
        matched = 20 * shared > twentieths * union
        hits, missed, wrong = matched.any(axis=1).sum(), (~matched.any(axis=1)).sum(), (~matched.any(axis=0)).sum()
        scores.append(5 * hits / (5 * hits + 4 * missed + wrong))
    return np.array([np.mean(scores)])


def counts(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, count: Count) -> np.ndarray:
    """Counts (N, C, K) of every image and class, as the head's thresholds decide. They are remembered for the last few
    pairs of tables.

    Raises:
        UserError: the tables do not fit each other or the head, or a map has another size than its truth.
    """
    require_columns(truth, predictions, head)
    for position, (one, other, of, by, found) in enumerate(_remembered):
        if one() is truth and other() is predictions and of == head and by is count:
            _remembered.append(_remembered.pop(position))
            return found
    found = _counted(truth, predictions, head, count)
    _remembered.append((weakref.ref(truth), weakref.ref(predictions), head, count, found))
    del _remembered[:-CACHED]
    return found


def count_image(truth: MaskTruth, planes: np.ndarray, masks: np.ndarray, kind: str, count: Count) -> np.ndarray:
    """Counts (C, K) of one image, given its truth, that truth's planes, and what is decided, both (C, H, W)."""
    foreground = foreground_of(planes, kind)
    return np.stack(
        [
            count(plane, mask, foreground, partial(instances_of, truth, number, plane))
            for number, (plane, mask) in enumerate(zip(planes, masks, strict=True))
        ]
    )


def foreground_of(planes: np.ndarray, kind: str) -> np.ndarray:
    """Where any class is, bool (H, W), if every pixel has one class; else nowhere."""
    if kind != EXCLUSIVE:
        return np.broadcast_to(np.False_, planes.shape[1:])
    found: np.ndarray = (planes == 1).any(axis=0)
    return found


def instances_of(truth: MaskTruth, number: int, plane: np.ndarray) -> list[np.ndarray]:
    """The flat positions, int64 (pixels,), of each object of a class that has pixels which are not ignored."""
    known = plane != IGNORED
    return [places for mask in truth.instances(number) if len(places := np.flatnonzero(mask & known))]


def require_size(name: object, truth: MaskTruth, size: tuple[int, int]) -> None:
    """Raise a `UserError` where a map is not of the size of its image."""
    if tuple(truth.size) != tuple(size):
        raise UserError(
            f"{name}: the truth is {truth.size[0]} x {truth.size[1]} pixels, the prediction {size[0]} x {size[1]}; "
            "correct the masks in src/competition/tables.py, or train again"
        )


_Entry = tuple["weakref.ref[pd.DataFrame]", "weakref.ref[pd.DataFrame]", Head, Count, np.ndarray]
_remembered: list[_Entry] = []


def _counted(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, count: Count) -> np.ndarray:
    found = []
    for name, true, masks in zip(truth.index, truth[head.name], decoded(predictions, head), strict=True):
        require_size(name, true, masks.shape[1:])
        found.append(count_image(true, true.read(), masks, head.kind, count))
    return np.stack(found) if found else np.zeros((0, len(head.classes), 5))
