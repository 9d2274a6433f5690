"""fastai as the engine: its Learner owns the loop of a fold's run, and its callbacks see every event of it.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports fastai; of that, only what a Learner needs: `fastai.basics`, which nearly every other module of it
imports, changes options of pandas.
"""

import warnings
from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from pipeline.types import Batch, Batches, Run, StepModule
from toolkit.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch's, about layers of fastai that nothing here uses
    from fastai.callback.core import Callback, CancelBackwardException, CancelStepException, TrainEvalCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

NAME = "fastai"


class FoldLearner(Learner):
    """Calls the run at the places of fastai's loop that `Run` promises.

    `model` is the training step: batch dict in, loss out. A callback finds the batch in `xb` and in `yb`, the loss of
    a training batch in `pred`, `loss_grad` and `loss`, and the run in `loop`. A held-out batch has no `yb`: the run
    keeps what the metrics need, so of its events there are `before_batch` and `after_batch`.

    The run is called from methods and not from a callback, because fastai writes words of its own over the message of
    an exception that leaves a callback.
    """

    def __init__(self, loop: Run) -> None:
        self.loop = loop
        super().__init__(
            DataLoaders(loop.train_batches(), loop.valid_loader),
            loop.processes.data_parallel(StepModule(loop)),  # `DistributedTrainer` would share out the batches again
            loss_func=lambda loss, batch: loss,  # fastai wants one of prediction and target; the step has made it
            cbs=[Counters(), *loop.engine_callbacks],
            default_cbs=False,  # they print, read a loss back at every batch, and move the model
        )
        self.opt = OptimWrapper(opt=loop.optimizer)  # as `opt_func` it would lose the state that a resume has loaded

    def __call__(self, event_name: str | list[str]) -> None:
        if isinstance(event_name, str):
            self._call_one(event_name)  # eight times a step; fastai would make a list of the one name first
        else:
            super().__call__(event_name)

    def _do_epoch(self) -> None:
        super()._do_epoch()
        self.loop.epoch_end()

    def _do_epoch_train(self) -> None:
        self.loop.epoch_start()
        self.dls.train = self.loop.train_batches()  # others where the settings change, and fewer after a resume
        super()._do_epoch_train()

    def _do_epoch_validate(self, ds_idx: int = 1, dl: Batches | None = None) -> None:
        if len(self.loop.valid_loader):
            super()._do_epoch_validate(ds_idx, dl)

    def all_batches(self) -> None:
        first = self.loop.progress.batch if self.training else 0
        self.n_iter = first + len(self.dl)
        for i, batch in enumerate(self.dl, first):
            self.one_batch(i, batch)

    def one_batch(self, i: int, b: Batch) -> None:
        super().one_batch(i, b)
        if self.training:
            self.loop.batch_end()

    def _set_device(self, b: Batch) -> Batch:
        return b  # it is there, and fastai would look into every string of it

    def _split(self, b: Batch) -> None:
        self.xb, self.yb = (b,), (b,) if self.training else ()

    def _do_one_batch(self) -> None:
        if not self.training:
            self.loop.valid_batch(*self.xb)
            return
        # Several processes average their gradients only where the optimiser steps.
        waits = isinstance(self.model, DistributedDataParallel) and not self.loop.window_ends
        with self.model.no_sync() if waits else nullcontext():
            super()._do_one_batch()

    def _do_grad_opt(self) -> None:
        # `GradientAccumulation` counts samples, and takes those of a short last window into the next epoch.
        self._with_events(self._backward, "backward", CancelBackwardException)
        if self.loop.window_ends:
            self.loop.scaler.unscale_(self.loop.optimizer)  # before callbacks see the gradients, or clip them
            self._with_events(self._step, "step", CancelStepException)
            self.loop.scaler.update()
            self.opt.zero_grad()

    def _backward(self) -> None:
        # `MixedPrecision` has a scaler of its own, which no resume would bring back, and asks for CUDA.
        self.loop.scaler.scale(self.loss_grad / self.loop.config.training.accumulate).backward()

    def _step(self) -> None:
        self.loop.gradients_ready()
        self.loop.scaler.step(self.loop.optimizer)


class Counters(TrainEvalCallback):
    """What fastai counts, also right after a resume. Where the model is and in which mode is the run's to say."""

    def before_fit(self) -> None:
        progress, batches = self.loop.progress, self.loop.batches_per_epoch
        self.learn.epoch, self.learn.loss = progress.epoch, torch.tensor(0.0)
        self.learn.train_iter = progress.epoch * batches + progress.batch
        self.learn.pct_train = self.train_iter / (batches * self.loop.epochs)

    def before_train(self) -> None:
        done = self.loop.progress.batch / self.loop.batches_per_epoch
        self.learn.pct_train = (self.epoch + done) / self.n_epoch
        self.learn.training = True

    def before_validate(self) -> None:
        self.learn.training = False


def fit(loop: Run) -> None:
    """Train from where the run stands to its last epoch."""
    for callback in loop.engine_callbacks:
        if not isinstance(callback, Callback):
            name = type(callback).__name__
            raise UserError(f"engine_callbacks: {name} is no fastai.callback.core.Callback; derive it from that")
    learn = FoldLearner(loop)
    loop.signals.watch()
    rates = [group["lr"] for group in loop.optimizer.param_groups]  # fastai sets rates at the start: to what they are
    learn.fit(loop.epochs, lr=rates, start_epoch=loop.progress.epoch)
