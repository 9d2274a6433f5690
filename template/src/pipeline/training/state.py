"""What a fold's run remembers across a kill, as plain tensors, numbers and strings."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.training.schedules import AdaptiveFactor
from pipeline.types import Progress
from toolkit.errors import UserError

if TYPE_CHECKING:
    from pipeline.training.loop import FoldLoop


def loop_state(loop: "FoldLoop") -> dict[str, Any]:
    """All from which the same command goes on, whatever the engine and the number of processes."""
    return {
        "progress": asdict(loop.progress),
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scaler": loop.scaler.state_dict(),
        "factor": loop.factor.state_dict() if isinstance(loop.factor, AdaptiveFactor) else {},
        "averages": loop.averages.state_dict(),
        "sums": loop.sums.state_dict(),
        "callbacks": loop.callbacks.state_dict(),
        "batches_per_epoch": loop.batches_per_epoch,
    }


def load_loop_state(loop: "FoldLoop", state: dict[str, Any]) -> None:
    """Take up what `loop_state` gave.

    Raises:
        UserError: the training rows are not those that the state was saved with.
    """
    if state["batches_per_epoch"] != loop.batches_per_epoch:
        raise UserError(
            f"fold {loop.fold} had {state['batches_per_epoch']} batches an epoch and now has "
            f"{loop.batches_per_epoch}; its training rows changed: restore them, or begin anew with --restart"
        )
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty where nothing was scaled
        loop.scaler.load_state_dict(state["scaler"])
    if isinstance(loop.factor, AdaptiveFactor):
        loop.factor.load_state_dict(state["factor"])
    loop.averages.load_state_dict(state["averages"])
    loop.sums.load_state_dict(state["sums"])
    loop.callbacks.load_state_dict(state["callbacks"])
    loop.progress = Progress(**state["progress"])
