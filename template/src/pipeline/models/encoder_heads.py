"""A batch dict becomes an output dict: an encoder, pooling, dropout, and a layer for each head, which may see side
columns beside the image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.keys import INPUT_IMAGE, INPUT_SIDE, mask_key
from pipeline.models import pooling
from pipeline.models.encoders import head_layers, make_encoder
from pipeline.models.preprocess import image_statistics
from pipeline.registry import Registry
from pipeline.types import Batch
from toolkit.errors import UserError


class EncoderHeads(nn.Module):
    """Image (B, C, H, W), normalised, to `{head.output_key: logits (B, width)}`, and what else a layer says.

    Where there are side columns, the heads see features of them beside the encoder's. While training with
    `multi_sample_dropout: n` the outputs under n - 1 further dropout masks are there as well, as
    `mask_key(head.output_key, 1)` and so on; the criterion averages the losses over all masks (Inoue,
    arXiv:1905.09788).

    Settings of an experiment (`model: {params: {...}}`) are the parameters after the `*`. `mean` and `std` say how
    images are normalised before they come here. Parts are frozen, and their rates are set, by the names that they have
    here: `encoder`, `heads`.

    Args:
        heads: what is predicted.
        settings: the group `model` of the experiment.
        names: all that can be chosen by name.
        encoder_params: further arguments of `timm.create_model`, or of an encoder of your own.
        head_params: settings of the layers, by name of head.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        settings: Model,
        names: Registry,
        *,
        encoder_params: dict[str, Any] | None = None,
        head_params: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if settings.multi_sample_dropout > 1 and not settings.drop_rate:
            what = "model.multi_sample_dropout needs a model.drop_rate above 0"
            raise UserError(f"{what}: all its masks would be the same")
        self.encoder = make_encoder(settings, names, encoder_params or {})
        self.mean, self.std = image_statistics(self.encoder, settings.in_chans)
        self.pooling: nn.Module = names.bind("pooling", settings.pooling)(self.encoder.num_features)
        self.dropout = nn.Dropout(settings.drop_rate)
        self.masks = settings.multi_sample_dropout
        features, inputs = pooling.width(self.encoder, self.pooling), len(settings.side_columns or ())
        self.side = SideFeatures(inputs, settings.side_width, settings.side_drop_rate) if inputs else None
        features += settings.side_width if inputs else 0
        self.heads = nn.ModuleDict(head_layers(heads, features, head_params or {}))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = pooling.features(self.encoder, self.pooling, batch[INPUT_IMAGE])  # (B, width)
        side = [] if self.side is None else [self.side(batch[INPUT_SIDE])]
        outputs: dict[str, Tensor] = {}
        for mask in range(self.masks if self.training else 1):
            dropped = torch.cat([self.dropout(features), *side], dim=1) if side else self.dropout(features)
            for key, head in self.heads.items():
                made = head(dropped)
                for name, value in ({key: made} if isinstance(made, Tensor) else made).items():
                    outputs[mask_key(name, mask) if mask else name] = value
        return outputs


class SideFeatures(nn.Module):
    """Side inputs float32 (B, inputs), NaN where missing, as features (B, width): standardised, missing ones at the
    mean and with a flag of their own, through two layers."""

    def __init__(self, inputs: int, width: int, drop_rate: float) -> None:
        super().__init__()
        self.standardize = Standardize(inputs)
        self.layers = nn.Sequential(
            nn.Linear(2 * inputs, width), nn.ReLU(), nn.Dropout(drop_rate), nn.Linear(width, width), nn.ReLU()
        )

    def forward(self, values: Tensor) -> Tensor:
        missing = values.isnan()
        known = self.standardize(values).masked_fill(missing, 0)
        features: Tensor = self.layers(torch.cat([known, missing.to(known.dtype)], dim=1))
        return features


class Standardize(nn.Module):
    """(B, inputs) to mean 0 and standard deviation 1 of all values seen in training; NaN stays, and counts for nothing.

    Batch norm has no room for missing values, and refuses batches of one. Mean and variance of a batch are merged into
    those so far as by Chan, Golub & LeVeque (1983).
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(inputs, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("variance", torch.zeros(inputs))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self._learn(values.detach())
        deviation = self.variance.sqrt()
        return (values - self.mean) / torch.where(deviation > 0, deviation, 1)

    def _learn(self, values: Tensor) -> None:
        known = ~values.isnan()
        count = known.sum(dim=0)
        mean = torch.where(known, values, 0).sum(dim=0) / count.clamp(min=1)
        squares = torch.where(known, values - mean, 0).square().sum(dim=0)
        total, apart = self.count + count, mean - self.mean
        share = count / total.clamp(min=1)
        squares = squares + self.variance * self.count + apart.square() * self.count * share
        self.mean.add_(apart * share)
        self.variance.copy_(squares / total.clamp(min=1))
        self.count.copy_(total)
