"""Catalyst as the engine: its runner owns the loop of a fold's run, its callbacks the backward pass and the steps.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports Catalyst, and Accelerate, which Catalyst's own `Engine` is made of.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from catalyst.core import runner as catalyst_runner
from catalyst.core.callback import Callback, IBackwardCallback, IOptimizerCallback
from catalyst.core.engine import Engine
from catalyst.core.runner import IRunner

from pipeline.types import Batch, Batches, Run, StepModule
from toolkit.errors import UserError

NAME = "catalyst"


class FoldRunner(IRunner):
    """Passes Catalyst's events on to the run, in the order that `Run` promises.

    A callback finds `runner.model` (the `PreparedModel` itself), `runner.optimizer`, `runner.batch` (on the device) and
    `runner.batch_metrics["loss"]`. `epoch_step` and `loader_batch_step` go on where a continued run stood. Callbacks
    run by their `order`, equal ones as the experiment names them.
    """

    model: Any

    def __init__(self, loop: Run) -> None:
        super().__init__()
        self.loop = loop

    @property
    def num_epochs(self) -> int:
        return self.loop.epochs

    def get_engine(self) -> Engine:
        """For one device, or for this process's part of several, which are found by their environment; the engines that
        Catalyst names after their devices would start some of their own."""
        engine = Engine(
            cpu=self.loop.device.type == "cpu",
            device_placement=False,  # model, optimiser and batches are there
            mixed_precision="no",  # the run autocasts its steps; here it would be one precision for the whole process
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=self.loop.config.training.accumulate),
            # A frozen part, or a head without a loss, has no gradient to wait for.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        engine.scaler = self.loop.scaler  # the run's own one, so that it can be resumed
        return engine

    def get_loaders(self) -> dict[str, "Loader"]:
        batches = {"train": self.loop.train_batches(), "valid": self.loop.valid_loader}
        return {key: Loader(found, self.loop) for key, found in batches.items() if len(found)}

    def get_model(self) -> StepModule:
        return StepModule(self.loop)

    def get_optimizer(self, model: StepModule) -> torch.optim.Optimizer:
        return self.loop.optimizer

    def get_callbacks(self) -> list[Callback]:
        return [BackwardCallback(), OptimizerCallback(), *self.loop.engine_callbacks]

    def on_experiment_start(self, runner: IRunner) -> None:
        super().on_experiment_start(runner)
        self.step = self.model  # the prepared `StepModule`, which DDP may have wrapped
        self.model = self.loop.model
        self.epoch_step = self.loop.progress.epoch
        self.loop.signals.watch()

    def on_epoch_start(self, runner: IRunner) -> None:
        self.loaders = self.get_loaders()  # an epoch that continues is shorter than the next one
        super().on_epoch_start(runner)

    def on_loader_start(self, runner: IRunner) -> None:
        super().on_loader_start(runner)
        if self.is_train_loader:
            self.loader_batch_step = self.loop.progress.batch * self.engine.num_processes
            self.loop.epoch_start()  # Catalyst has just put all of the model into training mode, frozen parts as well

    def handle_batch(self, batch: Batch) -> None:
        if self.is_valid_loader:
            self.loop.valid_batch(batch)
            return
        # Accelerate counts batches by itself only for a loader of its own making, which would share the rows anew.
        self.engine.sync_gradients = self.loop.window_ends
        with nullcontext() if self.engine.sync_gradients else self.engine.no_sync(self.step):
            self.batch_metrics["loss"] = self.step(batch)

    def on_batch_end(self, runner: IRunner) -> None:
        super().on_batch_end(runner)
        if self.is_train_loader:
            self.loop.batch_end()  # after all callbacks

    def on_epoch_end(self, runner: IRunner) -> None:
        super().on_epoch_end(runner)
        self.loop.epoch_end()


class BackwardCallback(IBackwardCallback):
    """Differentiates the batch's loss; Catalyst's own one clips each batch's gradients instead of a window's."""

    def on_batch_end(self, runner: FoldRunner) -> None:
        if runner.is_train_loader:
            runner.engine.backward(runner.batch_metrics["loss"])  # divided by `training.accumulate`, and scaled
            runner.batch_metrics["loss"] = runner.batch_metrics["loss"].detach()


class OptimizerCallback(IOptimizerCallback):
    """Steps where a window ends; Catalyst's own one counts batches, so that an epoch's last window would not end.

    Not through `runner.optimizer`: Accelerate looks all of `sys.path` over for an optional package at each step.
    """

    def on_batch_end(self, runner: FoldRunner) -> None:
        if runner.is_train_loader and runner.engine.sync_gradients:
            runner.loop.optimizer_step()


class Loader:
    """The run's batches as a runner reads a loader, on the device."""

    sampler = None  # shared among several processes already
    batch_sampler = None

    def __init__(self, batches: Batches, loop: Run) -> None:
        self.batches = batches
        self.batch_size = loop.config.training.batch_size // loop.processes.size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def fit(loop: Run) -> None:
    """Train from where the run stands to its last epoch."""
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    for callback in loop.engine_callbacks:
        if not isinstance(callback, Callback):
            name = type(callback).__name__
            raise UserError(f"engine_callbacks: {name} is no catalyst.dl.Callback; derive it from that")
    # Catalyst seeds everything anew with each epoch and each loader; what is drawn in a run is the run's affair.
    with patch.object(catalyst_runner, "set_global_seed", lambda seed: None), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP's, of no consequence
        FoldRunner(loop).run()
