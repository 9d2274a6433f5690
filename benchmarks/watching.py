"""A fold's training with everything that watches it, over the same training unwatched."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import Aim, Effort, Row, alone, beside, in_turns
from benchmarks.workplace import Workplace, quiet

AIM = Aim("at most", 1.05)
SETTINGS = (
    "machine.device=cpu",
    "machine.workers=0",
    "training.precision=fp32",
    "model.encoder=resnet18",
    "image.size=64",
)
NOTE = "watch: fold 0 of the demo, resnet18, 64 px, 8 epochs of 32 steps, processor time; local files and TensorBoard"


@dataclass(frozen=True)
class Spent:
    """Processor seconds of the epochs, of the whole fold to its last picture, and of all callbacks in it."""

    epochs: float
    fold: float
    callbacks: float


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """A fold to its last picture; and what the pictures behind its epochs take, which is the same for any model."""
    spent: dict[str, list[Spent]] = {"ours": [], "peer": []}
    with place.pipeline(), quiet():
        functions = {"ours": lambda: _kept(spent, place, True), "peer": lambda: _kept(spent, place, False)}
        in_turns(functions, effort.watch_rounds)
    ours, peer = ([one.fold for one in spent[name]] for name in ("ours", "peer"))
    pairs = zip(spent["ours"], spent["peer"], strict=True)
    pictures = [(mine.fold - mine.epochs) - (other.fold - other.epochs) for mine, other in pairs]
    return [
        beside("watch", "a fold, watched", "unwatched", "s", ours, peer, AIM, NOTE),
        # Two trainings differ by a percent or two by themselves; this is from within one.
        alone("watch", "of it, in callbacks", "s", [one.callbacks for one in spent["ours"]]),
        alone("watch", "of it, pictures behind the epochs", "s", pictures),
    ]


def _kept(spent: dict[str, list[Spent]], place: Workplace, watched: bool) -> float:
    found = trained(place, watched)
    spent["ours" if watched else "peer"].append(found)
    return found.fold


def trained(place: Workplace, watched: bool) -> Spent:
    """Train a fold."""
    from pipeline.callbacks import CallbackList
    from pipeline.training import fold, trainer
    from pipeline.training.run_folder import open_run

    (place.project / "experiments/watch.yaml").write_text("extends: demo\n", encoding="utf-8")
    setup = place.setup("watch", SETTINGS, ("tensorboard",))
    open_run(setup, ("0",), True, "benchmark")
    folder = setup.project.run("watch") / "fold_0"
    usual, fit, epochs, inside = trainer.default_callbacks, fold.engine.fit, [], [0.0]
    events = {name: event for name, event in vars(CallbackList).items() if name.startswith("on_")}

    def timed(loop: Any) -> None:
        began = time.thread_time()
        fit(loop)
        epochs.append(time.thread_time() - began)

    def counted(event: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return event(*arguments)
            finally:
                inside[0] += time.thread_time() - began

        return measured

    for name, event in events.items():
        setattr(CallbackList, name, counted(event))
    trainer.default_callbacks = usual if watched else lambda *_: []
    fold.engine.fit = timed
    began = time.thread_time()
    try:
        fold.train_fold(setup, "0", folder, torch.device("cpu"), False, fold.ALONE)
    finally:
        trainer.default_callbacks, fold.engine.fit = usual, fit
        for name, event in events.items():
            setattr(CallbackList, name, event)
    return Spent(epochs[0], time.thread_time() - began, inside[0])
