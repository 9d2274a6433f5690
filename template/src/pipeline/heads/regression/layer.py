"""A linear layer that answers in the units of what it predicts."""

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.heads.regression.numbers import moments


class Standardized(nn.Module):
    """Features (B, F) to numbers float32 (B, 1): `mean + deviation * linear(features)`.

    So training starts at the mean, and the rates that suit other heads suit this one. Both are saved with the weights,
    and float16 never has to hold the numbers themselves.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, head: str) -> None:
        super().__init__()
        self.head = head
        self.linear = nn.Linear(features, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.ones(1))

    def fit(self, values: np.ndarray) -> None:
        """Take mean and deviation from numbers (N, ...); NaN is left out."""
        mean, deviation = moments(values)
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    def forward(self, features: Tensor) -> Tensor:
        standard: Tensor = self.linear(features).float()
        return self.mean + self.deviation * standard
