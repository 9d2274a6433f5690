"""Ignite as the engine: two `Engine`s, a trainer and an evaluator, run a fold; the run is attached to their events.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports Ignite.
"""

import inspect
import logging
import warnings
from contextlib import nullcontext

from ignite.engine import Engine, Events, State
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.types import Batch, Run, StepModule
from toolkit.errors import UserError

NAME = "ignite"


def fit(run: Run) -> None:
    """Train from where the run stands to its last epoch, or until a handler terminates the trainer."""
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)  # an exception is told by who catches it
    trainer, evaluator = make_trainer(run), Engine(lambda evaluator, batch: run.valid_batch(batch))
    for engine in (trainer, evaluator):
        engine.state = State(run=run)  # what callbacks call it
        engine.interrupt_resume_enabled = False  # `run` would return amid an epoch; `terminate` is the way out
    attach(run, trainer, evaluator)
    done = run.progress.epoch * run.batches_per_epoch + run.progress.batch
    trainer.load_state_dict({"iteration": done, "epoch_length": run.batches_per_epoch, "max_epochs": run.epochs})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP's, of no consequence
        trainer.run(run.train_batches())


def make_trainer(run: Run) -> Engine:
    """The engine that trains; its `state.output` is the loss of the batch.

    The step is not `supervised_training_step`: that one asks for pairs of input and target, counts accumulation windows
    across epochs, so that a short last one would not step, has no place between `backward` and `step` where gradients
    are unscaled, watched and clipped, and its autocast knows CUDA only. And it is not wrapped by `idist.auto_model`,
    which does not know the backend `cpu:gloo,cuda:nccl`.
    """
    module = run.processes.data_parallel(StepModule(run))

    def training_step(trainer: Engine, batch: Batch) -> Tensor:
        waits = isinstance(module, DistributedDataParallel) and not run.window_ends
        with module.no_sync() if waits else nullcontext():  # type: ignore[operator]
            loss: Tensor = module(batch)
            run.scaler.scale(loss / run.config.training.accumulate).backward()
        if run.window_ends:
            run.optimizer_step()
        return loss.detach()

    return Engine(training_step)


def attach(run: Run, trainer: Engine, evaluator: Engine) -> None:
    """The run opens an epoch before the user's handlers, and closes batch and epoch after them, so that what it saves
    is what they have left."""

    def validate() -> None:
        if len(run.valid_loader):
            evaluator.run(run.valid_loader)

    def end_epoch(trainer: Engine) -> None:
        run.epoch_end()
        if run.progress.epoch < run.epochs:
            trainer.set_data(run.train_batches())

    def raise_again(error: BaseException) -> None:
        raise error  # Ignite takes an exception that a handler has seen for dealt with, and would train on

    trainer.add_event_handler(Events.EPOCH_STARTED, run.epoch_start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    for handler in run.engine_callbacks:  # `attach(trainer)`, or a call with trainer and evaluator
        engines = [trainer] if hasattr(handler, "attach") else [trainer, evaluator]
        call = getattr(handler, "attach", handler)
        try:
            inspect.signature(call).bind(*engines)
        except (TypeError, ValueError) as error:  # no function, one without a signature, or one of another kind
            raise UserError(
                f"engine_callbacks: {type(handler).__name__} can be neither attached to a trainer nor called with "
                "trainer and evaluator; give a function of the two, or an object with attach(trainer)"
            ) from error
        call(*engines)
    trainer.add_event_handler(Events.STARTED, run.signals.watch)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, run.batch_end)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, end_epoch)
    for engine in (trainer, evaluator):
        engine.add_event_handler(Events.EXCEPTION_RAISED, raise_again)
