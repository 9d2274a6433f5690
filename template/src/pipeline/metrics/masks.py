"""Metrics of masks by name: the mean, over the heads of masks, of what they score.

A metric reads the truth and the predictions, both indexed by id in the same order. It is a count of every image and
class and a reduction of all counts: so no masks are held, one pass over the images serves every score of a table, and a
tuned threshold changes counts that are there already. Ignored pixels count nowhere; a class of an image without any
other pixel is left out. A score that is not defined is NaN, and a warning says why.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.mask_decoding import EXCLUSIVE, IGNORED, MASKS, decoded, require_columns
from pipeline.metrics import undefined
from toolkit.errors import UserError, nearest
from toolkit.masks.components import Components
from toolkit.masks.maps import strips

TP, FP, FN, KNOWN, CROSSED = range(5)
CACHED = 8  # tables whose counts are remembered

Instances = Callable[[], Sequence[np.ndarray]]
Count = Callable[[np.ndarray, np.ndarray, np.ndarray, Instances], np.ndarray]
Reduce = Callable[[np.ndarray, str], float]


@dataclass(frozen=True)
class Scored:
    """What a metric of masks calls: the plain mean of a score over the heads. Tuning knows it by this type. `count` is
    of one class of one image, (K,); `reduce` makes the score of counts (N, C, K) and the kind of the head."""

    name: str
    count: Count
    reduce: Reduce

    def __call__(self, truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        return self.of_rows(truth, predictions, heads, slice(None))

    def of_rows(
        self, truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], rows: np.ndarray | slice
    ) -> float:
        """The score of rows by position, of counts that all scores of these tables share."""
        self.check_heads(heads)
        values = []
        for head in [head for head in heads if head.kind in MASKS]:
            value = self.reduce(counts(truth, predictions, head, self.count)[rows], head.kind)
            values.append(undefined(head, f"{self.name}: no image has a truth for it") if np.isnan(value) else value)
        return float(np.mean(values))

    def check_heads(self, heads: Sequence[Head]) -> None:
        """Raise a `UserError` where no head is one of masks."""
        if not any(head.kind in MASKS for head in heads):
            raise UserError(
                f"the metric '{self.name}' scores masks, and there is no head of one; "
                "choose another in competition.yaml, or write one in src/competition/metric.py"
            )


def find_metric(name: str, **params: float) -> Metric:
    """The metric of that name; `fbeta_pixels` takes `beta`, 1 by default. Another is a `UserError`."""
    if name not in NAMES:
        own = "A metric of your own goes into src/competition/metric.py"
        raise UserError(f"unknown metric '{name}' (metric in competition.yaml); {nearest(name, NAMES)} {own}")
    known = {"beta"} if name == "fbeta_pixels" else set()
    if unknown := sorted(set(params) - known):
        raise UserError(f"the metric '{name}' has no parameter '{unknown[0]}'; {nearest(unknown[0], known)}")
    count, reduce = _SCORES[name]
    scored = Scored(name, count, fbeta_pixels(params["beta"]) if params else reduce)
    return Metric(name, scored, check_heads=scored.check_heads)


def pixels(plane: np.ndarray, mask: np.ndarray, foreground: np.ndarray, instances: Instances) -> np.ndarray:
    """Pixels of one class of one image: true positive, false positive, false negative, not ignored, and those false
    positives that are another class, int64 (5,); of the truth, uint8 (H, W) of 0, 1, 255, what is decided, bool (H, W),
    where any class is, bool (H, W), and what gives the true objects, see `instances_of`."""
    found = np.zeros(5, np.int64)
    for rows in strips((plane.shape[0], plane.shape[1])):
        true, known = plane[rows] == 1, plane[rows] != IGNORED
        decided = mask[rows] & known
        hit = np.count_nonzero(true & decided)
        crossed = np.count_nonzero(decided & foreground[rows] & ~true)
        found += hit, np.count_nonzero(decided) - hit, np.count_nonzero(true) - hit, np.count_nonzero(known), crossed
    return found


def objects(plane: np.ndarray, mask: np.ndarray, foreground: np.ndarray, instances: Instances) -> np.ndarray:
    """F2 of the objects of one class of one image, mean over the thresholds 0.5, 0.55, ..., 0.95 that an IoU must
    exceed, float64 (1,); the evaluation of Kaggle's Airbus ship challenge. What is decided is taken apart into
    components. 1 where neither truth nor prediction has an object, 0 where only one has; NaN where all is ignored."""
    known = plane != IGNORED
    if not known.any():
        return np.array([np.nan])
    found, true = Components.of(mask & known, 8), instances()
    if not true or not len(found.areas):
        return np.array([float(not true and not len(found.areas))])
    shared = np.stack([found.counted(instance) for instance in true])
    union = np.array([len(instance) for instance in true])[:, None] + found.areas - shared
    scores = []
    for twentieths in range(10, 20):
        matched = 20 * shared > twentieths * union
        hits, missed, wrong = matched.any(axis=1).sum(), (~matched.any(axis=1)).sum(), (~matched.any(axis=0)).sum()
        scores.append(5 * hits / (5 * hits + 4 * missed + wrong))
    return np.array([np.mean(scores)])


_Entry = tuple["weakref.ref[pd.DataFrame]", "weakref.ref[pd.DataFrame]", Head, Count, np.ndarray]
_remembered: list[_Entry] = []


def counts(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, count: Count) -> np.ndarray:
    """Counts (N, C, K) of every image and class, as the head's thresholds decide. They are remembered for the last few
    pairs of tables. A `UserError` where tables do not fit each other or the head, or a map has not its truth's size."""
    require_columns(truth, predictions, head)
    for position, (one, other, of, by, found) in enumerate(_remembered):
        if one() is truth and other() is predictions and of == head and by is count:
            _remembered.append(_remembered.pop(position))
            return found
    of_images = []
    for name, true, masks in zip(truth.index, truth[head.name], decoded(predictions, head), strict=True):
        require_size(name, true, masks.shape[1:])
        planes = true.read()
        foreground = foreground_of(planes, head.kind)
        of_images.append(
            [
                count(plane, mask, foreground, partial(instances_of, true, number, plane))
                for number, (plane, mask) in enumerate(zip(planes, masks, strict=True))
            ]
        )
    found = np.array(of_images) if of_images else np.zeros((0, len(head.classes), 5))
    _remembered.append((weakref.ref(truth), weakref.ref(predictions), head, count, found))
    del _remembered[:-CACHED]
    return found


