"""Numbers for the trackers, under the same tags everywhere, and lines for a person who watches a terminal.

At the cadence of `tracking.every_steps`: `batch/loss`, `batch/<term>`, and the learning rates: `lr/group_0` and
`lr/group_1`, or where there are more groups one for each rate by the name of its part (`lr/heads`); likewise
`momentum/...` and `weight_decay/...`. After every epoch: `train/loss`, `train/<term>` (means), `valid/loss`,
`valid/<term>`, `valid/<metric>`, `time/train_seconds`, `time/valid_seconds`, `time/data_share` (spent waiting for
training batches), `time/images_per_second`, and on a GPU `memory/gpu_gib`, the most that was allocated. Where a moving
average of the weights is scored, `valid_raw/...` are those of the weights as they train. Where there are several terms,
`train_weighted/<term>` and `valid_weighted/<term>` are what they add to the loss. With each of them `epoch`: how many
are done, a fraction inside one.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from pipeline.callbacks import Callback, HostCopy
from pipeline.config import Experiment
from pipeline.keys import INPUT_ID, LOSS
from pipeline.types import Batch, Run, Stage, StageResult, StepResult
from toolkit.terminal import console, progress_bar

SLOW_LOADER = 0.3  # of the time
FEWEST_SECONDS = 1.0  # a shorter wait is not worth a word


class Log(Callback):
    """Losses, settings of the optimiser, metrics and times: at a cadence, after each stage, and as a line per epoch.

    A step is the number of optimiser steps done before a batch. A `*` stands beside the best score so far. The bar
    inside an epoch is drawn on a terminal only. `valid_count` rows are held out.
    """

    train: StageResult  # of this epoch

    def __init__(self, valid_count: int, out: Console | None = None) -> None:
        self.valid_count = valid_count
        self.out = out or console()
        self.columns: list[tuple[str, int]] = []  # names and widths
        self.rate = 0.0
        self.images = 0
        self.warned = False
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_run_start(self, run: Run) -> None:
        held_out = f"{self.valid_count:,} rows held out" if self.valid_count else "nothing held out"
        title = f"{run.experiment} / fold {run.fold}"
        size = f"{run.epochs} epoch{'s' if run.epochs > 1 else ''} of {run.batches_per_epoch:,} batches, {held_out}"
        self.out.print(Text.assemble("\n", (title, "bold"), f": {size}"), soft_wrap=True)
        names = ["train loss", *(["valid loss", run.metrics[0].name] if self.valid_count else [])]
        columns = [(name, max(10, len(name))) for name in names]
        self.columns = [("epoch", max(7, 2 * len(str(run.epochs)) + 1)), *columns, ("lr", 8), ("time", 6), ("data", 4)]
        self.out.print("  ".join(name.rjust(width) for name, width in self.columns), style="dim", soft_wrap=True)

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        self._stop_bar()
        total, done = self.valid_count, 0
        if stage == "train":
            total, done, self.images = run.batches_per_epoch, run.progress.batch, 0
        self.bar = progress_bar(self.out)
        self.task = self.bar.add_task(f"epoch {run.progress.epoch + 1}, {stage}", total=total, completed=done)
        self.bar.start()

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        rows = len(batch[INPUT_ID]) * run.processes.size  # about: the shares of held-out rows differ a little
        if self.bar is not None:
            self.bar.advance(self.task, 1 if stage == "train" else rows)
        if stage != "train":
            return
        now, groups = run.progress, run.optimizer.param_groups
        self.images += rows
        self.rate = max(float(group["lr"]) for group in groups)
        # Only the first batch of an accumulation window: the others would be logged at the same step.
        if now.batch % run.config.training.accumulate == 0 and now.step % run.config.tracking.every_steps == 0:
            losses = {LOSS: result["loss"], **result["losses"]}
            copy = HostCopy(torch.stack([value.detach().float() for value in losses.values()]))
            names, step, epoch = list(losses), now.step, now.epoch + now.batch / run.batches_per_epoch
            settings, tracker = _settings(groups), run.tracker

            def log() -> None:
                tags = {f"batch/{name}": value for name, value in zip(names, copy.values().tolist(), strict=True)}
                tracker.scalars({"epoch": epoch, **tags, **settings}, step)

            tracker.later(copy.is_there, log)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        self._stop_bar()
        values = {f"{result.stage}/{name}": value for name, value in (result.losses | result.metrics).items()}
        values |= _weighted(run.config, result)
        if result.raw is not None:
            values |= {f"valid_raw/{name}": value for name, value in (result.raw.losses | result.raw.metrics).items()}
        values[f"time/{result.stage}_seconds"] = result.seconds
        if result.stage == "train":
            self.train = result
            share = result.waited / max(result.seconds, 1e-9)
            values |= {"time/data_share": share, "time/images_per_second": self.images / max(result.seconds, 1e-9)}
            if torch.cuda.is_available():
                values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
            if share > SLOW_LOADER and result.waited > FEWEST_SECONDS and not self.warned:
                self.warned = True
                where = f"{share:.0%} of epoch {result.epoch + 1} was spent waiting for batches"
                advice = "machine.workers, image.cache=true, smaller images on disk, lighter augmentations"
                text = f"the loader holds the training up: {where}. Try: {advice}"
                self.out.print(text, style="yellow", soft_wrap=True)
        run.tracker.scalars({"epoch": result.epoch + 1.0, **values}, run.progress.step)
        if result.stage == "valid" or not self.valid_count:
            self._print_row(run, result)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if result is not None:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
            line = Text.assemble(result.weights, ("  on the held-out rows: ", "dim"), scores)
            self.out.print(line, soft_wrap=True)

    def on_exception(self, run: Run, error: BaseException) -> None:
        self._stop_bar()

    def _print_row(self, run: Run, result: StageResult) -> None:
        """The line of an epoch, whose last stage came to `result`."""
        train, seconds = self.train, self.train.seconds + (result.seconds if result is not self.train else 0.0)
        cells = [f"{result.epoch + 1}/{run.epochs}", f"{train.losses['loss']:.4f}"]
        if self.valid_count:
            cells += [f"{result.losses['loss']:.4f}", f"{result.metrics[run.metrics[0].name]:.4f}"]
        cells += [f"{self.rate:.1e}", _duration(seconds), f"{train.waited / max(train.seconds, 1e-9):.0%}"]
        row = Text("  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, self.columns, strict=True)))
        if self.valid_count and run.best and run.best.epoch == result.epoch and math.isfinite(run.best.score):
            row.append("  * best", style="bold green")
        self.out.print(row, soft_wrap=True)

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


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
    rows = [row for row in config.losses if row.term in result.losses]
    return {f"{result.stage}_weighted/{row.term}": row.weight * result.losses[row.term] for row in rows}


def _duration(seconds: float) -> str:
    """`4.1s`, `2m05s`, `1h20m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
