"""A batch dict becomes an output dict: an encoder of timm, a decoder of smp, and a layer for each head."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.heads.mask import check_classes, kind_of
from pipeline.keys import INPUT_IMAGE
from pipeline.models.mask_layers import KEPT, group_matcher, head_of
from pipeline.models.preprocess import image_statistics
from pipeline.models.pretrained import recompute
from pipeline.models.smp_network import SmpNetwork
from pipeline.registry import Names
from pipeline.types import Batch


class MaskNetwork(SmpNetwork):
    """Image (B, C, H, W), normalised, to `{head.output_key: logits (B, planes, H, W)}`, and what else is asked for.

    What comes in is enlarged to a multiple of the strides by its last lines, and the logits are cut back.

    Settings of an experiment (`model: {params: {...}}`) are the parameters after the `*`. `mean` and `std` say how
    images are normalised before they come here. Parts are frozen, and their rates are set, by the names that they have
    here: `encoder`, `decoder`, `heads`. `network` is the one of smp, `features` are modules of its decoder that can be
    supervised.

    Args:
        heads: what is predicted.
        settings: the group `model` of the experiment.
        names: all that can be chosen by name.
        decoder_channels: how wide the decoder is: a number for each of its stages, or one where they are alike.
        presence: also tell from the encoder's last features whether there is any pixel of each class, (B, C).
        deep_supervision: also give logits of the decoder's features at these strides.
        decoder_params: more settings of the decoder, as segmentation_models_pytorch names them.

    Raises:
        UserError: an encoder that nobody knows or that the decoder cannot take, or a stride it does not have.
    """

    network: ClassVar[Any] = smp.Unet
    features: ClassVar[tuple[str, ...]] = ("blocks",)

    def __init__(
        self,
        heads: Sequence[Head],
        settings: Model,
        names: Names,
        *,
        decoder_channels: int | list[int] | None = None,
        presence: bool = False,
        deep_supervision: list[int] | None = None,
        decoder_params: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for head in heads:
            check_classes(head)
        arguments = {**(decoder_params or {})}
        if decoder_channels is not None:
            arguments[self.channels] = decoder_channels
        made = self.make_smp(settings, arguments)
        self.encoder, self.decoder = made.encoder, made.decoder
        self.encoder.group_matcher = partial(group_matcher, settings.encoder)
        if settings.grad_checkpointing:
            recompute(self.encoder.model, settings.encoder)
        self.mean, self.std = image_statistics(self.encoder.model, settings.in_chans)
        self.multiple = self.size_multiple()
        self.dropout = nn.Dropout2d(settings.drop_rate)
        widths = {head.output_key: kind_of(head).width(len(head.classes)) for head in heads}
        self.heads = nn.ModuleDict({key: head_of(made.segmentation_head, width) for key, width in widths.items()})
        self.presence = nn.ModuleDict()
        if presence:
            features = self.encoder.out_channels[-1]
            self.presence.update({head.output_key: nn.Linear(features, len(head.classes)) for head in heads})
        self.supervised: dict[int, str] = {}
        self.deep = nn.ModuleDict()
        image = torch.zeros(1, settings.in_chans, *self.probe_size(settings))
        self.add_deep_supervision(image, settings, deep_supervision or [], widths)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        image: Tensor = batch[INPUT_IMAGE]
        height, width = image.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            image = functional.pad(image, (0, right, 0, below), mode="replicate")
        last, decoded = self.decode(image)
        dropped = self.dropout(decoded)
        outputs = {}
        for key, head in self.heads.items():
            logits = head(dropped)
            if logits.shape[-2:] != image.shape[-2:]:
                logits = functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
            outputs[key] = logits[..., :height, :width]
        for key, layer in self.presence.items():
            outputs[f"{key}@presence"] = layer(last.mean(dim=(2, 3)))
        for stride, module in self.supervised.items():
            rows, columns = -(-height // stride), -(-width // stride)
            given = self.decoder.get_submodule(module).__dict__.pop(KEPT)
            for key in self.heads:
                deep = self.deep[f"{key}_{stride}"](given)
                outputs[f"{key}@stride{stride}"] = deep[..., :rows, :columns]
        return outputs
