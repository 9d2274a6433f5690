"""What is watched while training. Callbacks know no framework and no tracker.

Watchers never change a bit of the training. A callback is made by name from an experiment's `callbacks`; the ones of
`default_callbacks` are always there.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.registry import References
from pipeline.types import Batch, Run, Stage, StageResult, StepResult, Verdict

NAMES: References = {"callback": {"learning_test": "pipeline.callbacks.learning_test:LearningTest"}}


class HostCopy:
    """A tensor on its way to the host. The host waits for it when it asks for its values, and not before."""

    def __init__(self, values: Tensor) -> None:
        self.copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self.copy.copy_(values.detach(), non_blocking=True)
        self.event = torch.cuda.Event() if values.is_cuda else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(values.device))

    def is_there(self) -> bool:
        return self.event is None or self.event.query()

    def values(self) -> Tensor:
        """The values, on the CPU, once they are there."""
        if self.event is not None:
            self.event.synchronize()
        return self.copy


class Callback:
    """The events of a fold's run. Override what you need; the base does nothing, and is not called.

    Where several processes share each batch, a callback lives in the main one; with `every_process` it lives in each.
    It sees its process's share of a batch, and in training the losses of the whole batch.

    Attributes:
        every_process: True for what changes the training, and for what gathers something of every share.
        changes_gradients: False spares what lives in every process, and only watches, that gradients are averaged over
            the processes once more after it has seen them.
    """

    every_process = False
    changes_gradients = True

    def on_run_start(self, run: Run) -> None:
        """Before the first batch, also when a run continues (after `load_state_dict`)."""

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        """Before the first batch of a stage."""

    def on_batch_start(self, run: Run, stage: Stage, batch: Batch) -> None:
        """The batch is on the device."""

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        """After the step; tensors are on the device, and reading one waits for it (`HostCopy` does not)."""

    def on_gradients_ready(self, run: Run) -> Verdict:
        """Unscaled gradients, before clipping and before the optimiser steps; may veto the step."""
        return Verdict.GO

    def on_sync(self, run: Run) -> None:
        """After the optimiser's step, at the end of an epoch's training and before a state is saved: look at what is
        still on its way from the device."""

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        """After a stage; `result` holds losses and, for validation, metrics and tables."""

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        """After the last epoch; `result` is what the best weights predict for the held-out rows (none: all trained)."""

    def on_exception(self, run: Run, error: BaseException) -> None:
        """Training stops with an error or an interrupt."""

    def state_dict(self) -> dict[str, Any]:
        """Memory that must survive a kill: tensors, numbers, strings, lists and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; its tensors are on the run's device, wherever they were."""


def _calls(event: str) -> Callable[..., None]:
    """A method that calls this event of each callback that overrides it, in order."""

    def call(self: "CallbackList", *arguments: Any) -> None:
        for callback in self.overriding[event]:
            getattr(callback, event)(*arguments)

    return call


class CallbackList(Callback):
    """Several callbacks as one, asked in order.

    Args:
        is_main: whether this is the main process; in another one only those of every process are asked.
    """

    def __init__(self, callbacks: Sequence[Callback], is_main: bool = True) -> None:
        named = {f"{index}_{type(callback).__name__}": callback for index, callback in enumerate(callbacks)}
        self.named = {key: callback for key, callback in named.items() if is_main or callback.every_process}
        self.callbacks = list(self.named.values())
        self.overriding = {
            event: [each for each in self.callbacks if getattr(type(each), event) is not base]
            for event, base in vars(Callback).items()
            if event.startswith("on_")
        }

    on_run_start = _calls("on_run_start")
    on_epoch_start = _calls("on_epoch_start")
    on_batch_start = _calls("on_batch_start")
    on_batch_end = _calls("on_batch_end")
    on_sync = _calls("on_sync")
    on_epoch_end = _calls("on_epoch_end")
    on_run_end = _calls("on_run_end")
    on_exception = _calls("on_exception")

    def on_gradients_ready(self, run: Run) -> Verdict:
        verdict = Verdict.GO
        for callback in self.overriding["on_gradients_ready"]:
            verdict = max(verdict, callback.on_gradients_ready(run))
            if callback.every_process and callback.changes_gradients:
                run.processes.average_gradients(run.model)
        return verdict

    def state_dict(self) -> dict[str, Any]:
        return {key: callback.state_dict() for key, callback in self.named.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, callback in self.named.items():
            callback.load_state_dict(state.get(key, {}))


def engine_callback(callback: Callable[..., Any]) -> Any:
    """What a class or a factory makes. A function that needs arguments is a handler as it stands."""
    parameters = inspect.signature(callback).parameters.values()
    needs = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    is_handler = any(one.kind in needs and one.default is inspect.Parameter.empty for one in parameters)
    return callback if is_handler else callback()
