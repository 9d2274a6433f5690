"""An encoder with one linear layer per head, and what happens to images before it. Batch dict in, output dict out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.heads.base import kind_of
from pipeline.keys import INPUT_IMAGE, INPUT_SIDE, mask_key
from pipeline.models import pooling
from pipeline.models.encoders import make_encoder, refuses_size
from pipeline.models.preprocess import image_statistics
from pipeline.models.side_columns import SideFeatures
from pipeline.registry import Names, check_params
from pipeline.types import Batch
from toolkit.errors import UserError, nearest


class EncoderHeads(nn.Module):
    """An encoder, pooling, dropout, and the layer of each head, which is linear where its kind has no other.

    Where there are side columns, the heads see features of them beside the encoder's.

    `head_params` are settings of the layers, by name of head.

    Returns `{head.output_key: logits (B, width)}`, and what else a layer says. While training with
    `multi_sample_dropout: n` the outputs under n - 1 further dropout masks are there as well, as
    `mask_key(head.output_key, 1)` and so on; the criterion averages the losses over all masks (Inoue,
    arXiv:1905.09788).
    """

    def __init__(
        self,
        heads: Sequence[Head],
        settings: Model,
        names: Names,
        *,
        encoder_params: dict[str, Any] | None = None,
        head_params: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if settings.multi_sample_dropout > 1 and not settings.drop_rate:
            raise UserError(
                "model.multi_sample_dropout needs a model.drop_rate above 0: all its masks would be the same"
            )
        self.encoder = make_encoder(settings, names, encoder_params or {})
        self.mean, self.std = image_statistics(self.encoder, settings.in_chans)
        self.pooling: nn.Module = names.bind("pooling", settings.pooling)(self.encoder.num_features)
        self.dropout = nn.Dropout(settings.drop_rate)
        self.masks = settings.multi_sample_dropout
        features, inputs = pooling.width(self.encoder, self.pooling), len(settings.side_columns or ())
        self.side = SideFeatures(inputs, settings.side_width, settings.side_drop_rate) if inputs else None
        features += settings.side_width if inputs else 0
        self.heads = nn.ModuleDict(_layers(heads, features, head_params or {}))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        image = batch[INPUT_IMAGE]
        try:
            features = pooling.features(self.encoder, self.pooling, image)
        except (AssertionError, RuntimeError) as error:
            if not refuses_size(self.encoder, error):
                raise
            raise UserError(
                f"the encoder {type(self.encoder).__name__} cannot take images of {image.shape[2]}x{image.shape[3]} "
                f"({str(error)[:120]}); choose another image.size"
            ) from error
        side = [] if self.side is None else [self.side(batch[INPUT_SIDE])]
        outputs: dict[str, Tensor] = {}
        for mask in range(self.masks if self.training else 1):
            dropped = self.dropout(features)
            if side:
                dropped = torch.cat([dropped, *side], dim=1)
            for key, head in self.heads.items():
                made = head(dropped)
                for name, value in ({key: made} if isinstance(made, Tensor) else made).items():
                    outputs[mask_key(name, mask) if mask else name] = value
        return outputs


def _layers(heads: Sequence[Head], features: int, params: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    """The layer of each head, by its output key; `params` by name of head."""
    known = [head.name for head in heads]
    for name in params:
        if name not in known:
            raise UserError(f"model.params.head_params: there is no head '{name}'; {nearest(name, known)}")
    layers = {}
    for head in heads:
        layer = kind_of(head).layer
        settings = check_params(layer, params.get(head.name, {}), f"model.params.head_params.{head.name}")
        layers[head.output_key] = layer(features, **settings)
    return layers
