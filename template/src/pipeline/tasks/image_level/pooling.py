"""How an encoder's feature map becomes one vector per image.

An entry is called with the number of channels and returns a module: float (B, C, H, W) to (B, C). The tokens of a
transformer come as (B, C, N, 1), without class and register tokens.
"""

import math

import torch
from timm.layers import AttentionPoolLatent, SelectAdaptivePool2d
from torch import Tensor, nn

from pipeline.errors import UserError


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
    """GeM, `mean(x ** p) ** (1 / p)` with a learned p (Radenovic et al., arXiv:1711.02512).

    p = 1 is the mean, and large p the maximum. It is made for features of at least zero, as they are after a ReLU;
    others are cut at `eps`. Computed in float32 on x / max(x), which gives the same value and gradient and neither
    overflows nor vanishes whatever p becomes.
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
            raise UserError(
                f"pooling 'attention': the encoder's {num_features} channels cannot be divided among {heads} heads; "
                "choose another num_heads, or leave it out"
            )
        self.pool = AttentionPoolLatent(num_features, num_heads=heads, mlp_ratio=mlp_ratio, norm_layer=nn.LayerNorm)

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.pool(features.flatten(2).transpose(1, 2))
        return pooled
