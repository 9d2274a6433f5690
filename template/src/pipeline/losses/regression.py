"""Losses of a number: numbers and truth (B, 1), in the units of the target, to one value per sample, float32 (B,).

Errors are measured in standard deviations of the rows that train. So a rate, a weight or a clipped gradient means the
same whatever the unit is, and a loss of 1 is what the mean of all rows would have by `mse`.
"""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.numbers import moments
from pipeline.losses.image_level import check_head, check_range
from toolkit.errors import UserError


class NumberLoss(nn.Module, ABC):
    """A loss of standardised numbers."""

    def __init__(self, name: str, head: Head) -> None:
        super().__init__()
        check_head(name, head)
        self.deviation = 1.0

    def fit(self, truth: np.ndarray) -> None:
        """See the truth (N, 1) of the rows that train, before the first batch."""
        self.deviation = moments(truth)[1]

    def forward(self, numbers: Tensor, target: Tensor) -> Tensor:
        return self.formula(numbers.float() / self.deviation, target.float() / self.deviation)[:, 0]

    @abstractmethod
    def formula(self, numbers: Tensor, target: Tensor) -> Tensor:
        """The loss of each number, float32 (B, 1)."""


class SquaredError(NumberLoss):
    """`e^2`, whose best constant is the mean."""

    def __init__(self, head: Head) -> None:
        super().__init__("mse", head)

    def formula(self, numbers: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(numbers, target, reduction="none")


class AbsoluteError(NumberLoss):
    """`|e|`, whose best constant is the median."""

    def __init__(self, head: Head) -> None:
        super().__init__("mae", head)

    def formula(self, numbers: Tensor, target: Tensor) -> Tensor:
        return functional.l1_loss(numbers, target, reduction="none")


class Huber(NumberLoss):
    """`e^2 / 2` up to `delta` standard deviations, and a line of the slope `delta` from there (Huber, 1964)."""

    def __init__(self, head: Head, *, delta: float = 1.0) -> None:
        super().__init__("huber", head)
        if not 0 < delta < float("inf"):
            raise UserError(f"loss 'huber': delta must be above 0 and finite (it is {delta})")
        self.delta = delta

    def formula(self, numbers: Tensor, target: Tensor) -> Tensor:
        return functional.huber_loss(numbers, target, reduction="none", delta=self.delta)


class SmoothL1(NumberLoss):
    """`huber / delta`: `e^2 / (2 beta)` up to `beta` standard deviations, then `|e| - beta / 2` (arXiv:1504.08083)."""

    def __init__(self, head: Head, *, beta: float = 1.0) -> None:
        super().__init__("smooth_l1", head)
        self.beta = check_range("smooth_l1", "beta", beta)

    def formula(self, numbers: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(numbers, target, reduction="none", beta=self.beta)
