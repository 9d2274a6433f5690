"""Numbers for the trackers, under the same tags everywhere.

At the cadence of `tracking.every_steps`: `batch/loss`, `batch/<term>`, and the learning rates: `lr/group_0` and
`lr/group_1`, or where there are more groups one for each rate by the name of its part (`lr/heads`); likewise
`momentum/...` (the first beta of Adam and its kin) and `weight_decay/...`. After every epoch: `train/loss`,
`train/<term>` (means over the epoch), `valid/loss`, `valid/<term>`, `valid/<metric>`, `time/train_seconds`,
`time/valid_seconds`; where a moving average of the weights is scored, `valid_raw/<metric>` and so on for the weights
as they train. Terms are as they are computed; where there are several, `train_weighted/<term>` and
`valid_weighted/<term>` are what they add to the loss. With each of them `epoch`: how many epochs are done, a fraction
inside one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.callbacks import Callback
from pipeline.config import Experiment
from pipeline.keys import LOSS
from pipeline.types import Batch, Run, Stage, StageResult, StepResult


class LogScalars(Callback):
    """Losses, learning rates, metrics and times. A step is the number of optimiser steps done before a batch."""

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        # Only the first batch of an accumulation window: the others would be logged at the same step.
        if stage != "train" or run.progress.batch % run.config.training.accumulate:
            return
        if run.progress.step % run.config.tracking.every_steps == 0:
            values = {f"batch/{name}": value for name, value in _read_back(result).items()}
            values |= _settings(run.optimizer.param_groups)
            epoch = run.progress.epoch + run.progress.batch / run.batches_per_epoch
            run.tracker.scalars({"epoch": epoch, **values}, run.progress.step)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        values = {f"{result.stage}/{name}": value for name, value in (result.losses | result.metrics).items()}
        values |= _weighted(run.config, result)
        if result.raw is not None:
            values |= {f"valid_raw/{name}": value for name, value in (result.raw.losses | result.raw.metrics).items()}
        values[f"time/{result.stage}_seconds"] = result.seconds
        run.tracker.scalars({"epoch": result.epoch + 1.0, **values}, run.progress.step)


def _settings(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Learning rates, momentum and weight decay by tag. Groups of one peak rate always have the same rate; of their
    weight decays the largest is shown, which is that of the weights."""
    parts: dict[float, str] = {}
    values: dict[str, float] = {}
    for number, group in enumerate(groups):
        part = f"group_{number}"
        if len(groups) > 2:
            name = str(group.get("name", part)).partition(" (")[0]  # without `(no decay)`
            part = parts.setdefault(float(group.get("initial_lr", group["lr"])), name)
        values[f"lr/{part}"] = float(group["lr"])
        momentum = group["betas"][0] if "betas" in group else group.get("momentum")
        if momentum is not None:
            values[f"momentum/{part}"] = float(momentum)
        decay = f"weight_decay/{part}"
        values[decay] = max(values.get(decay, 0.0), float(group.get("weight_decay", 0.0)))
    return values


def _weighted(config: Experiment, result: StageResult) -> dict[str, float]:
    """What each term adds to the loss. While an intervention replaces the loss rows, their weights are not known."""
    replaced = any(key.startswith("losses") for entry in config.interventions for key in entry.set)
    if len(config.losses) < 2 or (replaced and result.stage == "train"):
        return {}
    terms = {row.term: row.weight * result.losses[row.term] for row in config.losses if row.term in result.losses}
    return {f"{result.stage}_weighted/{term}": value for term, value in terms.items()}


def _read_back(result: StepResult) -> dict[str, float]:
    """Every loss term in one copy: each copy makes the device finish its work first."""
    losses = {LOSS: result["loss"], **result["losses"]}
    values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))
