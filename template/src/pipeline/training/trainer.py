"""The training of one fold, with no framework in it: made, driven by an engine, saved, and taken up again."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pipeline.callbacks import CallbackList, engine_callback
from pipeline.callbacks.default import default_callbacks
from pipeline.competition import Head, Metric
from pipeline.data.cache import open_cache
from pipeline.data.loader import EpochBatches, RowBatches, TrainBatches, make_loader
from pipeline.inference.device import Halves, choose_precision
from pipeline.keys import INPUT_ID
from pipeline.losses.criterion import LossSums
from pipeline.trackers import Trackers
from pipeline.training.averaging import WeightAverages
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.model import freeze, make_model, set_teachers
from pipeline.training.optimizer import clip_gradients, like_parameters, make_optimizer
from pipeline.training.phases import Phase, Phases
from pipeline.training.schedules import AdaptiveFactor, make_schedule
from pipeline.training.setup import Setup
from pipeline.training.step import seed_everything
from pipeline.training.validation import Monitor, Validation
from pipeline.types import (
    Batch,
    Best,
    Index,
    Precision,
    PreparedModel,
    Progress,
    SampleDataset,
    Stage,
    StageResult,
    StepContext,
    StepResult,
    Verdict,
)
from toolkit.distributed import ALONE, Processes
from toolkit.errors import Interrupted, UserError
from toolkit.signals import LeaveOnSignal

SAVED = ("model", "optimizer", "scaler", "averages", "sums", "callbacks")  # parts that are saved, as they are called
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """Everything a fold's training is made of, standing where the state in its folder says: a `pipeline.types.Run`.

    Raises:
        UserError: a setting or something chosen by name that cannot be used, or a state of other training rows.
    """

    valid: Validation | None = None  # the validation of this epoch so far
    valid_raw: Validation | None = None  # the same with the raw weights, where their moving average counts
    gradient_norm: Tensor | None = None
    is_whole = False  # between two optimiser steps of this process, with nothing half done

    def __init__(
        self, setup: Setup, fold: str, folder: Path, device: torch.device, processes: Processes = ALONE
    ) -> None:
        config, names, task = setup.config, setup.names, setup.task
        self.setup, self.config, self.experiment, self.fold, self.folder = setup, config, setup.name, fold, folder
        self.device, self.processes, self.task = device, processes, task
        self.heads: Sequence[Head] = task.heads
        self.precision: Precision = choose_precision(config.training.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.metrics: Sequence[Metric] = setup.competition.metrics()
        self.monitor = Monitor(self.metrics, config.training.monitor)
        self.train_rows, self.valid_rows = setup.fold_rows(fold)
        most = max(config.checkpoints.keep, config.averaging.best_epochs)
        greater_is_better = fold == "full" or self.monitor.greater_is_better
        self.checkpoints = CheckpointStore(folder / "checkpoints", most, greater_is_better)
        folder.mkdir(parents=True, exist_ok=True)  # a callback in any process may write there
        state = processes.from_main(self.checkpoints.load_state)
        self.model = make_model(setup, fold, self.train_rows, device, processes, fresh=state is None)
        self.epochs = config.training.epochs
        self.averages = WeightAverages(self.model, config.averaging, self.epochs)
        self.optimizer = make_optimizer(self.model, config.optimizer, names, fused=device.type != "mps")
        reader = open_cache(setup.project, config, names, self.train_rows, self.valid_rows)
        order = names.bind("sampler", config.training.sampler)
        batches = TrainBatches(self.train_rows, order, config.training.batch_size, config.seed, processes)
        self.phases = Phases(setup, self.train_rows, batches, device, reader)
        set_teachers(setup, fold, self.model, self.phases.criteria.values())
        self.progress, self.batches_per_epoch = Progress(), batches.batches_per_epoch
        self.factor = make_schedule(config, names, self.batches_per_epoch)
        self.saved = (*SAVED, "factor") if isinstance(self.factor, AdaptiveFactor) else SAVED
        valid_set = task.dataset(self.valid_rows, setup.project.data, config, names, "valid", reader)
        size = config.machine.valid_batch_size or config.training.batch_size
        held_out = RowBatches(len(valid_set), size, processes, valid_set.starts())
        loader = make_loader(valid_set, held_out, task.collate, config.machine.workers, device)
        self.valid_loader = EpochBatches(loader, device)
        criterion = self.phases.criteria[id(config)]
        self.aggregate = task.aggregator(config, names)
        self.parts = {"valid": Phase(config, self.valid_loader, criterion, names.bind("step", config.step))}
        own = [names.bind("callback", entry)() for entry in config.callbacks]
        watching = default_callbacks(task, self.train_rows, self.valid_rows, valid_set)
        self.callbacks = CallbackList([*own, *watching], processes.is_main)
        native = [engine_callback(names.bind("engine_callback", entry)) for entry in config.engine_callbacks]
        self.engine_callbacks: Sequence[Any] = native
        self.sums, self.signals, self.halves = LossSums(), LeaveOnSignal(), Halves()
        self.tracker = Trackers({})
        self._saved_at = self._stage_began = time.monotonic()
        if state is not None:
            self.load_state_dict(state)
            print(f"fold {fold}: going on at epoch {self.progress.epoch + 1}, batch {self.progress.batch}")
        self.stand_at(self.progress)

    def stand_at(self, progress: Progress) -> None:
        """Go to a position, with the phase and the learning rate there."""
        self.progress = progress
        self.parts["train"] = self.phases.at(progress.epoch)
        self.set_learning_rate(self.factor(progress.step))

    def set_learning_rate(self, factor: float) -> None:
        """Scale every group's own peak rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    @property
    def best(self) -> Best | None:
        return self.checkpoints.best

    @property
    def window_ends(self) -> bool:
        done = self.progress.batch + 1
        return done % self.config.training.accumulate == 0 or done == self.batches_per_epoch

    def train_batches(self) -> EpochBatches:
        self.parts["train"] = self.phases.at(self.progress.epoch)
        self.phases.batches.begin(self.progress.epoch, self.progress.batch)
        return self.parts["train"].loader

    def samples(self, stage: Stage) -> tuple[SampleDataset, list[Index]]:
        loader: Any = self.parts[stage].loader.loader
        return loader.dataset, [index for batch in loader.batch_sampler for index in batch]

    def epoch_start(self) -> None:
        if self.progress.batch == 0:
            self.sums = LossSums()
        self._stage_began = time.monotonic()
        self.parts["train"] = self.phases.at(self.progress.epoch)
        self.model.train()
        freeze(self.model.network, self.parts["train"].config.model)
        self.callbacks.on_epoch_start(self, "train")

    def run_step(
        self, stage: Stage, batch: Batch, model: PreparedModel | None = None, precision: Precision | None = None
    ) -> StepResult:
        now, part, dtype = self.progress, self.parts[stage], HALF.get(precision or self.precision)
        if stage == "train":
            others = (self.processes.rank,) if self.processes.rank else ()  # no two of them draw the same
            seed_everything(self.config.seed, now.epoch, now.batch, *others)
        context = StepContext(stage, now.epoch, now.batch, now.step, part.criterion, part.transforms)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return part.step(batch, self.model if model is None else model, context)

    def train_batch(self, batch: Batch) -> Tensor:
        self.is_whole = False
        self.callbacks.on_batch_start(self, "train", batch)
        result = whole = self.run_step("train", batch)
        if self.processes.size > 1:  # shares are equally large, so the losses of the whole batch are the means
            loss, *terms = self.processes.mean([result["loss"], *result["losses"].values()])
            whole = {**result, "loss": loss, "losses": dict(zip(result["losses"], terms, strict=True))}
        self.sums.add(whole, len(batch[INPUT_ID]) * self.processes.size)
        self.callbacks.on_batch_end(self, "train", batch, whole)
        return result["loss"]

    def gradients_ready(self) -> None:
        self.gradient_norm = None
        verdict = Verdict(self.processes.highest(self.callbacks.on_gradients_ready(self)))
        if verdict is Verdict.STOP:
            raise UserError(f"a callback stopped the training at step {self.progress.step} of fold {self.fold}")
        if verdict is Verdict.SKIP:
            self.optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
        elif self.config.training.clip_grad is not None:
            clip_gradients(self.model, self.config.training, self.gradient_norm)

    def optimizer_step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        self.gradients_ready()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def batch_end(self) -> None:
        window_ends = self.window_ends
        self.progress.batch += 1
        if not window_ends:
            return  # gradients of half a window are not saved
        self.progress.step += 1  # also of a vetoed one
        if self.averages.ema is not None:
            self.averages.ema.update(self.model, self.progress.step)
        self.set_learning_rate(self.factor(self.progress.step))
        ends = self.progress.batch == self.batches_per_epoch  # which saves by itself
        is_time = time.monotonic() - self._saved_at > 60 * self.config.checkpoints.save_minutes
        saves = not ends and self.processes.highest(int(is_time or self.signals.leaving)) > 0
        if ends or saves:
            self.callbacks.on_sync(self)
            self.tracker.flush()
        self.is_whole = not ends
        if saves:
            self._save_and_leave()

    def valid_batch(self, batch: Batch) -> None:
        if self.valid is None:
            self._start_validation()
        assert self.valid is not None
        for part, (result, raw) in self.halves(self._valid_step, batch):  # a half counts as a batch
            if self.valid_raw is not None and raw is not None:
                self.valid_raw.add(part, raw)
            self.valid.add(part, result)
            self.callbacks.on_batch_end(self, "valid", part, result)

    @torch.no_grad()
    def _valid_step(self, batch: Batch) -> tuple[StepResult, StepResult | None]:
        self.callbacks.on_batch_start(self, "valid", batch)
        result = self.run_step("valid", batch, self.averages.scored(self.model))
        return result, None if self.valid_raw is None else self.run_step("valid", batch)

    def validation(self) -> Validation:
        """What takes up losses and predictions of the held-out rows. Each process decodes its own."""
        decode = self.task.decoder(self.config, self.setup.names)
        return Validation(self.task, self.metrics, self.valid_rows, decode, self.aggregate)

    def epoch_end(self) -> None:
        for one in (self.valid, self.valid_raw):
            if one is not None:
                one.gather(self.processes)
        results = self._results() if self.processes.is_main else []
        numbers = [replace(result, truth=None, predictions=None, raw=None) for result in results]
        shared = self.processes.from_main(lambda: numbers)
        results = results or shared
        epoch, score, loss = self.progress.epoch, self.monitor.score(results[-1]), results[-1].losses["loss"]
        best = Best(epoch, score, loss, self.monitor.ties(results[-1]))
        self.averages.epoch_ended(self.model, epoch)
        if self.processes.is_main:
            raw = None if self.averages.ema is None else self.model
            self.checkpoints.offer(self.averages.scored(self.model), best, raw)
        if isinstance(self.factor, AdaptiveFactor):
            observed = (score, self.monitor.greater_is_better) if len(self.valid_rows) else (loss, False)
            self.factor.observe(*observed, loss)
            self.set_learning_rate(self.factor(self.progress.step))
        self.valid = self.valid_raw = None
        self.progress.epoch, self.progress.batch = epoch + 1, 0
        for result in results:
            self.callbacks.on_epoch_end(self, result)
        self._save_and_leave()

    def save(self) -> None:
        """Copy the state from which the same command goes on; a thread writes it, before the next one is copied."""
        if self.processes.is_main:
            self.checkpoints.save_state(self.state_dict())
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """All from which the same command goes on, under any engine: plain tensors, numbers and strings."""
        state = {name: getattr(self, name).state_dict() for name in self.saved}
        return {**state, "progress": asdict(self.progress), "batches_per_epoch": self.batches_per_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, for the same training rows, saved on whatever device.

        Tensors go to this run's device: the optimiser's with the strides of their parameters, which fused kernels take
        for granted, and those of callbacks wherever they were when they were saved.
        """
        if state["batches_per_epoch"] != self.batches_per_epoch:
            raise UserError(
                f"fold {self.fold} had {state['batches_per_epoch']} batches an epoch and now has "
                f"{self.batches_per_epoch}; its training rows changed: restore them, or begin anew with --restart"
            )
        placed = {
            "optimizer": like_parameters(self.optimizer, state["optimizer"]),
            "callbacks": tree_map_only(Tensor, lambda value: value.to(self.device), state["callbacks"]),
        }
        for name in self.saved:
            if name != "scaler" or state[name]:  # empty where nothing was scaled
                getattr(self, name).load_state_dict(placed.get(name, state[name]))
        self.progress = Progress(**state["progress"])

    def close(self) -> None:
        """End the loaders' processes, and give Ctrl-C and SIGTERM back to who had them before."""
        try:
            self.valid_loader.__exit__()
            self.phases.close()
        finally:
            self.signals.restore()

    def _save_and_leave(self) -> None:
        """Save; leave if a signal asked any process for it."""
        self.save()
        if self.processes.highest(int(self.signals.leaving)):
            self.processes.from_main(self.checkpoints.wait)
            where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise Interrupted(f"fold {self.fold} is saved at {where}; the same command goes on from there")

    def _start_validation(self) -> None:
        self._trained = self._train_result()
        self._stage_began = time.monotonic()
        self.valid = self.validation()
        self.valid_raw = None if self.averages.ema is None else self.validation()
        self.model.eval()
        for model in (self.model, self.averages.scored(self.model)):
            self.processes.copy_from_main(model.buffers())  # each has seen its own share of the batches
        self.callbacks.on_epoch_start(self, "valid")
        following, part = self.progress.epoch + 1, self.parts["train"]
        if following < self.epochs and self.setup.epoch_configs[following] is part.config:
            self.phases.batches.begin(following, 0)
            part.loader.start()  # or the next epoch would wait for its first batches

    def _results(self) -> list[StageResult]:
        """What the stages of the epoch came to, on the main process, once all shares are there."""
        if self.valid is None:
            return [self._train_result()]
        raw = None if self.valid_raw is None else self.valid_raw.result(self.progress.epoch)
        seconds = time.monotonic() - self._stage_began
        return [self._trained, replace(self.valid.result(self.progress.epoch), seconds=seconds, raw=raw)]

    def _train_result(self) -> StageResult:
        seconds, waited = time.monotonic() - self._stage_began, self.parts["train"].loader.waited
        return StageResult("train", self.progress.epoch, self.sums.means(), seconds=seconds, waited=waited)
