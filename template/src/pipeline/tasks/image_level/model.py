"""An encoder with one linear layer per head, and what happens to images before it. Batch dict in, output dict out."""

import logging
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.errors import UserError, nearest
from pipeline.keys import INPUT_IMAGE
from pipeline.names import Names
from pipeline.seam import Batch


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
            raise UserError(
                f"images have {channels} channels and model.in_chans is {expected}; "
                "set model.in_chans, or the channels of image.reader"
            )
        scale = self.scale / 255 if image.dtype == torch.uint8 else self.scale
        # Whole lines of W * C values: a CPU computes them several times faster than C values again and again.
        lines = image.float().flatten(2)
        own = lines if image.dtype == torch.uint8 else None  # the batch itself is not changed
        normalised = torch.addcmul(self.shift.flatten().repeat(width), lines, scale.flatten().repeat(width), out=own)
        return {**batch, INPUT_IMAGE: normalised.view(image.shape).permute(0, 3, 1, 2)}


class EncoderHeads(nn.Module):
    """An encoder, dropout, and one linear layer per head; returns `{head.output_key: logits (B, classes)}`."""

    def __init__(
        self, heads: Sequence[Head], settings: Model, names: Names, *, encoder_params: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(settings, names, encoder_params or {})
        self.mean, self.std = image_statistics(self.encoder, settings.in_chans)
        self.dropout = nn.Dropout(settings.drop_rate)
        self.heads = nn.ModuleDict(
            {head.output_key: nn.Linear(self.encoder.num_features, len(head.classes)) for head in heads}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.dropout(self.encoder(batch[INPUT_IMAGE]))
        return {key: head(features) for key, head in self.heads.items()}


class PreparedModel(nn.Module):
    """`prepare`, then `network`, saved together; a step may call them one by one to change the batch between."""

    def __init__(self, prepare: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.prepare = prepare
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network(self.prepare(batch))
        return outputs


def make_encoder(settings: Model, names: Names, params: dict[str, Any]) -> Any:
    """An encoder of the competition's own, or timm's by name: (B, C, H, W) to pooled features (B, num_features).

    Raises:
        UserError: a name nobody knows, an argument the encoder does not take, or weights that cannot be fetched.
    """
    if names.has("encoder", settings.encoder):
        return names.find("encoder", settings.encoder)(settings.in_chans, settings.pretrained, **params)
    architecture = settings.encoder.partition(".")[0]
    if not timm.is_model(architecture) and not settings.encoder.startswith(("hf-hub:", "hf_hub:")):
        raise UserError(f"unknown encoder '{settings.encoder}'; {nearest(architecture, timm.list_models())}")
    arguments = {"drop_path_rate": settings.drop_path_rate or None, **params}
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry, and we of the outcome
    try:
        return timm.create_model(
            settings.encoder,
            pretrained=settings.pretrained,
            in_chans=settings.in_chans,
            num_classes=0,
            **{name: value for name, value in arguments.items() if value is not None},
        )
    except TypeError as error:
        raise UserError(f"encoder '{settings.encoder}' refused its settings: {error}") from error
    except Exception as error:
        if not settings.pretrained:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot fetch the pretrained weights of '{settings.encoder}' ({reason[:120]}); "
            "set model.pretrained: false to train from scratch, or connect to the hub"
        ) from error


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
