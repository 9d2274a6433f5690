"""The decoders of segmentation_models_pytorch by name."""

from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor

from pipeline.config import Model
from pipeline.models.segmenter import MaskNetwork


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
