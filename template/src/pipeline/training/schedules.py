"""Schedules: the learning rate as a share of its peak, by optimiser step.

A schedule is called with the optimiser steps of the training and those of its warm-up among them, and returns a
`Factor`. The first step is taken at `factor(0)`; the warm-up is linear from zero, which step -1 would be at.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.config import Experiment
from pipeline.registry import Registry, Spec
from toolkit.errors import UserError

Factor = Callable[[int], float]  # optimiser step -> share of the peak learning rate


@runtime_checkable
class AdaptiveFactor(Protocol):
    """A `Factor` that also depends on how the training goes; its state is plain numbers and strings."""

    def __call__(self, step: int) -> float: ...

    def observe(self, score: float, greater_is_better: bool, loss: float) -> None:
        """Take up what an epoch came to: the score that the best epoch is chosen by, NaN where there is none, and the
        loss beside it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_schedule(config: Experiment, names: Registry, batches_per_epoch: int) -> Factor:
    """The experiment's schedule over all optimiser steps of the training, as a table unless it adapts."""
    settings, per_epoch = config.schedule, -(-batches_per_epoch // config.training.accumulate)
    steps, schedule = per_epoch * config.training.epochs, Spec(name=settings.name, params=settings.params)
    factor: Factor = names.bind("schedule", schedule)(steps, round(per_epoch * settings.warmup_epochs))
    return factor if isinstance(factor, AdaptiveFactor) else [factor(step) for step in range(steps + 1)].__getitem__


def constant(steps: int, warmup_steps: int) -> Factor:
    """The peak."""
    return lambda step: min(1.0, (step + 1) / (warmup_steps + 1))


def linear(steps: int, warmup_steps: int, *, final: float = 0.0) -> Factor:
    """A straight line from 1 down to `final` of the peak."""
    return _of_timm(PolyLRScheduler, steps, warmup_steps, final, power=1.0)


def cosine(steps: int, warmup_steps: int, *, final: float = 0.0) -> Factor:
    """Half a cosine from 1 down to `final` of the peak (Loshchilov & Hutter, arXiv:1608.03983)."""
    return _of_timm(CosineLRScheduler, steps, warmup_steps, final)


def flat_cosine(steps: int, warmup_steps: int, *, flat: float = 0.75, final: float = 0.0) -> Factor:
    """The peak for a share `flat` of the training, then half a cosine down to `final`."""
    _require_shares(flat=flat)
    start = max(round(flat * steps), warmup_steps)
    warm, fall = constant(steps, warmup_steps), cosine(steps - start, 0, final=final)
    return lambda step: warm(step) if step < start else fall(step - start)


def step(steps: int, warmup_steps: int, *, milestones: tuple[float, ...] = (0.5, 0.75), gamma: float = 0.1) -> Factor:
    """Times `gamma` at each milestone, which is a share of the training (He et al., arXiv:1512.03385)."""
    _require_shares(milestones=milestones)
    warm = constant(steps, warmup_steps)
    return lambda step: warm(step) * gamma ** sum(step >= round(milestone * steps) for milestone in milestones)


class Plateau:
    """torch's `ReduceLROnPlateau` on the score that the best epoch is chosen by: the peak, times `factor` whenever that
    has not become better by `threshold`, in its own units, for more than `patience` epochs.

    A NaN is no improvement. Where the score is exactly the best one again, a loss that is lower is one as well.
    """

    def __init__(
        self,
        steps: int,
        warmup_steps: int,
        *,
        factor: float = 0.1,
        patience: int = 5,
        threshold: float = 1e-4,
        min_rate: float = 0.0,
    ) -> None:
        _require_shares(factor=factor)
        if min(patience, threshold, min_rate) < 0:
            raise UserError("schedule.params: patience, threshold and min_rate must not be less than 0")
        self.warm = constant(steps, warmup_steps)
        self.rate = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # its rate is the share
        # Relative to the best, as torch has it by default, a score below zero could get worse and count as better.
        self.scheduler = ReduceLROnPlateau(self.rate, "max", factor, patience, threshold, "abs", min_lr=min_rate)
        self.best_loss = math.inf  # beside the best score

    def __call__(self, step: int) -> float:
        return self.warm(step) * float(self.rate.param_groups[0]["lr"])

    def observe(self, score: float, greater_is_better: bool, loss: float) -> None:
        made, score = self.scheduler, score if greater_is_better else -score
        before, is_lower = made.best, score == made.best and loss < self.best_loss - made.threshold
        if is_lower:
            made.num_bad_epochs = -1  # this epoch makes it 0
        made.step(score)
        if is_lower or made.best != before:
            self.best_loss = loss

    def state_dict(self) -> dict[str, Any]:
        share, made = float(self.rate.param_groups[0]["lr"]), self.scheduler
        return {"best": made.best, "bad_epochs": made.num_bad_epochs, "share": share, "best_loss": self.best_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.best, self.scheduler.num_bad_epochs = state["best"], state["bad_epochs"]
        self.rate.param_groups[0]["lr"], self.best_loss = state["share"], state["best_loss"]


def _of_timm(scheduler: type[Any], steps: int, warmup_steps: int, final: float, **settings: Any) -> Factor:
    """The warm-up, and one of timm's schedules for a peak of 1 in the steps behind it, by `step_update`."""
    if final < 0:
        raise UserError(f"schedule.params.final is {final:g}; it must be at least 0")
    rate = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # its rate is the share
    length = max(2, steps - warmup_steps)  # of a single step, which is at the peak, timm would warn
    made, warm = scheduler(rate, length, lr_min=final, t_in_epochs=False, **settings), constant(steps, warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warm(step)
        made.step_update(step - warmup_steps)
        return float(rate.param_groups[0]["lr"])

    return factor


def _require_shares(**settings: Any) -> None:
    for name, value in settings.items():
        for share in value if isinstance(value, tuple) else (value,):
            if not 0 < share < 1:
                raise UserError(f"schedule.params.{name}: {share:g} is no share between 0 and 1; correct it")