def foreground_of(planes: np.ndarray, kind: str) -> np.ndarray:
    """Where any class is, bool (H, W), if every pixel has one class; else nowhere."""
    if kind != EXCLUSIVE:
        return np.broadcast_to(np.False_, planes.shape[1:])
    found: np.ndarray = (planes == 1).any(axis=0)
    return found


def instances_of(truth: Any, number: int, plane: np.ndarray) -> list[np.ndarray]:
    """The flat positions, int64 (pixels,), of each object of a class of a `Truth` that has pixels not ignored."""
    known = plane != IGNORED
    return [places for mask in truth.instances(number) if len(places := np.flatnonzero(mask & known))]


def require_size(name: object, truth: Any, size: tuple[int, int]) -> None:
    """Raise a `UserError` where a map is not of the size of its image."""
    if tuple(truth.size) != tuple(size):
        raise UserError(
            f"{name}: the truth is {truth.size[0]} x {truth.size[1]} pixels, the prediction {size[0]} x {size[1]}; "
            "correct the masks in src/competition/tables.py, or train again"
        )


def each_dice(found: np.ndarray) -> np.ndarray:
    """Dice of every image and class, 2 TP / (2 TP + FP + FN), float64 (N, C); 1 where both are empty."""
    return _share(2 * found[..., TP], 2 * found[..., TP] + found[..., FP] + found[..., FN])


def each_iou(found: np.ndarray) -> np.ndarray:
    """IoU of every image and class, TP / (TP + FP + FN), float64 (N, C); 1 where both are empty."""
    return _share(found[..., TP], found[..., TP] + found[..., FP] + found[..., FN])


