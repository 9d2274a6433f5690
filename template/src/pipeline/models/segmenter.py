"""A batch dict becomes an output dict: an encoder of timm, a decoder of smp by its name, and a layer for each head."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.heads.mask import kind_of
from pipeline.keys import INPUT_IMAGE
from pipeline.models.mask_layers import KEPT, drop_unused, group_matcher, head_of, keep
from pipeline.models.preprocess import image_statistics
from pipeline.models.pretrained import HUB, cached_weights, fixed_size, reason, recompute
from pipeline.registry import Registry
from pipeline.types import Batch
from toolkit.errors import UserError, listed, nearest

STRIDE = 32  # of the last features of an encoder that has several


class MaskNetwork(nn.Module):
    """Image (B, C, H, W), normalised, to `{head.output_key: logits (B, planes, H, W)}`, and what else is asked for.

    What comes in is enlarged to a multiple of the strides by its last lines, and the logits are cut back.

    Settings of an experiment (`model: {params: {...}}`) are the parameters after the `*`. `mean` and `std` say how
    images are normalised before they come here. Parts are frozen, and their rates are set, by the names that they have
    here: `encoder`, `decoder`, `heads`.

    Attributes:
        network, channels: of smp, and what it calls the width of its decoder.
        features: modules of the decoder (or those in them) whose outputs can be supervised.
        takes: encoders that it can take, for who chose another.

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
    channels: ClassVar[str] = "decoder_channels"
    features: ClassVar[tuple[str, ...]] = ("blocks",)
    takes: ClassVar[tuple[str, ...]] = ("resnet34", "efficientnet_b0", "convnext_tiny", "pvt_v2_b0")

    def __init__(
        self,
        heads: Sequence[Head],
        settings: Model,
        names: Registry,
        *,
        decoder_channels: int | list[int] | None = None,
        presence: bool = False,
        deep_supervision: list[int] | None = None,
        decoder_params: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        widths = {head.output_key: kind_of(head).width(len(head.classes)) for head in heads}
        arguments = {**(decoder_params or {})}
        if decoder_channels is not None:
            arguments[self.channels] = decoder_channels
        made = self._smp(settings, arguments)
        self.encoder: Any = made.encoder
        self.decoder: Any = made.decoder
        self.encoder.group_matcher = partial(group_matcher, settings.encoder)
        if settings.grad_checkpointing:
            recompute(self.encoder.model, settings.encoder)
        self.mean, self.std = image_statistics(self.encoder.model, settings.in_chans)
        self.multiple = self.size_multiple()
        self.dropout = nn.Dropout2d(settings.drop_rate)
        self.heads = nn.ModuleDict({key: head_of(made.segmentation_head, width) for key, width in widths.items()})
        self.presence = nn.ModuleDict()
        if presence:
            features = self.encoder.out_channels[-1]
            self.presence.update({head.output_key: nn.Linear(features, len(head.classes)) for head in heads})
        self.supervised: dict[int, str] = {}  # stride -> the module whose output is supervised
        self.deep = nn.ModuleDict()
        self._add_deep_supervision(settings, deep_supervision or [], widths)

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
                outputs[f"{key}@stride{stride}"] = self.deep[f"{key}_{stride}"](given)[..., :rows, :columns]
        return outputs

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's last features, and the decoder's."""
        features = self.encoder(image)
        return features[-1], self.decoder(features)

    def size_multiple(self) -> int:
        """What height and width have to be a multiple of."""
        return STRIDE

    def _size_arguments(self, settings: Model) -> dict[str, Any]:
        """What timm takes for an architecture of a fixed size; nothing for the others."""
        if not fixed_size(settings):
            return {}
        return {"img_size": self._probe_size(settings, STRIDE), "strict_img_size": False, "dynamic_img_size": True}

    def _probe_size(self, settings: Model, multiple: int) -> tuple[int, int]:
        """A size the network is tried with: the real one where it is built for it, else a small one."""
        if settings.image_size is None or not fixed_size(settings):
            return 2 * multiple, 2 * multiple
        height, width = settings.image_size
        return height + -height % multiple, width + -width % multiple

    def _smp(self, settings: Model, arguments: Mapping[str, Any]) -> Any:
        """The network of smp, whose own head is a pattern for ours."""
        name, architecture = settings.encoder, settings.encoder.partition(".")[0]
        if not timm.is_model(architecture) and not name.startswith((*HUB, "local-dir:")):
            raise UserError(f"unknown encoder '{name}'; {nearest(architecture, timm.list_models())}")
        own: dict[str, Any] = {"drop_path_rate": settings.drop_path_rate} if settings.drop_path_rate else {}
        if cached := cached_weights(name) if settings.pretrained else None:
            own["pretrained_cfg_overlay"] = {"file": cached}
        own |= {"encoder_weights": True if settings.pretrained else None, "in_channels": settings.in_chans}
        sizes = self._size_arguments(settings)
        while True:
            try:
                return self.network(encoder_name=f"tu-{name}", **arguments, **own, **sizes)
            except Exception as error:  # timm and smp raise whatever they stumble over
                refused = next((key for key in sizes if f"'{key}'" in str(error)), None)
                if refused is None or not isinstance(error, TypeError):
                    raise self._refusal(settings, error, arguments) from error
                sizes.pop(refused)

    def _refusal(self, settings: Model, error: Exception, arguments: Mapping[str, Any]) -> UserError:
        more = ", or correct model.params" if arguments else ""
        more += ", or set model.drop_path_rate: 0" if settings.drop_path_rate else ""
        return UserError(
            f"the decoder {self.network.__name__.lower()} cannot take the encoder '{settings.encoder}' "
            f"({reason(error)}); choose one that it can: {', '.join(self.takes)}{more}"
        )

    def _add_deep_supervision(self, settings: Model, strides: Sequence[int], widths: Mapping[str, int]) -> None:
        """Run a small image through it: add the heads at strides, and take out what no output depends on.

        A layer without gradients would stop several processes from training together.
        """
        image = torch.zeros(1, settings.in_chans, *self._probe_size(settings, self.multiple))
        modules = {name: module for name, module in self.decoder.named_modules() if self._is_supervised(name)}
        hooks = [module.register_forward_hook(keep) for module in modules.values() if strides]
        self.eval()
        try:
            with torch.inference_mode(False), torch.no_grad():
                self({INPUT_IMAGE: image})
        except Exception as error:
            raise self._refusal(settings, error, {}) from error
        for hook in hooks:
            hook.remove()
        shapes = {name: module.__dict__.pop(KEPT).shape for name, module in modules.items() if KEPT in module.__dict__}
        known = {image.shape[-1] // shape[-1]: (name, shape[1]) for name, shape in shapes.items()}
        for stride in strides:
            if stride not in known:
                takes = listed(sorted(known), 9) or "none"
                raise UserError(
                    f"the decoder {self.network.__name__.lower()} with the encoder '{settings.encoder}' has no "
                    f"features of stride {stride}; model.params.deep_supervision takes {takes}"
                )
            self.supervised[stride], channels = known[stride]
            modules[self.supervised[stride]].register_forward_hook(keep)
            self.deep.update({f"{key}_{stride}": nn.Conv2d(channels, width, 1) for key, width in widths.items()})
        with torch.inference_mode(False), torch.enable_grad():
            torch.stack([output.sum() for output in self({INPUT_IMAGE: image}).values()]).sum().backward()
        drop_unused(self)
        self.zero_grad(set_to_none=True)
        self.train()

    def _is_supervised(self, name: str) -> bool:
        parent, _, last = name.rpartition(".")
        return name in self.features or (parent in self.features and (last.isdecimal() or last.startswith("x_0_")))


class Unet(MaskNetwork):
    network, features = smp.Unet, ("blocks",)


class UnetPlusPlus(MaskNetwork):
    network, features = smp.UnetPlusPlus, ("blocks",)
    takes = ("resnet34", "efficientnet_b0", "regnety_004", "mobilenetv3_large_100")


class FPN(MaskNetwork):
    network, features, channels = smp.FPN, ("p5", "p4", "p3", "p2"), "decoder_segmentation_channels"


class DeepLabV3Plus(MaskNetwork):
    network, features = smp.DeepLabV3Plus, ("aspp", "block2")
    takes = ("resnet34", "efficientnet_b0", "mobilenetv3_large_100", "convnext_tiny")


class UPerNet(MaskNetwork):
    network, features = smp.UPerNet, ("psp", "fpn_conv_blocks")


class Segformer(MaskNetwork):
    network, features, channels = smp.Segformer, ("mlp_stage", "fuse_stage"), "decoder_segmentation_channels"


class DPT(MaskNetwork):
    network, features, channels = smp.DPT, ("fusion_blocks",), "decoder_fusion_channels"
    takes = ("vit_small_patch16_224", "deit3_small_patch16_224", "vit_base_patch16_siglip_224", "convnext_tiny")

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features, prefixes = self.encoder(image)
        return features[-1], self.decoder(features, prefixes)

    def size_multiple(self) -> int:
        return 2 * int(self.encoder.output_stride)  # the decoder halves the encoder's features once

    def _size_arguments(self, settings: Model) -> dict[str, Any]:
        return {"dynamic_img_size": True}
