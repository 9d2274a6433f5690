"""A number for each image, or a grade that a number becomes at cut points."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.competition import Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.numbers import Numbers, clipped, moments, numbers


class Regression(HeadKind):
    """The truth is float32 (B, 1), like the output, so that neither is broadcast; NaN where a row has none."""

    losses: ClassVar[Mapping[str, str]] = {
        name: f"pipeline.losses.regression:{name}" for name in ("mse", "mae", "huber", "smooth_l1")
    }
    column_type = Numbers
    logits = "number"

    @property
    def width(self) -> int:
        return 1

    def layer(self, features: int) -> nn.Module:
        return Standardized(features, self.head.name)

    def fit_statistics(self, network: nn.Module, rows: pd.DataFrame) -> None:
        mean, deviation = moments(self.targets(rows))
        for module in network.modules():
            if isinstance(module, Standardized) and module.head == self.head.name:
                module.mean.fill_(mean)
                module.deviation.fill_(deviation)

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return numbers(rows, self.head.name).astype(np.float32)[:, None]

    def target_forms(self) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.float32, (1,)),)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({self.head.name: numbers(rows, self.head.name)}, index=rows.index)

    def decode(self, logits: Tensor) -> np.ndarray:
        return clipped(logits.float().numpy(), self.head)

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The mean; with `mae` the median, with `rmsle` the mean of the logarithms, which are what those ask for."""
        values = numbers(rows, self.head.name)
        known = values[~np.isnan(values)]
        best = np.median(known) if metric.name == "mae" else known.mean()
        if metric.name == "rmsle" and known.min() > -1:
            best = np.expm1(np.log1p(known).mean())
        return clipped(np.array([best], np.float32), self.head)


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

    def forward(self, features: Tensor) -> Tensor:
        standard: Tensor = self.linear(features).float()
        return self.mean + self.deviation * standard


HEAD = Regression
