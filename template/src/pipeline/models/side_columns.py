"""Side columns as features beside those of the encoder."""

import torch
from torch import Tensor, nn


class SideFeatures(nn.Module):
    """Side inputs float32 (B, inputs), NaN where missing, as features (B, width): standardised, missing ones at the
    mean and with a flag of their own, through two layers."""

    def __init__(self, inputs: int, width: int, drop_rate: float) -> None:
        super().__init__()
        self.standardize = Standardize(inputs)
        self.layers = nn.Sequential(
            nn.Linear(2 * inputs, width), nn.ReLU(), nn.Dropout(drop_rate), nn.Linear(width, width), nn.ReLU()
        )

    def forward(self, values: Tensor) -> Tensor:
        missing = values.isnan()
        known = self.standardize(values).masked_fill(missing, 0)
        features: Tensor = self.layers(torch.cat([known, missing.to(known.dtype)], dim=1))
        return features


class Standardize(nn.Module):
    """(B, inputs) to mean 0 and standard deviation 1 of all values seen in training; NaN stays, and counts for nothing.

    Batch norm has no room for missing values, and refuses batches of one. Mean and variance of a batch are merged into
    those so far as by Chan, Golub & LeVeque (1983).
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(inputs, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("variance", torch.zeros(inputs))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self._learn(values.detach())
        deviation = self.variance.sqrt()
        return (values - self.mean) / torch.where(deviation > 0, deviation, 1)

    def _learn(self, values: Tensor) -> None:
        known = ~values.isnan()
        count = known.sum(dim=0)
        mean = torch.where(known, values, 0).sum(dim=0) / count.clamp(min=1)
        squares = torch.where(known, values - mean, 0).square().sum(dim=0)
        total, apart = self.count + count, mean - self.mean
        share = count / total.clamp(min=1)
        squares = squares + self.variance * self.count + apart.square() * self.count * share
        self.mean.add_(apart * share)
        self.variance.copy_(squares / total.clamp(min=1))
        self.count.copy_(total)
