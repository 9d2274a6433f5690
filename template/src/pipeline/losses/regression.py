"""Losses of a number: numbers and truth (B, 1), in the units of the target, to one value per sample, float32 (B,).

Errors are measured in standard deviations of the rows that train. So a rate, a weight or a clipped gradient means the
same whatever the unit is, and a loss of 1 is what the mean of all rows would have by `mse`. The formulas are torch's.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.numbers import moments
from pipeline.losses.criterion import check_range
from toolkit.errors import UserError


class NumberLoss(nn.Module):
    """One of torch's losses of standardised numbers, with its parameters."""

    def __init__(self, formula: Callable[..., Tensor], **params: float) -> None:
        super().__init__()
        self.formula, self.params, self.deviation = formula, params, 1.0

    def fit(self, truth: np.ndarray) -> None:
        """See the truth (N, 1) of the rows that train, before the first batch."""
        self.deviation = moments(truth)[1]

    def forward(self, numbers: Tensor, target: Tensor) -> Tensor:
        numbers, target = numbers.float() / self.deviation, target.float() / self.deviation
        return self.formula(numbers, target, reduction="none", **self.params)[:, 0]


def mse(head: Head) -> NumberLoss:
    """`e^2`, whose best constant is the mean."""
    return NumberLoss(functional.mse_loss)


def mae(head: Head) -> NumberLoss:
    """`|e|`, whose best constant is the median."""
    return NumberLoss(functional.l1_loss)


def huber(head: Head, *, delta: float = 1.0) -> NumberLoss:
    """`e^2 / 2` up to `delta` standard deviations, and a line of the slope `delta` from there (Huber, 1964)."""
    if not 0 < delta < float("inf"):
        raise UserError(f"loss 'huber': delta must be above 0 and finite (it is {delta})")
    return NumberLoss(functional.huber_loss, delta=delta)


def smooth_l1(head: Head, *, beta: float = 1.0) -> NumberLoss:
    """`huber / delta`: `e^2 / (2 beta)` up to `beta` standard deviations, then `|e| - beta / 2` (arXiv:1504.08083)."""
    return NumberLoss(functional.smooth_l1_loss, beta=check_range("smooth_l1", "beta", beta))
