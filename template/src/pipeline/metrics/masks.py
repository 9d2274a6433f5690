"""Metrics by name: the mean, over the heads of masks, of what they score.

A metric reads the truth and the predictions, both indexed by id in the same order. Ignored pixels count nowhere; a
class of an image without any other pixel is left out. A score that is not defined is NaN, and a warning says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.mask_decoding import EXCLUSIVE
from pipeline.metrics import undefined
from pipeline.metrics.mask_scores import (
    CROSSED,
    FN,
    FP,
    KNOWN,
    TP,
    Count,
    counts,
    objects,
    pixels,
)
from toolkit.errors import UserError, nearest

KINDS = ("mask", EXCLUSIVE)
Reduce = Callable[[np.ndarray, str], float]


@dataclass(frozen=True)
class Scored:
    """What a metric of masks calls: the plain mean of a score over the heads. Tuning knows it by this type.

    Attributes:
        count: of one class of one image, (K,).
        reduce: counts (N, C, K) and the kind of the head to the score; greater is better.
    """

    name: str
    count: Count
    reduce: Reduce

    def __call__(self, truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        self.check_heads(heads)
        values = []
        for head in [head for head in heads if head.kind in KINDS]:
            value = self.reduce(counts(truth, predictions, head, self.count), head.kind)
            values.append(undefined(head, f"{self.name}: no image has a truth for it") if np.isnan(value) else value)
        return float(np.mean(values))

    def check_heads(self, heads: Sequence[Head]) -> None:
        """Raise a `UserError` where no head is one of masks."""
        if not any(head.kind in KINDS for head in heads):
            raise UserError(
                f"the metric '{self.name}' scores masks, and there is no head of one; "
                "choose another in competition.yaml, or write one in src/competition/metric.py"
            )


def find_metric(name: str, **params: float) -> Metric:
    """The metric of that name.

    Args:
        params: `beta` of `fbeta_pixels`, 1 by default.

    Raises:
        UserError: there is none, or it has no such parameter.
    """
    if name not in NAMES:
        raise UserError(
            f"unknown metric '{name}' (metric in competition.yaml); {nearest(name, NAMES)} "
            "A metric of your own goes into src/competition/metric.py"
        )
    known = {"beta"} if name == "fbeta_pixels" else set()
    if unknown := sorted(set(params) - known):
        raise UserError(f"the metric '{name}' has no parameter '{unknown[0]}'; {nearest(unknown[0], known)}")
    count, reduce = _SCORES[name]
    if params:
        reduce = fbeta_pixels(params["beta"])
    scored = Scored(name, count, reduce)
    return Metric(name, scored, check_heads=scored.check_heads)


def per_class(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Scores of each class, indexed by class: dice, iou, dice_present, dice_global, iou_global, and the number of
    images it is in and is decided in."""
    found = counts(truth, predictions, head, pixels)
    names = ("dice", "iou", "dice_present", "dice_global", "iou_global")
    rows = []
    for number in range(len(head.classes)):
        one = found[:, number : number + 1]
        scores = {name: _SCORES[name][1](one, "mask") for name in names}
        there, said = one[..., TP] + one[..., FN], one[..., TP] + one[..., FP]
        rows.append({**scores, "images": int((there > 0).sum()), "decided": int((said > 0).sum())})
    return pd.DataFrame(rows, index=pd.Index(head.classes, name="class"))


def dice(found: np.ndarray, kind: str) -> float:
    """Mean over images and classes of 2 TP / (2 TP + FP + FN), Dice, "Measures of the amount of ecologic association",
    1945. A class that neither the truth nor the prediction has in an image counts 1."""
    return _mean(each_dice(found), found[..., KNOWN] > 0)


def iou(found: np.ndarray, kind: str) -> float:
    """Mean over images and classes of TP / (TP + FP + FN), Jaccard, 1912. Empty in both counts 1."""
    return _mean(each_iou(found), found[..., KNOWN] > 0)


