"""How an encoder's feature map becomes one vector per image.

An entry is called with the number of channels and returns a module: float (B, C, H, W) to (B, C). The tokens of a
transformer come as (B, C, N, 1), without class and register tokens.
"""

import math
from typing import Any

import torch
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d, SelectAdaptivePool2d
from torch import Tensor, nn

from toolkit.errors import UserError

MISFITS = ("must match", "broadcast", "is invalid for input of size")  # how torch says that shapes do not fit


class EncoderPooling(nn.Module):
    """The encoder's own, as it was trained: the encoder is called as a whole, and this module not at all."""

    def __init__(self, num_features: int) -> None:
        super().__init__()


def average(num_features: int) -> nn.Module:
    """The mean over all positions."""
    return SelectAdaptivePool2d(pool_type="avg", flatten=True)


def maximum(num_features: int) -> nn.Module:
    """The maximum over all positions."""
    return SelectAdaptivePool2d(pool_type="max", flatten=True)


class GeneralizedMean(nn.Module):
    """GeM, `mean(x ** p) ** (1 / p)` with a learned p (Radenovic et al., arXiv:1711.02512), of features cut at `eps`.

    Computed in float32 on x / max(x), which gives the same value and gradient and neither overflows nor vanishes.
    """

    def __init__(self, num_features: int, *, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        if p <= 0 or eps <= 0:
            raise UserError(f"pooling 'gem': p and eps must be more than 0 (they are {p} and {eps})")
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        values = features.float().clamp(min=self.eps)
        largest = values.detach().amax(dim=(2, 3), keepdim=True)
        mean = (values / largest).pow(self.p.float()).mean(dim=(2, 3))
        return (largest.flatten(1) * mean.pow(1 / self.p.float())).to(features.dtype)


class AttentionPooling(nn.Module):
    """A learned query attends to all positions: multi-head attention and an MLP, by timm's `AttentionPoolLatent`."""

    def __init__(self, num_features: int, *, num_heads: int | None = None, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        heads = num_heads or math.gcd(num_features, 8)
        if num_features % heads:
            what = f"pooling 'attention': the encoder's {num_features} channels cannot be divided among {heads} heads"
            raise UserError(f"{what}; choose another num_heads, or leave it out")
        self.pool = AttentionPoolLatent(num_features, num_heads=heads, mlp_ratio=mlp_ratio, norm_layer=nn.LayerNorm)

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.pool(features.flatten(2).transpose(1, 2))
        return pooled


def width(encoder: Any, pooling: nn.Module) -> int:
    """Length of the vector that `features` returns. Many families widen it behind their pooling."""
    if not isinstance(pooling, EncoderPooling) and not _has_head(encoder):
        return int(encoder.num_features)
    return int(getattr(encoder, "head_hidden_size", None) or encoder.num_features)


def features(encoder: Any, pooling: nn.Module, image: Tensor) -> Tensor:
    """Image (B, C, H, W) to a vector (B, width), by the encoder's own pooling or by another one.

    Raises:
        UserError: the encoder has no single feature map for another pooling, or fails at the size of its images: an
            assertion, or tensors that do not fit together.
    """
    try:
        vector: Tensor = encoder(image) if isinstance(pooling, EncoderPooling) else _pooled(encoder, pooling, image)
        return vector
    except (AssertionError, RuntimeError) as error:
        ours = type(encoder).__module__.startswith("timm.")
        if not ours or not (isinstance(error, AssertionError) or any(text in str(error) for text in MISFITS)):
            raise
        raise UserError(
            f"the encoder {type(encoder).__name__} cannot take images of {image.shape[2]}x{image.shape[3]} "
            f"({str(error)[:120]}); choose another image.size"
        ) from error


def _pooled(encoder: Any, pooling: nn.Module, image: Tensor) -> Any:
    """As `features`, by another pooling.

    What an encoder has behind its pooling stays as it was trained: the norm of a ConvNeXt or ViT, the wider layers of
    MobileNetV3, EfficientViT, HGNet and others. Another pooling therefore takes the map before the encoder's own, and
    its result goes on as a map of one position, which the encoder's own pooling leaves as it is. Where that pooling is
    learned itself (the attention of SigLIP and CLIP), it is left out with all that follows.
    """
    found = encoder.forward_features(image) if hasattr(encoder, "forward_features") else encoder(image)
    prefix = getattr(encoder, "num_prefix_tokens", None)  # class and register tokens; some families do not count them
    prefix = int(getattr(encoder, "cls_token", None) is not None) if prefix is None else prefix
    if isinstance(found, Tensor) and found.ndim == 4:
        last = str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC")
        pooled = pooling(found.movedim(-1, 1) if last else found)
        one = pooled[:, None, None] if last else pooled[:, :, None, None]
    elif isinstance(found, Tensor) and found.ndim == 3 and found.shape[1] > prefix:
        pooled = pooling(found[:, prefix:].transpose(1, 2).unsqueeze(3))
        one = pooled[:, None].expand(-1, prefix + 1, -1)  # whichever token the encoder reads, it is this one
    else:
        what = f"the encoder {type(encoder).__name__} gives no single feature map to pool"
        raise UserError(f"{what}; set model.pooling to encoder")
    return encoder.forward_head(one, pre_logits=True) if _has_head(encoder) else pooled


def _has_head(encoder: Any) -> bool:
    """Whether what follows its pooling can be called, and that pooling is not learned."""
    learned = isinstance(getattr(encoder, "head", None), (AttentionPool2d, RotAttentionPool2d))
    return hasattr(encoder, "forward_head") and getattr(encoder, "attn_pool", None) is None and not learned
