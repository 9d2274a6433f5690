"""What every network of a decoder of segmentation_models_pytorch needs: how it is made, tried and refused."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from pipeline.config import Model
from pipeline.keys import INPUT_IMAGE
from pipeline.models.mask_layers import KEPT, drop_unused, keep
from pipeline.models.pretrained import HUB, cached_weights, fixed_size, reason
from toolkit.errors import UserError, listed, nearest

STRIDE = 32  # of the last features of an encoder that has several


class SmpNetwork(nn.Module):
    """An encoder of timm and a decoder of smp: what a model with layers for heads is built on.

    Attributes:
        network: of smp.
        channels: what smp calls the width of its decoder.
        features: modules of the decoder (or those in them) whose outputs can be supervised.
        takes: encoders that it can take, for who chose another.
    """

    network: ClassVar[type[nn.Module]]
    channels: ClassVar[str] = "decoder_channels"
    features: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ("resnet34", "efficientnet_b0", "convnext_tiny", "pvt_v2_b0")
    encoder: Any
    decoder: Any
    multiple: int  # of which height and width are enlarged to be one
    supervised: dict[int, str]  # stride -> the module whose output is supervised
    deep: nn.ModuleDict

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's last features, and the decoder's."""
        features = self.encoder(image)
        return features[-1], self.decoder(features)

    def size_multiple(self) -> int:
        """What height and width have to be a multiple of."""
        return STRIDE

    def make_smp(self, settings: Model, arguments: Mapping[str, Any]) -> Any:
        """The network of smp, whose own head is a pattern for ours."""
        name, architecture = settings.encoder, settings.encoder.partition(".")[0]
        if not timm.is_model(architecture) and not name.startswith((*HUB, "local-dir:")):
            raise UserError(f"unknown encoder '{name}'; {nearest(architecture, timm.list_models())}")
        own: dict[str, Any] = {"drop_path_rate": settings.drop_path_rate} if settings.drop_path_rate else {}
        cached = cached_weights(name) if settings.pretrained else None
        if cached:
            own["pretrained_cfg_overlay"] = {"file": cached}
        sizes = self._size_arguments(settings)
        while True:
            try:
                return self.network(
                    encoder_name=f"tu-{name}",
                    encoder_weights=True if settings.pretrained else None,
                    in_channels=settings.in_chans,
                    **arguments,
                    **own,
                    **sizes,
                )
            except TypeError as error:
                refused = next((key for key in sizes if f"'{key}'" in str(error)), None)
                if refused is None:
                    raise self._refusal(settings, error, arguments) from error
                sizes.pop(refused)
            except Exception as error:  # timm and smp raise whatever they stumble over
                raise self._refusal(settings, error, arguments) from error

    def _size_arguments(self, settings: Model) -> dict[str, Any]:
        """What timm takes for an architecture of a fixed size; nothing for the others."""
        if not fixed_size(settings):
            return {}
        return {"img_size": self.probe_size(settings), "strict_img_size": False, "dynamic_img_size": True}

    def probe_size(self, settings: Model) -> tuple[int, int]:
        """A size the network is tried with: the real one where it is built for it, else a small one."""
        multiple = getattr(self, "multiple", STRIDE)
        if settings.image_size is None or not fixed_size(settings):
            return 2 * multiple, 2 * multiple
        height, width = settings.image_size
        return height + -height % multiple, width + -width % multiple

    def _refusal(self, settings: Model, error: Exception, arguments: Mapping[str, Any]) -> UserError:
        remedy = f"choose one that it can: {', '.join(self.takes)}"
        if arguments:
            remedy += ", or correct model.params"
        if settings.drop_path_rate:
            remedy += ", or set model.drop_path_rate: 0"
        return UserError(
            f"the decoder {self.network.__name__.lower()} cannot take the encoder '{settings.encoder}' "
            f"({reason(error)}); {remedy}"
        )

    def add_deep_supervision(
        self, image: Tensor, settings: Model, strides: Sequence[int], widths: Mapping[str, int]
    ) -> None:
        """Run a small image through it: add the heads at strides, and take out what no output depends on.

        A layer without gradients would stop several processes from training together.
        """
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
        kept = {name: module.__dict__.pop(KEPT).shape for name, module in modules.items() if KEPT in module.__dict__}
        known = {image.shape[-1] // shape[-1]: (name, shape[1]) for name, shape in kept.items()}
        for stride in strides:
            if stride not in known:
                raise UserError(
                    f"the decoder {self.network.__name__.lower()} with the encoder '{settings.encoder}' has no "
                    f"features of stride {stride}; "
                    f"model.params.deep_supervision takes {listed(sorted(known), 9) or 'none'}"
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
