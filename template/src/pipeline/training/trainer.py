"""The training of one fold, with no framework in it: made, driven by an engine, saved, and taken up again."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.callbacks import CallbackList, engine_callback
from pipeline.callbacks.default import default_callbacks
from pipeline.competition import Head, Metric
from pipeline.data.cache import open_cache
from pipeline.data.loader import EpochBatches, RowBatches, TrainBatches, make_loader
from pipeline.inference.device import autocast, choose_precision
from pipeline.keys import INPUT_ID
from pipeline.trackers import Tracker, Trackers, make_tracker
from pipeline.training.averaging import WeightAverages
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.model import freeze, make_model
from pipeline.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from pipeline.training.phases import Phases
from pipeline.training.schedules import AdaptiveFactor, make_schedule, observe
from pipeline.training.setup import Setup
from pipeline.training.validation import LossSums, Monitor, Validation
from pipeline.types import (
    Batch,
    Best,
    Precision,
    PreparedModel,
    Progress,
    SampleDataset,
    Stage,
    StageResult,
    Step,
    StepContext,
    StepResult,
    Verdict,
)
from toolkit.distributed import ALONE, Processes
from toolkit.errors import Interrupted, UserError
from toolkit.seeds import seed_everything
from toolkit.signals import LeaveOnSignal

STATES = ("model", "optimizer", "scaler", "averages", "sums", "callbacks")  # parts that are saved, as they are called


class Trainer:
    """Everything a fold's training is made of, standing where its saved state says. Implements `pipeline.types.Run`.

    As a context it ends the loaders' processes, and gives Ctrl-C and SIGTERM back to who had them before.

    Args:
        fold: `0`, `1`, ... or `full`.
        folder: of the fold's run; a state in it is taken up.
        processes: those that train the fold together.
        tracked: what is no run is not tracked.

    Raises:
        UserError: a setting or something chosen by name that cannot be used, or a state of other training rows.
    """

    valid: Validation | None = None  # what the validation of this epoch has seen so far
    valid_raw: Validation | None = None  # the same with the raw weights, where their moving average counts
    is_whole = False  # between two optimiser steps of this process, with nothing half done

    def __init__(
        self,
        setup: Setup,
        fold: str,
        folder: Path,
        device: torch.device,
        processes: Processes = ALONE,
        tracked: bool = True,
    ) -> None:
        config, names, task = setup.config, setup.names, setup.task
        self.setup, self.config, self.experiment, self.fold, self.folder = setup, config, setup.name, fold, folder
        self.device, self.processes = device, processes
        self.precision: Precision = choose_precision(config.training.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.task = task
        self.heads: Sequence[Head] = task.heads
        self.metrics: Sequence[Metric] = setup.competition.metrics()
        self.monitor = Monitor(self.metrics, config.training.monitor)
        self.train_rows, self.valid_rows = setup.fold_rows(fold)
        keep = max(config.checkpoints.keep, config.averaging.best_epochs)
        self.checkpoints = CheckpointStore(
            folder / "checkpoints", keep, fold == "full" or self.monitor.greater_is_better
        )
        folder.mkdir(parents=True, exist_ok=True)  # a callback in any process may write there
        state = processes.from_main(self.checkpoints.load_state)
        self.model = make_model(setup, fold, self.train_rows, device, processes, fresh=state is None)
        self.averages = WeightAverages(self.model, config.averaging, config.training.epochs)
        fused = self.precision != "fp16" and device.type in ("cpu", "cuda")
        self.optimizer = make_optimizer(self.model, config.optimizer, names, fused)
        reader = open_cache(setup.project, config, names, self.train_rows, self.valid_rows)
        order = names.bind("sampler", config.training.sampler)
        batches = TrainBatches(self.train_rows, order, config.training.batch_size, config.seed, processes)
        self.phases = Phases(setup, self.train_rows, batches, device, reader)
        self.progress = Progress()
        self.epochs, self.batches_per_epoch = config.training.epochs, batches.batches_per_epoch
        self.factor = make_schedule(config, names, self.batches_per_epoch)
        set_learning_rate(self.optimizer, self.factor(0))
        self.criterion = task.criterion(config.losses, names, self.train_rows)
        self.step: Step = names.bind("step", config.step)
        valid_set = task.dataset(self.valid_rows, setup.project.data, config, names, "valid", reader)
        self.valid_loader = self._make_valid_loader(valid_set)
        self.decoder, self.finish = partial(task.decoder, config, names), task.finisher(config, names)
        own = [names.bind("callback", entry)() for entry in config.callbacks]
        watching = default_callbacks(task, self.train_rows, self.valid_rows, valid_set)
        self.callbacks = CallbackList([*own, *watching], processes.is_main)
        native = [engine_callback(names.bind("engine_callback", entry)) for entry in config.engine_callbacks]
        self.engine_callbacks: Sequence[Any] = native
        self.sums = LossSums()
        self._saved_at = self._stage_began = time.monotonic()
        self.signals = LeaveOnSignal()
        if state is not None:
            self.load_state_dict(state)
            print(f"fold {fold}: going on at epoch {self.progress.epoch + 1}, batch {self.progress.batch}")
        self.tracker: Tracker = Trackers({})
        if tracked and processes.is_main:
            info = setup.run_info(fold, folder, self.progress.step)
            self.tracker = make_tracker(info, setup.competition.settings.trackers)

    @property
    def best(self) -> Best | None:
        return self.checkpoints.best

    @property
    def window_ends(self) -> bool:
        done = self.progress.batch + 1
        return done % self.config.training.accumulate == 0 or done == self.batches_per_epoch

    def train_batches(self) -> EpochBatches:
        phase = self.phases.at(self.progress.epoch)
        self.phases.batches.begin(self.progress.epoch, self.progress.batch)
        return phase.loader

    def valid_batches(self) -> EpochBatches:
        return self.valid_loader

    def epoch_start(self) -> None:
        if self.progress.batch == 0:
            self.sums = LossSums()
        self._stage_began = time.monotonic()
        self.model.train()
        freeze(self.model.network, self.phases.at(self.progress.epoch).config.model)
        self.callbacks.on_epoch_start(self, "train")

    def train_batch(self, batch: Batch) -> Tensor:
        self.is_whole = False
        self.callbacks.on_batch_start(self, "train", batch)
        result = self.run_step("train", batch)
        # Shares of a training batch are equally large: the losses of the whole batch are the means over the processes.
        loss, *terms = self.processes.mean([result["loss"], *result["losses"].values()])
        whole: StepResult = {**result, "loss": loss, "losses": dict(zip(result["losses"], terms, strict=True))}
        self.sums.add(whole, len(batch[INPUT_ID]) * self.processes.size)
        self.callbacks.on_batch_end(self, "train", batch, whole)
        return result["loss"]

    def gradients_ready(self) -> None:
        verdict = Verdict(self.processes.highest(self.callbacks.on_gradients_ready(self)))
        if verdict is Verdict.STOP:
            raise UserError(f"a callback stopped the training at step {self.progress.step} of fold {self.fold}")
        if verdict is Verdict.SKIP:
            self.optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
        elif self.config.training.clip_grad is not None:
            clip_gradients(self.model, self.config.training)

    def stepped(self) -> None:
        self.progress.step += 1
        if self.averages.ema is not None:
            self.averages.ema.update(self.model, self.progress.step)
        set_learning_rate(self.optimizer, self.factor(self.progress.step))

    def batch_end(self) -> None:
        is_whole = self.window_ends
        self.progress.batch += 1
        if not is_whole or self.progress.batch == self.batches_per_epoch:
            return  # gradients of half a window are not saved; the end of the epoch saves by itself
        self.is_whole = True
        is_time = time.monotonic() - self._saved_at > 60 * self.config.checkpoints.save_minutes
        if self.processes.highest(int(is_time or self.leaving)):
            self.save()
            self._leave_if_asked()

    def valid_batch(self, batch: Batch) -> None:
        if self.valid is None:
            self._start_validation()
        assert self.valid is not None
        self.callbacks.on_batch_start(self, "valid", batch)
        with torch.no_grad():
            result = self.run_step("valid", batch, self.averages.scored(self.model))
            if self.valid_raw is not None:
                self.valid_raw.add(batch, self.run_step("valid", batch))
        self.valid.add(batch, result)
        self.callbacks.on_batch_end(self, "valid", batch, result)

    def validation(self) -> Validation:
        """What takes up losses and predictions of the held-out rows. Each process decodes its own."""
        return Validation(self.task, self.metrics, self.valid_rows, self.decoder(), self.finish)

    def epoch_end(self) -> None:
        for seen in (self.valid, self.valid_raw):
            if seen is not None:
                seen.gather(self.processes)
        results = self._results() if self.processes.is_main else []
        numbers = [replace(result, truth=None, predictions=None, raw=None) for result in results]
        shared = self.processes.from_main(lambda: numbers)
        results = results or shared
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
            self.checkpoints.save_state(self.state_dict())
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """All from which the same command goes on, whatever the engine and the number of processes, as plain tensors,
        numbers and strings."""
        state = {name: getattr(self, name).state_dict() for name in STATES}
        if isinstance(self.factor, AdaptiveFactor):
            state["factor"] = self.factor.state_dict()
        return {**state, "progress": asdict(self.progress), "batches_per_epoch": self.batches_per_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            UserError: the training rows are not those that the state was saved with.
        """
        if state["batches_per_epoch"] != self.batches_per_epoch:
            raise UserError(
                f"fold {self.fold} had {state['batches_per_epoch']} batches an epoch and now has "
                f"{self.batches_per_epoch}; its training rows changed: restore them, or begin anew with --restart"
            )
        for name in STATES:
            if name != "scaler" or state[name]:  # empty where nothing was scaled
                getattr(self, name).load_state_dict(state[name])
        if isinstance(self.factor, AdaptiveFactor):
            self.factor.load_state_dict(state["factor"])
        self.progress = Progress(**state["progress"])

    @property
    def leaving(self) -> bool:
        """Whether a signal asked for it."""
        return self.signals.leaving

    def watch_signals(self) -> None:
        self.signals.watch()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.valid_loader.__exit__()
            self.phases.close()
        finally:
            self.signals.restore()

    def run_step(
        self, stage: Stage, batch: Batch, model: PreparedModel | None = None, precision: Precision | None = None
    ) -> StepResult:
        now = self.progress
        if stage == "train":
            others = (self.processes.rank,) if self.processes.rank else ()  # no two of them draw the same
            seed_everything(self.config.seed, now.epoch, now.batch, *others)
            phase = self.phases.at(now.epoch)
            step, criterion, transforms = phase.step, phase.criterion, phase.transforms
        else:
            step, criterion, transforms = self.step, self.criterion, ()
        context = StepContext(stage, now.epoch, now.batch, now.step, criterion, transforms)
        with autocast(self.device, precision or self.precision):
            return step(batch, self.model if model is None else model, context)

    def _leave_if_asked(self) -> None:
        if self.processes.highest(int(self.leaving)):
            where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise Interrupted(f"fold {self.fold} is saved at {where}; the same command goes on from there")

    def _start_validation(self) -> None:
        self._trained = self._train_result()
        self._stage_began = time.monotonic()
        self.valid = self.validation()
        self.valid_raw = None if self._raw() is None else self.validation()
        self.model.eval()
        for model in (self.model, self.averages.scored(self.model)):
            self.processes.copy_from_main(model.buffers())  # each has seen its own share of the batches
        self.callbacks.on_epoch_start(self, "valid")

    def _raw(self) -> PreparedModel | None:
        """The model that trains, where other weights than its own are scored."""
        return None if self.averages.ema is None else self.model

    def _results(self) -> list[StageResult]:
        """What the stages of the epoch came to, on the main process, once all shares are there."""
        return [self._train_result()] if self.valid is None else [self._trained, self._valid_result(self.valid)]

    def _train_result(self) -> StageResult:
        seconds, waited = time.monotonic() - self._stage_began, self.phases.at(self.progress.epoch).loader.waited
        return StageResult("train", self.progress.epoch, self.sums.means(), seconds=seconds, waited=waited)

    def _valid_result(self, seen: Validation) -> StageResult:
        raw = None if self.valid_raw is None else self.valid_raw.result(self.progress.epoch)
        seconds = time.monotonic() - self._stage_began
        return replace(seen.result(self.progress.epoch), seconds=seconds, raw=raw)

    def _make_valid_loader(self, dataset: SampleDataset) -> EpochBatches:
        """Every held-out row once."""
        size = self.config.machine.valid_batch_size or self.config.training.batch_size
        batches = RowBatches(len(dataset), size, self.processes, dataset.starts())
        workers = self.config.machine.workers
        return EpochBatches(make_loader(dataset, batches, self.task.collate, workers, self.device), self.device)
