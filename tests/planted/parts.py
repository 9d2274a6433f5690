"""Other parts of a competition that go wrong on purpose: readers, an encoder, a schedule, a callback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from competition.planted.losses import CULPRIT
from pipeline.callbacks import Callback
from pipeline.types import Run, Verdict


def missing_pixel(path: Path, size: int | None) -> np.ndarray:
    """A reader that brings a NaN in one image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB).astype(np.float32) / 255
    if path.stem == CULPRIT:
        image[10:20, 10:20] = np.nan
    return image


def infinite_pixel() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A batch transform that brings an Inf into one image."""

    def spoil(batch: dict[str, Any]) -> dict[str, Any]:
        for row, name in enumerate(batch["input_id"]):
            if name == CULPRIT:
                batch["input_image"][row, :, 3:5, 3:5] = torch.inf
        return batch

    return spoil


class Encoder(nn.Module):
    """A small encoder; `spoil` plants a fault in its layer `middle`, or in one that is never used."""

    def __init__(self, in_chans: int, spoil: str) -> None:
        super().__init__()
        self.num_features = 8
        self.first = nn.Conv2d(in_chans, 8, 3, stride=4)
        self.middle: nn.Module = nn.Conv2d(8, 8, 3, stride=2)
        self.dead = nn.Linear(2, 2) if spoil == "dead" else None  # its gradient is zero in every step
        if spoil == "nan":
            nn.init.constant_(self.middle.weight, torch.nan)
        if spoil == "huge":
            nn.init.constant_(self.middle.weight, 1e38)
        self.spoil = spoil

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.middle(self.first(image).relu()).mean(dim=(2, 3))
        if self.spoil == "norm":
            features = 0 * features
            features = (features - features.mean(dim=0)) / features.std(dim=0)
        if self.dead is not None:
            features = features + 0 * self.dead.weight.sum()
        return features


def encoder_nan(in_chans: int, pretrained: bool) -> Encoder:
    return Encoder(in_chans, "nan")


def encoder_huge(in_chans: int, pretrained: bool) -> Encoder:
    return Encoder(in_chans, "huge")


def encoder_norm(in_chans: int, pretrained: bool) -> Encoder:
    return Encoder(in_chans, "norm")


def encoder_dead(in_chans: int, pretrained: bool) -> Encoder:
    return Encoder(in_chans, "dead")


def infinite_rate(steps: int, warmup_steps: int) -> Callable[[int], float]:
    """A schedule whose rate is infinite from the third step on."""
    return lambda step: 1.0 if step < 2 else float("inf")


class SpoilGradient(Callback):
    """Writes an Inf into a gradient, as a faulty intervention would."""

    every_process = True

    def on_gradients_ready(self, run: Run) -> Verdict:
        next(iter(run.model.network.parameters())).grad[0] = torch.inf
        return Verdict.GO
