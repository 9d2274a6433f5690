"""A loss of the competition's own."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head


class Focal(nn.Module):
    """Focal loss per sample: logits and truth (B, labels) to (B,) (Lin et al., arXiv:1708.02002)."""

    def __init__(self, head: Head, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean(dim=1)
