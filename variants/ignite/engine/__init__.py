"""Ignite as the engine: two `Engine`s, a trainer and an evaluator, run a fold; the loop is attached to their events.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports Ignite.
"""

import inspect
import logging
import warnings
from contextlib import nullcontext
from typing import Any

from ignite.engine import Engine, Events, State
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.types import Batch, Run, StepModule
from toolkit.errors import UserError

NAME = "ignite"


def fit(loop: Run) -> None:
    """Train from where the loop stands to its last epoch, or until a handler terminates the trainer."""
    logging.getLogger("ignite.engine").setLevel(logging.CRITICAL)  # an exception is told by who catches it
    trainer, evaluator = make_trainer(loop), make_evaluator(loop)
    attach_loop(loop, trainer, evaluator)
    trainer.load_state_dict(
        {
            "iteration": loop.progress.epoch * loop.batches_per_epoch + loop.progress.batch,
            "epoch_length": loop.batches_per_epoch,
            "max_epochs": loop.epochs,
        }
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP's, of no consequence
        trainer.run(loop.train_batches())


def make_trainer(loop: Run) -> Engine:
    """The engine that trains; its `state.output` is the loss of the batch, `state.run` what callbacks call the run.

    The step is not `supervised_training_step`: that one asks for pairs of input and target, counts accumulation windows
    across epochs, so that a short last one would not step, has no place between `backward` and `step` where gradients
    are unscaled, watched and clipped, and its autocast knows CUDA only.
    """
    module = distributed(loop)

    def training_step(trainer: Engine, batch: Batch) -> Tensor:
        window_ends = loop.window_ends
        waits = isinstance(module, DistributedDataParallel) and not window_ends
        with module.no_sync() if waits else nullcontext():
            loss: Tensor = module(batch)
            loop.scaler.scale(loss / loop.config.training.accumulate).backward()
        if window_ends:
            optimizer_step(loop)
        return loss.detach()

    trainer = Engine(training_step)
    trainer.state = State(run=loop)
    trainer.interrupt_resume_enabled = False  # `run` would return in the midst of an epoch; `terminate` is the way out
    return trainer


def optimizer_step(loop: Run) -> None:
    """What happens once the gradients of an accumulation window are there."""
    loop.scaler.unscale_(loop.optimizer)
    loop.gradients_ready()
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()
    loop.optimizer.zero_grad(set_to_none=True)
    loop.stepped()


def make_evaluator(loop: Run) -> Engine:
    """The engine that passes over the held-out rows, once an epoch."""

    def validation_step(evaluator: Engine, batch: Batch) -> None:
        loop.valid_batch(batch)

    evaluator = Engine(validation_step)
    evaluator.state = State(run=loop)
    evaluator.interrupt_resume_enabled = False
    return evaluator


def attach_loop(loop: Run, trainer: Engine, evaluator: Engine) -> None:
    """The loop opens an epoch before the user's handlers, and closes batch and epoch after them, so that what it saves
    is what they have left."""

    def validate() -> None:
        if len(loop.valid_batches()):
            evaluator.run(loop.valid_batches())

    def end_epoch(trainer: Engine) -> None:
        loop.epoch_end()
        if loop.progress.epoch < loop.epochs:
            trainer.set_data(loop.train_batches())

    trainer.add_event_handler(Events.EPOCH_STARTED, loop.epoch_start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    attach_handlers(loop, trainer, evaluator)
    trainer.add_event_handler(Events.STARTED, loop.watch_signals)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, loop.batch_end)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, end_epoch)
    for engine in (trainer, evaluator):
        engine.add_event_handler(Events.EXCEPTION_RAISED, raise_again)


def attach_handlers(loop: Run, trainer: Engine, evaluator: Engine) -> None:
    """What the experiment names under `engine_callbacks`: `attach(trainer)`, or a call with trainer and evaluator."""
    for handler in loop.engine_callbacks:
        engines = [trainer] if hasattr(handler, "attach") else [trainer, evaluator]
        attach = getattr(handler, "attach", handler)
        try:
            inspect.signature(attach).bind(*engines)
        except (TypeError, ValueError) as error:  # no function, one without a signature, or one of another kind
            raise UserError(
                f"engine_callbacks: {type(handler).__name__} can be neither attached to a trainer nor called with "
                "trainer and evaluator; give a function of the two, or an object with attach(trainer)"
            ) from error
        attach(*engines)


def raise_again(error: BaseException) -> None:
    """Ignite takes an exception that a handler has seen for dealt with, and would train on."""
    raise error


def distributed(loop: Run) -> Any:
    """The training step as a module; where several processes train together, it averages their gradients.

    Not by `idist.auto_model`: it compares the name of the backend with `nccl` and `gloo`, does not know
    `cpu:gloo,cuda:nccl`, which is what the pipeline starts with GPUs, and then leaves the model as it is.
    """
    module = StepModule(loop)
    if loop.processes.size == 1:
        return module
    # A frozen part, or a head without a loss, has no gradient to wait for.
    return DistributedDataParallel(module, find_unused_parameters=True)
