"""What happens to images on the device, before the network, and the two as one module."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.config import Experiment
from pipeline.keys import INPUT_IMAGE
from pipeline.registry import Registry, Spec
from pipeline.types import Batch, PreparedModel
from toolkit.errors import UserError


class Normalize(nn.Module):
    """`Prepare`: (B, H, W, C) uint8, or float32 in [0, 1], to normalised float32 (B, C, H, W) on the device.

    The permuted view of a HWC batch is already in channels_last order, so nothing is copied for it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, -1, 1, 1))
        self.register_buffer("shift", -torch.tensor(mean).view(1, -1, 1, 1) * self.scale)

    def forward(self, batch: Batch) -> Batch:
        image = batch[INPUT_IMAGE]
        width, channels, expected = image.shape[2], image.shape[3], self.scale.shape[1]
        if channels != expected:
            what = f"images have {channels} channels and model.in_chans is {expected}"
            raise UserError(f"{what}; set model.in_chans, or the channels of image.reader")
        scale = self.scale / 255 if image.dtype == torch.uint8 else self.scale
        # Whole lines of W * C values: a CPU computes them several times faster than C values again and again.
        lines = image.float().flatten(2)
        own = lines if image.dtype == torch.uint8 else None  # the batch itself is not changed
        normalised = torch.addcmul(self.shift.flatten().repeat(width), lines, scale.flatten().repeat(width), out=own)
        return {**batch, INPUT_IMAGE: normalised.view(image.shape).permute(0, 3, 1, 2)}


class Standardize(Normalize):
    """`Prepare` by mean and standard deviation of each channel of the data, where 0 is the lowest value and 1 the
    highest, in place of what pretrained weights expect."""

    def __init__(
        self, expected_mean: Sequence[float], expected_std: Sequence[float], *, mean: list[float], std: list[float]
    ) -> None:
        channels = len(expected_mean)
        if not len(mean) == len(std) == channels or min(std) <= 0:
            what = f"mean and std have {len(mean)} and {len(std)} numbers, and model.in_chans is {channels}"
            raise UserError(f"image.prepare.params: {what}; give one for each channel, those of std above 0")
        super().__init__(mean, std)


def image_statistics(encoder: Any, in_chans: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel that the encoder's pretrained weights expect.

    timm spreads RGB weights over other channel counts by repeating them, and sums them for one channel.
    """
    known = getattr(encoder, "pretrained_cfg", None) or {}
    mean = known.get("mean") or IMAGENET_DEFAULT_MEAN
    std = known.get("std") or IMAGENET_DEFAULT_STD
    if in_chans == 1:
        return [sum(mean) / len(mean)], [sum(std) / len(std)]
    return [mean[i % len(mean)] for i in range(in_chans)], [std[i % len(std)] for i in range(in_chans)]


def prepared_model(
    heads: Sequence[Head],
    experiment: Experiment,
    names: Registry,
    pretrained: bool,
    side_columns: Sequence[str] | None = None,
) -> PreparedModel:
    """`Prepare` and network as one module; images are normalised as the network's encoder wants it. It sees the
    `side_columns` beside them, or those that the experiment says."""
    size = experiment.model.image_size or experiment.image.size
    settings = experiment.model.model_copy(update={"pretrained": pretrained, "image_size": size})
    if side_columns is not None:
        settings = settings.model_copy(update={"side_columns": tuple(side_columns)})
    network = names.bind("model", Spec(name=settings.name, params=settings.params))(heads, settings, names)
    mean = getattr(network, "mean", [0.0] * settings.in_chans)
    std = getattr(network, "std", [1.0] * settings.in_chans)
    return PreparedModel(names.bind("prepare", experiment.image.prepare)(mean, std), network)
