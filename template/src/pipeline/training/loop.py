"""What an engine drives: one fold's run, with no framework in it."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.callbacks import CallbackList
from pipeline.competition import Head, Metric
from pipeline.config import Experiment
from pipeline.data.loaders import EpochBatches, TrainBatches
from pipeline.errors import Interrupted, UserError
from pipeline.inference.device import Precision, autocast
from pipeline.keys import INPUT_ID
from pipeline.seam import Batch, Best, Criterion, Progress, Stage, StageResult, Step, StepContext, StepResult, Verdict
from pipeline.tasks import Task, metric_values
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.optimizer import clip_gradients, set_learning_rate
from pipeline.training.schedules import Factor
from pipeline.training.seeds import seed_everything
from pipeline.training.signals import LeaveOnSignals
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
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        factor: Factor,
        criterion: Criterion,
        step: Step,
        train_loader: EpochBatches,
        train_batches: TrainBatches,
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
        self.model, self.optimizer, self.factor = model, optimizer, factor
        self.criterion, self.step = criterion, step
        self.train_loader, self.sampler = train_loader, train_batches
        self.valid_loader, self.valid_rows = valid_loader, valid_rows
        self.callbacks, self.checkpoints = callbacks, checkpoints
        self.device, self.precision = device, precision
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.progress = Progress()
        self.epochs = config.training.epochs
        set_learning_rate(optimizer, factor(0))
        self.batches_per_epoch = train_batches.batches_per_epoch
        self.sums: dict[Stage, LossSums] = {"train": LossSums(), "valid": LossSums()}
        self._valid_parts: list[pd.DataFrame] = []
        self._saved_at = self._stage_began = time.monotonic()
        self.signals = LeaveOnSignals()

    @property
    def best(self) -> Best | None:
        return self.checkpoints.best

    def train_batches(self) -> EpochBatches:
        self.sampler.begin(self.progress.epoch, self.progress.batch)
        return self.train_loader

    def valid_batches(self) -> EpochBatches:
        return self.valid_loader

    def epoch_start(self) -> None:
        if self.progress.batch == 0:
            self.sums["train"] = LossSums()
        self._stage_began = time.monotonic()
        self.model.train()
        self.callbacks.on_epoch_start(self, "train")

    def train_batch(self, batch: Batch) -> Tensor:
        self.callbacks.on_batch_start(self, "train", batch)
        seed_everything(self.config.seed, self.progress.epoch, self.progress.batch)
        result = self.run_step("train", batch)
        self.sums["train"].add(result, len(batch[INPUT_ID]))
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
        if not self._valid_parts:
            self._begin_validation()
        self.callbacks.on_batch_start(self, "valid", batch)
        with torch.no_grad():
            result = self.run_step("valid", batch)
        self.sums["valid"].add(result, len(batch[INPUT_ID]))
        self._valid_parts.append(self.task.decode(batch[INPUT_ID], result["outputs"]))
        self.callbacks.on_batch_end(self, "valid", batch, result)

    def epoch_end(self) -> None:
        results = [self._train_result] if self._valid_parts else [self._stage_result("train")]
        if self._valid_parts:
            results.append(self._stage_result("valid"))
        epoch = self.progress.epoch
        self.checkpoints.offer(self.model, epoch, self._score(results[-1]))
        self._valid_parts = []
        self.progress.epoch, self.progress.batch = epoch + 1, 0
        for result in results:
            self.callbacks.on_epoch_end(self, result)
        self.save()
        self._leave_if_asked()

    def score_rows(self, predictions: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, float]]:
        """Truth of the held-out rows in the order of `predictions`, and every metric."""
        truth = self.task.truth(self.valid_rows).loc[predictions.index]
        return truth, metric_values(self.metrics, truth, predictions, self.heads)

    def save(self) -> None:
        """Write the state from which the same command goes on."""
        self.checkpoints.save_state(
            {
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else {},
                "sums": self.sums["train"].state_dict(),
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
        self.sums["train"].load_state_dict(state["sums"])
        self.callbacks.load_state_dict(state["callbacks"])
        self.progress = Progress(**state["progress"])

    def watch_signals(self) -> None:
        self.signals.watch()

    def _leave_if_asked(self) -> None:
        if self.signals.leave:
            where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise Interrupted(f"fold {self.fold} is saved at {where}; the same command goes on from there")

    def run_step(self, stage: Stage, batch: Batch) -> StepResult:
        """The step on a batch that is on the device, in the loop's precision."""
        context = StepContext(stage, self.progress.epoch, self.progress.batch, self.progress.step, self.criterion)
        with autocast(self.device, self.precision):
            return self.step(batch, self.model, context)

    def _begin_validation(self) -> None:
        self._train_result = self._stage_result("train")
        self.sums["valid"] = LossSums()
        self._stage_began = time.monotonic()
        self.model.eval()
        self.callbacks.on_epoch_start(self, "valid")

    def _stage_result(self, stage: Stage) -> StageResult:
        losses = self.sums[stage].means()
        seconds = time.monotonic() - self._stage_began
        if stage == "train":
            return StageResult(stage, self.progress.epoch, losses, seconds=seconds)
        import pandas as pd

        predictions = pd.concat(self._valid_parts)
        truth, metrics = self.score_rows(predictions)
        return StageResult(stage, self.progress.epoch, losses, metrics, truth, predictions, seconds)

    def _score(self, result: StageResult) -> float:
        if result.stage == "train":  # everything trains: there is nothing to choose by, the last epoch counts
            return float(result.epoch)
        if self.config.training.monitor == "loss":
            return result.losses["loss"]
        return result.metrics[self.metrics[0].name]