def of_images(each: Callable[[np.ndarray], np.ndarray]) -> Reduce:
    """The mean over images and classes; a class that neither the truth nor the prediction has in an image counts 1."""
    return lambda found, kind: _mean(each(found), found[..., KNOWN] > 0)


def of_all(each: Callable[[np.ndarray], np.ndarray]) -> Reduce:
    """Of all pixels of a class together, mean over classes; 1 for a class that no truth and no prediction has."""
    return lambda found, kind: of_images(each)(found.sum(axis=0, keepdims=True), kind) if len(found) else float("nan")


def dice_present(found: np.ndarray, kind: str) -> float:
    """Dice over the images and classes that have a truth; NaN where none has."""
    return _mean(each_dice(found), found[..., TP] + found[..., FN] > 0)


def map_iou(found: np.ndarray) -> np.ndarray:
    """The share of the thresholds 0.5, 0.55, ..., 0.95 that the IoU of every image and class exceeds, float64 (N, C);
    the evaluation of Kaggle's TGS Salt Identification Challenge, where an image has one mask. Empty in both counts 1,
    empty in one of them 0."""
    union = found[..., TP] + found[..., FP] + found[..., FN]
    exceeded = 20 * found[..., TP, None] > np.arange(10, 20) * union[..., None]
    return np.where(union == 0, 1.0, exceeded.mean(axis=-1))


def fbeta_pixels(beta: float) -> Reduce:
    """F-beta of all pixels of a class together, (1 + b²) TP / ((1 + b²) TP + b² FN + FP), mean over classes; van
    Rijsbergen, "Information Retrieval", 1979. 1 for a class that no truth and no prediction has."""

    def each(found: np.ndarray) -> np.ndarray:
        hits = (1 + beta**2) * found[..., TP]
        return _share(hits, hits + beta**2 * found[..., FN] + found[..., FP])

    return of_all(each)


def pixel_accuracy(found: np.ndarray, kind: str) -> float:
    """Share of right pixels of all images together; where classes may overlap, of the pixels of all classes."""
    wrong = (found[..., FP] + found[..., FN] - found[..., CROSSED]).sum()
    known = found[:, 0, KNOWN].sum() if kind == EXCLUSIVE else found[..., KNOWN].sum()
    return float(1 - wrong / known) if known else float("nan")


def f2_objects(found: np.ndarray, kind: str) -> float:
    """Mean over images and classes of the F2 of objects; see `objects`."""
    return _mean(found[..., 0], ~np.isnan(found[..., 0]))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones(np.shape(whole)), where=whole > 0)


def _mean(values: np.ndarray, counted: np.ndarray) -> float:
    return float(values[counted].mean()) if counted.any() else float("nan")


_SCORES: dict[str, tuple[Count, Reduce]] = {
    "dice": (pixels, of_images(each_dice)),
    "iou": (pixels, of_images(each_iou)),
    "dice_global": (pixels, of_all(each_dice)),
    "iou_global": (pixels, of_all(each_iou)),
    "dice_present": (pixels, dice_present),
    "map_iou": (pixels, of_images(map_iou)),
    "f2_objects": (objects, f2_objects),
    "fbeta_pixels": (pixels, fbeta_pixels(1)),
    "pixel_accuracy": (pixels, pixel_accuracy),
}
NAMES = tuple(_SCORES)


def per_class(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Scores of each class, indexed by class: dice, iou, dice_present, dice_global, iou_global, and the number of
    images it is in and is decided in."""
    found = counts(truth, predictions, head, pixels)
    names = ("dice", "iou", "dice_present", "dice_global", "iou_global")
    rows = []
    for number in range(len(head.classes)):
        one = found[:, number : number + 1]
        there, said = one[..., TP] + one[..., FN], one[..., TP] + one[..., FP]
        scores = {name: _SCORES[name][1](one, "mask") for name in names}
        rows.append({**scores, "images": int((there > 0).sum()), "decided": int((said > 0).sum())})
    return pd.DataFrame(rows, index=pd.Index(head.classes, name="class"))
