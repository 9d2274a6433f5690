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
from pipeline.keys import ROW_ID


class Regression(HeadKind):
    """The truth is float32 (B, 1), like the output, so that neither is broadcast; NaN where a row has none."""

    losses: ClassVar[Mapping[str, str]] = {
        "mse": "pipeline.losses.regression:mse",
        "mae": "pipeline.losses.regression:mae",
        "huber": "pipeline.losses.regression:huber",
        "smooth_l1": "pipeline.losses.regression:smooth_l1",
    }
    column_type = Numbers

    @property
    def width(self) -> int:
        return 1

    def layer(self, features: int) -> nn.Module:
        return Standardized(features, self.head.name)

    def fit_statistics(self, network: nn.Module, rows: pd.DataFrame) -> None:
        for module in network.modules():
            if isinstance(module, Standardized) and module.head == self.head.name:
                module.fit(self.targets(rows))

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return numbers(rows, self.head.name).astype(np.float32)[:, None]

    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.float32, (size, 1)),)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        column = self.head.name
        values = numbers(rows.rename_axis(None).assign(**{ROW_ID: rows.index}), column)
        return pd.DataFrame({column: values}, index=rows.index)

    def decode(self, logits: Tensor) -> np.ndarray:
        return clipped(logits.float().numpy(), self.head)

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The mean; with `mae` the median, with `rmsle` the mean of the logarithms, which are what those ask for."""
        values = numbers(rows, self.head.name)
        known = values[~np.isnan(values)]
        if metric.name == "mae":
            best = np.median(known)
        elif metric.name == "rmsle" and known.min() > -1:
            best = np.expm1(np.log1p(known).mean())
        else:
            best = known.mean()
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

    def fit(self, values: np.ndarray) -> None:
        """Take mean and deviation from numbers (N, ...); NaN is left out."""
        mean, deviation = moments(values)
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    def forward(self, features: Tensor) -> Tensor:
        standard: Tensor = self.linear(features).float()
        return self.mean + self.deviation * standard


HEAD = Regression
