"""Small tables of true and predicted masks, for the tests of decisions, scores and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_decoding import columns, presence_columns
from toolkit.masks.maps import encode


@dataclass(frozen=True, eq=False)
class Planes:
    """A truth that is there already, with what the room asks of one."""

    planes: np.ndarray  # uint8 (C, H, W) of 0, 1, 255
    objects: tuple[tuple[np.ndarray, ...], ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.planes.shape[1:]

    def read(self, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        assert window is None
        return self.planes

    def instances(self, number: int) -> list[np.ndarray]:
        if self.objects is not None:
            return list(self.objects[number])
        count, labels = cv2.connectedComponents((self.planes[number] == 1).view(np.uint8))
        return [labels == label for label in range(1, count)]


def tables(
    head: Head,
    truths: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    presence: np.ndarray | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and predictions of images; `truths` and `maps` hold a uint8 (C, H, W) each."""
    ids = pd.Index([f"{number:04d}" for number in range(len(truths))], name="id", dtype="str")
    cells = [[encode(plane, plane.shape) for plane in planes] for planes in maps]
    predictions = pd.DataFrame(cells, index=ids, columns=columns(head), dtype=object)
    if presence is not None:
        predictions[presence_columns(head)] = presence.astype(np.float32)
    truth = pd.DataFrame({head.name: pd.Series([Planes(planes) for planes in truths], index=ids, dtype=object)})
    return truth, predictions


def blob(generator: np.random.Generator, shape: tuple[int, int], share: float) -> np.ndarray:
    """A smooth random mask, bool, of about that share of the pixels."""
    noise = cv2.GaussianBlur(generator.random(shape).astype(np.float32), (9, 9), 3)
    mask: np.ndarray = noise >= np.quantile(noise, 1 - share) if share else np.zeros(shape, bool)
    return mask
