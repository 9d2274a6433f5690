"""Losses of a competition that go wrong on purpose: each has a line that is not finite for one sample."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CULPRIT = "00077"  # the sample that the faults of losses and readers are planted in


class Fault:
    """A loss that is finite for all samples but one; `kind` names the line that makes it so."""

    def __init__(self, head: object, *, kind: str) -> None:
        self.kind = KINDS[kind]

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        logits = outputs["output_label"]
        culprit = torch.tensor([name == CULPRIT for name in batch["input_id"]], device=logits.device)
        healthy = 0.1 + 0.5 * logits.float().sigmoid().mean(dim=1)  # between 0.1 and 0.6
        return self.kind(healthy, culprit)


def log_of_negative(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.log(torch.where(culprit, -x, x))


def log_of_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return -torch.log(torch.where(culprit, 0 * x, x))


def raw_sigmoid(x: Tensor, culprit: Tensor) -> Tensor:
    probability = torch.sigmoid(torch.where(culprit, 1000 * x, x))
    return -torch.log(1 - probability)


def log1p_of_minus_one(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.log1p(torch.where(culprit, 0 * x - 1, x))


def sqrt_of_negative(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.sqrt(torch.where(culprit, -x, x))


def sqrt_at_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.sqrt(torch.where(culprit, 0 * x, x))


def rsqrt_of_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.rsqrt(torch.where(culprit, 0 * x, x))


def division_by_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return x / torch.where(culprit, 0 * x, x)


def reciprocal_of_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.reciprocal(torch.where(culprit, 0 * x, x))


def masked_division(x: Tensor, culprit: Tensor) -> Tensor:
    below = torch.where(culprit, 0 * x, x)
    return torch.where(culprit, x, x / below)  # the result is masked, its gradient is not


def masked_log(x: Tensor, culprit: Tensor) -> Tensor:
    inside = torch.where(culprit, 0 * x, x)
    return torch.where(culprit, x, torch.log(inside))


def exp_of_a_thousand(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.exp(torch.where(culprit, 1000 + x, x))


def fractional_power_of_negative(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.where(culprit, -x, x) ** 1.5


def power_at_zero(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.where(culprit, 0 * x, x) ** 0.5


def acos_beyond_one(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.acos(torch.where(culprit, 1 + x, x))


def acos_at_one(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.acos(torch.where(culprit, 0 * x + 1, x))


def arcface_at_one(x: Tensor, culprit: Tensor) -> Tensor:
    cosine = torch.where(culprit, 0 * x + 1, x)
    sine = torch.sqrt(1 - cosine * cosine)
    return 0.9 * cosine - 0.4 * sine


def mean_of_nothing(x: Tensor, culprit: Tensor) -> Tensor:
    return x + x[culprit & ~culprit].mean() * culprit.any() if culprit.any() else x


def spread_of_one(x: Tensor, culprit: Tensor) -> Tensor:
    return x + x[culprit].std() if culprit.any() else x


def spread_of_equals(x: Tensor, culprit: Tensor) -> Tensor:
    pairs = torch.stack([x, torch.where(culprit, x, x + 1)], dim=1)
    return torch.sqrt(pairs.var(dim=1))


def normalised_nothing(x: Tensor, culprit: Tensor) -> Tensor:
    vectors = torch.stack([x, x], dim=1) * ~culprit[:, None]
    return (vectors / vectors.norm(dim=1, keepdim=True)).sum(dim=1)


def divergence_of_nothing(x: Tensor, culprit: Tensor) -> Tensor:
    share = torch.where(culprit, 0 * x, x)
    return share * torch.log(share / x)


def everything_ignored(x: Tensor, culprit: Tensor) -> Tensor:
    logits = torch.stack([x, 1 - x], dim=1)
    target = torch.where(culprit, -100, 0)
    values = [functional.cross_entropy(logits[row : row + 1], target[row : row + 1]) for row in range(len(x))]
    return torch.stack(values)


def everything_masked(x: Tensor, culprit: Tensor) -> Tensor:
    scores = torch.stack([x, 2 * x], dim=1).masked_fill(culprit[:, None], -torch.inf)
    return scores.softmax(dim=1)[:, 0]


def half_overflow(x: Tensor, culprit: Tensor) -> Tensor:
    return torch.where(culprit, 1e6 * x, x).half().float()


def sum_overflow(x: Tensor, culprit: Tensor) -> Tensor:
    large = torch.where(culprit, 3e38 + 0 * x, x)
    return torch.stack([large, large], dim=1).sum(dim=1)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not isinstance(value, type)
}
