"""Other parts of a competition that go wrong on purpose: readers, an encoder, a schedule, a callback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from competition.planted.losses import CULPRIT
from torch import Tensor, nn

from pipeline.callbacks import Callback
from pipeline.seam import Run, Verdict


def infinite_pixel(path: Path, size: int | None) -> np.ndarray:
    """A reader that brings an Inf in one image."""
    return _spoiled(path, np.inf)


def missing_pixel(path: Path, size: int | None) -> np.ndarray:
    """A reader that brings a NaN in one image."""
    return _spoiled(path, np.nan)


def _spoiled(path: Path, value: float) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None].astype(np.float32) / 255
    if path.stem == CULPRIT:
        image[10:20, 10:20] = value
    return image


class Encoder(nn.Module):
    """A small encoder; `spoil` plants a fault in its layer `middle`."""

    def __init__(self, in_chans: int, pretrained: bool, *, spoil: str) -> None:
        super().__init__()
        self.num_features = 8
        self.first = nn.Conv2d(in_chans, 8, 3, stride=4)
        self.middle: nn.Module = nn.Conv2d(8, 8, 3, stride=2)
        self.dead = nn.Linear(2, 2) if spoil == "dead" else None  # its gradient is zero in every step
        if spoil == "nan":
            nn.init.constant_(self.middle.weight, torch.nan)
        if spoil == "huge":
            nn.init.constant_(self.middle.weight, 1e38)
        if spoil == "norm":
            nn.init.zeros_(self.first.weight)
            self.middle = nn.BatchNorm2d(8, eps=0.0)

    def forward(self, image: Tensor) -> Tensor:
        features = self.middle(self.first(image).relu()).relu()
        if self.dead is not None:
            features = features + 0 * self.dead.weight.sum()
        return features


def infinite_rate(steps: int, warmup_steps: int) -> Callable[[int], float]:
    """A schedule whose rate is infinite from the third step on."""
    return lambda step: 1.0 if step < 2 else float("inf")


class SpoilGradient(Callback):
    """Writes an Inf into a gradient, as a faulty intervention would."""

    every_process = True

    def on_gradients_ready(self, run: Run) -> Verdict:
        next(iter(run.model.network.parameters())).grad[0] = torch.inf
        return Verdict.GO