def dice_present(found: np.ndarray, kind: str) -> float:
    """`dice` over the images and classes that have a truth; NaN where none has."""
    return _mean(each_dice(found), found[..., TP] + found[..., FN] > 0)


def dice_global(found: np.ndarray, kind: str) -> float:
    """Dice of all pixels of a class together, mean over classes; 1 for a class that no truth and no prediction has."""
    return dice(found.sum(axis=0, keepdims=True), kind) if len(found) else float("nan")


def iou_global(found: np.ndarray, kind: str) -> float:
    """IoU of all pixels of a class together, mean over classes; 1 for a class that no truth and no prediction has."""
    return iou(found.sum(axis=0, keepdims=True), kind) if len(found) else float("nan")


def map_iou(found: np.ndarray, kind: str) -> float:
    """Mean over images and classes of the share of the thresholds 0.5, 0.55, ..., 0.95 that the IoU exceeds; the
    evaluation of Kaggle's TGS Salt Identification Challenge, where an image has one mask. Empty in both counts 1, empty
    in one of them 0."""
    union = found[..., TP] + found[..., FP] + found[..., FN]
    exceeded = 20 * found[..., TP, None] > np.arange(10, 20) * union[..., None]
    return _mean(np.where(union == 0, 1.0, exceeded.mean(axis=-1)), found[..., KNOWN] > 0)


def fbeta_pixels(beta: float) -> Reduce:
    """F-beta of all pixels of a class together, (1 + b²) TP / ((1 + b²) TP + b² FN + FP), mean over classes; van
    Rijsbergen, "Information Retrieval", 1979. 1 for a class that no truth and no prediction has."""

    def reduce(found: np.ndarray, kind: str) -> float:
        total = found.sum(axis=0, keepdims=True)
        hits = (1 + beta**2) * total[..., TP]
        return _mean(_share(hits, hits + beta**2 * total[..., FN] + total[..., FP]), total[..., KNOWN] > 0)

    return reduce


def pixel_accuracy(found: np.ndarray, kind: str) -> float:
    """Share of right pixels of all images together; where classes may overlap, of the pixels of all classes."""
    wrong = (found[..., FP] + found[..., FN] - found[..., CROSSED]).sum()
    known = found[:, 0, KNOWN].sum() if kind == EXCLUSIVE else found[..., KNOWN].sum()
    return float(1 - wrong / known) if known else float("nan")


def f2_objects(found: np.ndarray, kind: str) -> float:
    """Mean over images and classes of the F2 of objects; see `scoring.objects`."""
    return _mean(found[..., 0], ~np.isnan(found[..., 0]))


def each_dice(found: np.ndarray) -> np.ndarray:
    """Dice of every image and class, float64 (N, C); 1 where both are empty."""
    return _share(2 * found[..., TP], 2 * found[..., TP] + found[..., FP] + found[..., FN])


def each_iou(found: np.ndarray) -> np.ndarray:
    """IoU of every image and class, float64 (N, C); 1 where both are empty."""
    return _share(found[..., TP], found[..., TP] + found[..., FP] + found[..., FN])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones(np.shape(whole)), where=whole > 0)


def _mean(values: np.ndarray, counted: np.ndarray) -> float:
    return float(values[counted].mean()) if counted.any() else float("nan")


_SCORES: dict[str, tuple[Count, Reduce]] = {
    "dice": (pixels, dice),
    "iou": (pixels, iou),
    "dice_global": (pixels, dice_global),
    "iou_global": (pixels, iou_global),
    "dice_present": (pixels, dice_present),
    "map_iou": (pixels, map_iou),
    "f2_objects": (objects, f2_objects),
    "fbeta_pixels": (pixels, fbeta_pixels(1)),
    "pixel_accuracy": (pixels, pixel_accuracy),
}
NAMES = tuple(_SCORES)
