"""A fold's whole training with everything that watches it, over the same training unwatched."""

import time

import torch

from benchmarks.measure import Aim, Effort, Row, beside, in_turns
from benchmarks.workplace import Workplace, quiet

AIM = Aim("at most", 1.05)
SETTINGS = ("machine.device=cpu", "machine.workers=0", "training.precision=fp32")


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Processor seconds of the demo's fold 0, from its first step to its last picture, with TensorBoard."""
    with place.pipeline(), quiet():
        functions = {"ours": lambda: trained(place, watched=True), "peer": lambda: trained(place, watched=False)}
        times = in_turns(functions, effort.watch_rounds)
    note = "watch: the demo's resnet10t, 32 px, 8 epochs of 32 steps; numbers, pictures, the hunt for NaN and all"
    return [beside("watch", "training of a fold, watched", "unwatched", "s", times["ours"], times["peer"], AIM, note)]


def trained(place: Workplace, watched: bool) -> float:
    """Train a fold; the processor seconds that it took."""
    from pipeline.training import build, fold
    from pipeline.training.run_folder import open_run, set_aside

    (place.project / "experiments/watch.yaml").write_text("extends: demo\n", encoding="utf-8")
    setup = place.setup("watch", SETTINGS, ("tensorboard",))
    set_aside(setup.project, "watch")
    folder = open_run(setup.project, "watch", setup.config, {}, "benchmark") / "fold_0"
    usual = build.default_callbacks
    build.default_callbacks = usual if watched else lambda *_: []
    began = time.thread_time()
    try:
        fold.train_unfinished(setup, "0", folder, torch.device("cpu"), False, fold.ALONE)
    finally:
        build.default_callbacks = usual
    return time.thread_time() - began
