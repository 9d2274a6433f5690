"""Numbers for the trackers, under the same tags everywhere.

At the cadence of `tracking.every_steps`: `batch/loss`, `batch/<term>`, and the learning rates: `lr/group_0` and
`lr/group_1`, or where there are more groups one for each rate by the name of its part (`lr/heads`). After every epoch:
`train/loss`, `train/<term>` (means over the epoch), `valid/loss`, `valid/<term>`, `valid/<metric>`,
`time/train_seconds`, `time/valid_seconds`; where a moving average of the weights is scored, `valid_raw/<metric>` and so
on for the weights as they train. With each of them `epoch`: how many epochs are done, a fraction inside one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.callbacks import Callback
from pipeline.keys import LOSS
from pipeline.seam import Batch, Run, Stage, StageResult, StepResult


class LogScalars(Callback):
    """Losses, learning rates, metrics and times. A step is the number of optimiser steps done before a batch."""

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        # Only the first batch of an accumulation window: the others would be logged at the same step.
        if stage != "train" or run.progress.batch % run.config.training.accumulate:
            return
        if run.progress.step % run.config.tracking.every_steps == 0:
            values = {f"batch/{name}": value for name, value in _read_back(result).items()}
            values |= _rates(run.optimizer.param_groups)
            epoch = run.progress.epoch + run.progress.batch / run.batches_per_epoch
            run.tracker.scalars({"epoch": epoch, **values}, run.progress.step)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        values = {f"{result.stage}/{name}": value for name, value in (result.losses | result.metrics).items()}
        if result.raw is not None:
            values |= {f"valid_raw/{name}": value for name, value in (result.raw.losses | result.raw.metrics).items()}
        values[f"time/{result.stage}_seconds"] = result.seconds
        run.tracker.scalars({"epoch": result.epoch + 1.0, **values}, run.progress.step)


def _rates(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The learning rates by tag. Groups of one peak rate always have the same rate."""
    if len(groups) <= 2:
        return {f"lr/group_{number}": float(group["lr"]) for number, group in enumerate(groups)}
    tags: dict[float, str] = {}
    rates: dict[str, float] = {}
    for number, group in enumerate(groups):
        name = str(group.get("name", f"group_{number}")).partition(" (")[0]  # without `(no decay)`
        tag = tags.setdefault(float(group.get("initial_lr", group["lr"])), f"lr/{name}")
        rates[tag] = float(group["lr"])
    return rates


def _read_back(result: StepResult) -> dict[str, float]:
    """Every loss term in one copy: each copy makes the device finish its work first."""
    losses = {LOSS: result["loss"], **result["losses"]}
    values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))
