"""A loss of the competition's own."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head

SCALE = 10.0


class Focal(nn.Module):
    """Focal loss of scaled cosines per sample: cosines (B, C) and class numbers (B,) to (B,) (arXiv:1708.02002)."""

    def __init__(self, head: Head, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        loss = functional.cross_entropy(SCALE * cosines, target, reduction="none")
        return (1 - torch.exp(-loss)) ** self.gamma * loss
