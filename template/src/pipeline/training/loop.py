"""What an engine drives: one fold's run, with no framework in it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.callbacks import CallbackList
from pipeline.competition import Head, Metric
from pipeline.config import Experiment
from pipeline.data.loaders import EpochBatches
from pipeline.errors import Interrupted, UserError
from pipeline.inference.device import Precision, autocast
from pipeline.keys import INPUT_ID
from pipeline.seam import (
    Batch,
    Best,
    Criterion,
    PreparedModel,
    Progress,
    Stage,
    StageResult,
    Step,
    StepContext,
    StepResult,
    Verdict,
)
from pipeline.tasks import Task
from pipeline.training.averaging import WeightAverages
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.freezing import freeze
from pipeline.training.held_out import HeldOut, Monitor
from pipeline.training.optimizer import clip_gradients, set_learning_rate
from pipeline.training.schedules import AdaptiveFactor, Factor
from pipeline.training.seeds import seed_everything
from pipeline.training.signals import LeaveOnSignals
from pipeline.training.stages import TrainStages
from pipeline.training.sums import LossSums

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.tracking import Tracker


class FoldLoop:
    """One fold's run: position, state, metrics, callbacks. Implements `pipeline.seam.Loop`."""

    tracker: "Tracker"  # set once the position is known from which it goes on

    def __init__(
        self,
        *,
        config: Experiment,
        experiment: str,
        fold: str,
        folder: Path,
        task: Task,
        metrics: Sequence[Metric],
        model: PreparedModel,
        averages: WeightAverages,
        optimizer: torch.optim.Optimizer,
        factor: Factor,
        stages: TrainStages,
        criterion: Criterion,
        step: Step,
        valid_loader: EpochBatches,
        valid_rows: "pd.DataFrame",
        callbacks: CallbackList,
        checkpoints: CheckpointStore,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.config, self.experiment, self.fold, self.folder = config, experiment, fold, folder
        self.task, self.metrics = task, metrics
        self.heads: Sequence[Head] = task.heads
        self.monitor = Monitor(metrics, config.training.monitor)
        self.model, self.averages = model, averages
        self.optimizer, self.factor = optimizer, factor
        self.stages, self.criterion, self.step = stages, criterion, step
        self.valid_loader, self.valid_rows = valid_loader, valid_rows
        self.callbacks, self.checkpoints = callbacks, checkpoints
        self.device, self.precision = device, precision
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.progress = Progress()
        self.epochs = config.training.epochs
        set_learning_rate(optimizer, factor(0))
        self.batches_per_epoch = stages.batches.batches_per_epoch
        self.sums = LossSums()
        self.valid: HeldOut | None = None  # what the validation of this epoch has seen so far
        self.valid_raw: HeldOut | None = None  # the same with the raw weights, where their moving average counts
        self._saved_at = self._stage_began = time.monotonic()
        self.signals = LeaveOnSignals()

    @property
    def best(self) -> Best | None:
        return self.checkpoints.best

    def train_batches(self) -> EpochBatches:
        stage = self.stages.at(self.progress.epoch)
        self.stages.batches.begin(self.progress.epoch, self.progress.batch)
        return stage.loader

    def valid_batches(self) -> EpochBatches:
        return self.valid_loader

    def epoch_start(self) -> None:
        if self.progress.batch == 0:
            self.sums = LossSums()
        self._stage_began = time.monotonic()
        self.model.train()
        freeze(self.model.network, self.stages.at(self.progress.epoch).config.model)
        self.callbacks.on_epoch_start(self, "train")

    def train_batch(self, batch: Batch) -> Tensor:
        self.callbacks.on_batch_start(self, "train", batch)
        seed_everything(self.config.seed, self.progress.epoch, self.progress.batch)
        result = self.run_step("train", batch)
        self.sums.add(result, len(batch[INPUT_ID]))
        self.callbacks.on_batch_end(self, "train", batch, result)
        return result["loss"]

    def gradients_ready(self) -> Verdict:
        verdict = self.callbacks.on_gradients_ready(self)
        if verdict is Verdict.STOP:
            raise UserError(f"a callback stopped the training at step {self.progress.step} of fold {self.fold}")
        return verdict

    def clip_gradients(self) -> None:
        clip_gradients(self.model, self.config.training)

    def stepped(self) -> None:
        self.progress.step += 1
        self.averages.stepped(self.model, self.progress.step)
        set_learning_rate(self.optimizer, self.factor(self.progress.step))

    def batch_end(self) -> None:
        self.progress.batch += 1
        window_is_whole = self.progress.batch % self.config.training.accumulate == 0
        if not window_is_whole or self.progress.batch == self.batches_per_epoch:
            return  # gradients of half a window are not saved; the end of the epoch saves by itself
        if self.signals.leave or time.monotonic() - self._saved_at > 60 * self.config.checkpoints.save_minutes:
            self.save()
        self._leave_if_asked()

    def valid_batch(self, batch: Batch) -> None:
        if self.valid is None:
            self._begin_validation()
        assert self.valid is not None
        self.callbacks.on_batch_start(self, "valid", batch)
        with torch.no_grad():
            result = self.run_step("valid", batch, self.averages.scored(self.model))
            if self.valid_raw is not None:
                self.valid_raw.add(batch, self.run_step("valid", batch))
        self.valid.add(batch, result)
        self.callbacks.on_batch_end(self, "valid", batch, result)

    def held_out(self) -> HeldOut:
        """Room for what the held-out rows come to."""
        return HeldOut(self.task, self.metrics, self.valid_rows)

    def epoch_end(self) -> None:
        results = [self._train_result()] if self.valid is None else [self._trained, self._valid_result(self.valid)]
        epoch, score = self.progress.epoch, self.monitor.score(results[-1])
        self.averages.epoch_ended(self.model, epoch)
        self.checkpoints.offer(self.averages.scored(self.model), epoch, score, raw=self._raw())
        if isinstance(self.factor, AdaptiveFactor):
            self.factor.observe(*self.monitor.observed(results[-1]))
            set_learning_rate(self.optimizer, self.factor(self.progress.step))
        self.valid = self.valid_raw = None
        self.progress.epoch, self.progress.batch = epoch + 1, 0
        for result in results:
            self.callbacks.on_epoch_end(self, result)
        self.save()
        self._leave_if_asked()

    def save(self) -> None:
        """Write the state from which the same command goes on."""
        self.checkpoints.save_state(
            {
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else {},
                "factor": self.factor.state_dict() if isinstance(self.factor, AdaptiveFactor) else {},
                "averages": self.averages.state_dict(),
                "sums": self.sums.state_dict(),
                "callbacks": self.callbacks.state_dict(),
                "batches_per_epoch": self.batches_per_epoch,
            }
        )
        self._saved_at = time.monotonic()

    def load(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        if state["batches_per_epoch"] != self.batches_per_epoch:
            raise UserError(
                f"fold {self.fold} had {state['batches_per_epoch']} batches an epoch and now has "
                f"{self.batches_per_epoch}; its training rows changed: restore them, or begin anew with --restart"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        if isinstance(self.factor, AdaptiveFactor):
            self.factor.load_state_dict(state["factor"])
        self.averages.load_state_dict(state["averages"])
        self.sums.load_state_dict(state["sums"])
        self.callbacks.load_state_dict(state["callbacks"])
        self.progress = Progress(**state["progress"])

    def watch_signals(self) -> None:
        self.signals.watch()

    def run_step(self, stage: Stage, batch: Batch, model: PreparedModel | None = None) -> StepResult:
        """The step on a batch that is on the device, in the loop's precision; by default of the model that trains."""
        now = self.progress
        if stage == "train":
            current = self.stages.at(now.epoch)
            context = StepContext(stage, now.epoch, now.batch, now.step, current.criterion, current.transforms)
            step = current.step
        else:
            context = StepContext(stage, now.epoch, now.batch, now.step, self.criterion)
            step = self.step
        with autocast(self.device, self.precision):
            return step(batch, self.model if model is None else model, context)

    def _leave_if_asked(self) -> None:
        if self.signals.leave:
            where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise Interrupted(f"fold {self.fold} is saved at {where}; the same command goes on from there")

    def _begin_validation(self) -> None:
        self._trained = self._train_result()
        self._stage_began = time.monotonic()
        self.valid = self.held_out()
        self.valid_raw = None if self._raw() is None else self.held_out()
        self.model.eval()
        self.callbacks.on_epoch_start(self, "valid")

    def _raw(self) -> PreparedModel | None:
        """The model that trains, where other weights than its own are scored."""
        return None if self.averages.ema is None else self.model

    def _train_result(self) -> StageResult:
        seconds = time.monotonic() - self._stage_began
        return StageResult("train", self.progress.epoch, self.sums.means(), seconds=seconds)

    def _valid_result(self, seen: HeldOut) -> StageResult:
        raw = None if self.valid_raw is None else self.valid_raw.result(self.progress.epoch)
        seconds = time.monotonic() - self._stage_began
        return replace(seen.result(self.progress.epoch), seconds=seconds, raw=raw)
