"""The optimiser, its parameter groups, and the learning rate as a function of the step."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, param_groups_weight_decay
from torch import nn

from pipeline.config import Optimizer
from pipeline.errors import UserError, nearest
from pipeline.names import Names

Factor = Callable[[int], float]  # optimiser step -> share of the peak learning rate


def parameter_groups(model: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases without."""
    groups: Iterable[dict[str, Any]] = param_groups_weight_decay(model, weight_decay=settings.weight_decay)
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, settings: Optimizer, names: Names, fused: bool) -> torch.optim.Optimizer:
    """timm's or torch's optimiser by timm's name, in its fused form where there is one and `fused` allows it.

    Raises:
        UserError: no optimiser of that name, or an argument it does not take.
    """
    known = [str(name) for name in list_optimizers()]
    if settings.name not in known:
        raise UserError(f"unknown optimiser '{settings.name}'; {nearest(settings.name, known)}")
    groups = names.bind("parameter_groups", settings.parameter_groups)(model, settings)
    takes = inspect.signature(get_optimizer_class(settings.name, bind_defaults=False)).parameters
    extra = {"fused": True, **settings.params} if fused and "fused" in takes else settings.params
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            groups, opt=settings.name, lr=settings.lr, weight_decay=settings.weight_decay, **extra
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"optimiser '{settings.name}' refused its settings: {error}") from error
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def cosine(steps: int, warmup_steps: int, *, final: float = 0.0) -> Factor:
    """Linear warm-up, then half a cosine from 1 down to `final` of the peak (Loshchilov & Hutter, arXiv:1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def constant(steps: int, warmup_steps: int) -> Factor:
    """Linear warm-up, then the peak."""
    return lambda step: min(1.0, (step + 1) / (warmup_steps + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's own peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
