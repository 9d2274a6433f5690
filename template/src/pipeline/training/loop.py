"""What an engine drives: one fold's run, with no framework in it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.callbacks import CallbackList
from pipeline.competition import Head, Metric
from pipeline.config import Experiment
from pipeline.data.loader import EpochBatches
from pipeline.inference.device import Precision, autocast
from pipeline.keys import INPUT_ID
from pipeline.tasks import Decoder, Finisher, Task
from pipeline.training.averaging import WeightAverages
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.freezing import freeze
from pipeline.training.optimizer import clip_gradients, set_learning_rate
from pipeline.training.phases import TrainStages
from pipeline.training.schedules import AdaptiveFactor, Factor, observe
from pipeline.training.seeds import seed_everything
from pipeline.training.signals import LeaveOnSignals
from pipeline.training.state import loop_state
from pipeline.training.sums import LossSums
from pipeline.training.validation import HeldOut, Monitor
from pipeline.types import (
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
from toolkit.distributed import Processes
from toolkit.errors import Interrupted, UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.trackers import Tracker


class FoldLoop:
    """One fold's run: position, state, metrics, callbacks. Implements `pipeline.types.Loop`."""

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
        decoder: Callable[[], Decoder],
        finish: Finisher,
        callbacks: CallbackList,
        engine_callbacks: Sequence[Any],
        checkpoints: CheckpointStore,
        device: torch.device,
        precision: Precision,
        processes: Processes,
    ) -> None:
        self.config, self.experiment, self.fold, self.folder = config, experiment, fold, folder
        self.task, self.metrics = task, metrics
        self.heads: Sequence[Head] = task.heads
        self.monitor = Monitor(metrics, config.training.monitor)
        self.model, self.averages = model, averages
        self.optimizer, self.factor = optimizer, factor
        self.stages, self.criterion, self.step = stages, criterion, step
        self.valid_loader, self.valid_rows = valid_loader, valid_rows
        self.decoder, self.finish = decoder, finish
        self.callbacks, self.engine_callbacks, self.checkpoints = callbacks, engine_callbacks, checkpoints
        self.device, self.precision, self.processes = device, precision, processes
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.progress = Progress()
        self.epochs = config.training.epochs
        set_learning_rate(optimizer, factor(0))
        self.batches_per_epoch = stages.batches.batches_per_epoch
        self.sums = LossSums()
        self.valid: HeldOut | None = None  # what the validation of this epoch has seen so far
        self.valid_raw: HeldOut | None = None  # the same with the raw weights, where their moving average counts
        self._whole: Batch = {}  # the batch of all processes
        self._saved_at = self._stage_began = time.monotonic()
        self.is_whole = False  # between two optimiser steps of this process, with nothing half done
        self.signals = LeaveOnSignals()

    @property
    def best(self) -> Best | None:
        return self.checkpoints.best

    @property
    def window_ends(self) -> bool:
        done = self.progress.batch + 1
        return done % self.config.training.accumulate == 0 or done == self.batches_per_epoch

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
        self.is_whole = False
        self._show_batch("train", batch)
        result = self.run_step("train", batch)
        whole = self.processes.gather(result, len(batch[INPUT_ID]))
        self.sums.add(whole, len(self._whole[INPUT_ID]))
        self.callbacks.on_batch_end(self, "train", self._whole, whole, (batch, result))
        return result["loss"]

    def gradients_ready(self) -> Verdict:
        verdict = Verdict(self.processes.highest(self.callbacks.on_gradients_ready(self)))
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
        is_whole = self.window_ends
        self.progress.batch += 1
        if not is_whole or self.progress.batch == self.batches_per_epoch:
            return  # gradients of half a window are not saved; the end of the epoch saves by itself
        self.is_whole = True
        is_time = time.monotonic() - self._saved_at > 60 * self.config.checkpoints.save_minutes
        if self.processes.highest(int(is_time or self.signals.leave)):
            self.save()
            self._leave_if_asked()

    def valid_batch(self, batch: Batch) -> None:
        if self.valid is None:
            self._begin_validation()
        assert self.valid is not None
        self._show_batch("valid", batch)
        with torch.no_grad():
            result = self.run_step("valid", batch, self.averages.scored(self.model))
            if self.valid_raw is not None:
                raw = self.run_step("valid", batch)
                self.valid_raw.add(self._whole, self.processes.gather(raw, len(batch[INPUT_ID])))
        whole = self.processes.gather(result, len(batch[INPUT_ID]))
        self.valid.add(self._whole, whole)
        self.callbacks.on_batch_end(self, "valid", self._whole, whole, (batch, result))

    def held_out(self) -> HeldOut:
        """Room for what the held-out rows come to. Only the main process sees whole rows, and decodes them."""
        decode = self.decoder() if self.processes.is_main else lambda batch, outputs: self.task.predictions.empty()
        return HeldOut(self.task, self.metrics, self.valid_rows, decode, self.finish)

    def epoch_end(self) -> None:
        results = self.processes.from_main(self._results)
        epoch, score, loss = self.progress.epoch, self.monitor.score(results[-1]), results[-1].losses["loss"]
        self.averages.epoch_ended(self.model, epoch)
        if self.processes.is_main:
            self.checkpoints.offer(self.averages.scored(self.model), epoch, score, self._raw(), loss)
        if isinstance(self.factor, AdaptiveFactor):
            observe(self.factor, *self.monitor.observed(results[-1]), loss)
            set_learning_rate(self.optimizer, self.factor(self.progress.step))
        self.valid = self.valid_raw = None
        self.progress.epoch, self.progress.batch = epoch + 1, 0
        for result in results:
            self.callbacks.on_epoch_end(self, result)
        self.save()
        self._leave_if_asked()

    def save(self) -> None:
        """Write the state from which the same command goes on."""
        if self.processes.is_main:
            self.checkpoints.save_state(loop_state(self))
        self._saved_at = time.monotonic()

    def watch_signals(self) -> None:
        self.signals.watch()

    def run_step(
        self, stage: Stage, batch: Batch, model: PreparedModel | None = None, precision: Precision | None = None
    ) -> StepResult:
        now = self.progress
        if stage == "train":
            others = (self.processes.rank,) if self.processes.rank else ()  # no two of them draw the same
            seed_everything(self.config.seed, now.epoch, now.batch, *others)
            current = self.stages.at(now.epoch)
            step, criterion, transforms = current.step, current.criterion, current.transforms
        else:
            step, criterion, transforms = self.step, self.criterion, ()
        context = StepContext(stage, now.epoch, now.batch, now.step, criterion, transforms)
        with autocast(self.device, precision or self.precision):
            return step(batch, self.model if model is None else model, context)

    def _leave_if_asked(self) -> None:
        if self.processes.highest(int(self.signals.leave)):
            where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise Interrupted(f"fold {self.fold} is saved at {where}; the same command goes on from there")

    def _begin_validation(self) -> None:
        self._trained = self._train_result()
        self._stage_began = time.monotonic()
        self.valid = self.held_out()
        self.valid_raw = None if self._raw() is None else self.held_out()
        self.model.eval()
        for model in (self.model, self.averages.scored(self.model)):
            self.processes.copy_from_main(model.buffers())  # each has seen its own share of the batches
        self.callbacks.on_epoch_start(self, "valid")

    def _raw(self) -> PreparedModel | None:
        """The model that trains, where other weights than its own are scored."""
        return None if self.averages.ema is None else self.model

    def _show_batch(self, stage: Stage, batch: Batch) -> None:
        self._whole = self.processes.gather(batch, len(batch[INPUT_ID]))
        self.callbacks.on_batch_start(self, stage, self._whole, batch)

    def _results(self) -> list[StageResult]:
        """What the stages of the epoch came to, on the main process, which has seen whole batches."""
        return [self._train_result()] if self.valid is None else [self._trained, self._valid_result(self.valid)]

    def _train_result(self) -> StageResult:
        seconds, waited = time.monotonic() - self._stage_began, self.stages.at(self.progress.epoch).loader.waited
        return StageResult("train", self.progress.epoch, self.sums.means(), seconds=seconds, waited=waited)

    def _valid_result(self, seen: HeldOut) -> StageResult:
        raw = None if self.valid_raw is None else self.valid_raw.result(self.progress.epoch)
        seconds = time.monotonic() - self._stage_began
        return replace(seen.result(self.progress.epoch), seconds=seconds, raw=raw)
