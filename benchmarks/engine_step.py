"""Training steps of each engine over a bare PyTorch loop.

An engine runs one long epoch as `train.py` would: its callbacks, its trackers, its logging cadence. Its batches come
from an iterable that, after each block of them, lets the bare loop do a block as well. So the two take turns every
quarter of a second, inside one `fit`, and the time from the request of a block's first batch to the request of the
next block's is what the steps of that block cost.
"""

import copy
import csv
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Aim, Effort, Row, alone, beside
from benchmarks.workplace import ENGINES, Workplace, quiet

AIM = Aim("at most", 1.03)
STEP_MS = 25  # the step that the aim speaks of
COST_AIM = Aim("at most", 0.75)  # the same in milliseconds
# The demo's network with next to nothing to compute: what is left of a step is what the engine adds.
THIN = ("image.size=16", "model.params={encoder_params: {channels: [4, 4, 4, 4], stem_width: 4, stem_type: ''}}")
CPU = torch.device("cpu")
CADENCE = 10  # the trackers log every so many steps; a block is as long, so that each one logs once
WARM_UP = 2  # blocks that are not counted
SAMPLES = 256  # distinct images
PEER = "bare PyTorch loop"


@dataclass(frozen=True)
class Variant:
    """How the run is watched."""

    name: str
    trackers: tuple[str, ...] = ()
    terminal: bool = False
    overrides: tuple[str, ...] = ()
    clock: Callable[[], float] = time.perf_counter
    device: torch.device = CPU
    precision: str = "fp32"


WATCHED = Variant("W&B offline", ("wandb",))  # the one that engines are compared by
FURTHER = (  # how the default engine's runs are watched besides
    Variant("local files only"),
    Variant("TensorBoard", ("tensorboard",)),
    Variant("W&B offline, a terminal's bar", ("wandb",), terminal=True),
)
COST = Variant("own cost", ("wandb",), overrides=THIN, clock=time.thread_time)


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """A row for each engine and for each further way of watching; then what each engine costs."""
    with place.pipeline(), quiet():
        batch_size = calibrated_batch_size(place)
    places = {engine: place.with_engine(engine) for engine in ENGINES}
    watched = [(engine, WATCHED) for engine in ENGINES] + [(ENGINES[0], variant) for variant in FURTHER]
    ratios = [ratio_row(places[engine], variant, batch_size, effort) for engine, variant in watched]
    return [*ratios, *(cost_row(places[engine], effort) for engine in ENGINES)]


def ratio_row(place: Workplace, variant: Variant, batch_size: int, effort: Effort) -> Row:
    """A step of about `STEP_MS` beside the bare loop's."""
    turns = run_variant(place, variant, batch_size, effort.step_pairs)
    ours, peer = ([1000 * seconds / CADENCE for seconds in part] for part in (turns.ours, turns.peer))
    note = f"step: resnet10t, 32 px, batches of {batch_size} from memory, fp32, blocks of {CADENCE} steps"
    return beside("step", f"step of {place.engine}, {variant.name}", PEER, "ms", ours, peer, AIM, note)


def cost_row(place: Workplace, effort: Effort) -> Row:
    """What a step takes more than the bare loop's, in processor time of a thin network: the ratio's small difference
    of large numbers drowns when the machine is busy, this one does not."""
    turns = run_variant(place, COST, 8, 2 * effort.step_pairs)
    more = [1000 * (ours - peer) / CADENCE for ours, peer in zip(turns.ours, turns.peer, strict=True)]
    note = f"own cost: processor time beyond the bare loop's, a thin network; 3 % of {STEP_MS} ms is the aim"
    return alone("step", f"{place.engine}'s own cost of a step", "ms", more, COST_AIM, note)


def run_variant(place: Workplace, variant: Variant, batch_size: int, pairs: int) -> "Turns":
    """One `fit` with the bare loop's blocks in it."""
    gc.collect()
    with place.pipeline(), quiet():
        from pipeline import engine

        assert place.engine == engine.NAME
        loop, names = make_loop(place, "step", batch_size, variant)
        steps = (WARM_UP + pairs) * CADENCE
        stage = loop.phases.at(0)
        samples = InMemory(stage.loader.loader.dataset)
        bare = BareLoop(loop, names, memory_loader(loop, samples, steps)[0])
        loader, loop.phases.batches = memory_loader(loop, samples, steps)
        stage.loader = turns = Turns(loader, bare, variant.clock)
        loop.batches_per_epoch, loop.epochs = steps, 1
        with Path(os.devnull).open("w") as nowhere, closing(loop):
            if variant.terminal:
                draw_bar(loop, Console(file=nowhere, force_terminal=True, width=100))
            loop.callbacks.on_run_start(loop)
            engine.fit(loop)
            loop.tracker.finish(succeeded=True)
        require_same_work(loop.folder / "metrics.csv", bare.losses)
    return turns


def make_loop(place: Workplace, name: str, batch_size: int, variant: Variant) -> tuple[Any, Any]:
    """The loop of a fold that trains on everything, so that an epoch is nothing but steps; and the table of names."""
    from pipeline.trackers import make_tracker
    from pipeline.training.run_folder import open_run
    from pipeline.training.trainer import Trainer

    # Many epochs, of which one is run: the schedule then stays away from its end, where the rate is zero.
    overrides = [
        "machine.device=cpu",
        "machine.workers=0",
        f"training.precision={variant.precision}",
        f"training.batch_size={batch_size}",
        "training.epochs=500",
        f"tracking.every_steps={CADENCE}",
        *variant.overrides,
    ]
    (place.project / "experiments" / f"{name}.yaml").write_text("extends: demo\n", encoding="utf-8")
    setup = place.setup(name, overrides, variant.trackers)
    open_run(setup, ("full",), True, "benchmark")
    folder = setup.project.run(name) / "fold_full"
    loop = Trainer(setup, "full", folder, variant.device)
    loop.tracker = make_tracker(setup.run_info("full", folder, 0), variant.trackers)
    return loop, setup.names


def memory_loader(loop: Any, samples: "InMemory", steps: int) -> "tuple[DataLoader[dict[str, Any]], Any]":
    """A loader and its sampler as the pipeline makes them, for one epoch of `steps` batches."""
    from pipeline.data.loader import TrainBatches, make_loader

    rows, size = loop.phases.batches.rows, loop.phases.batches.batch_size
    many = rows.iloc[np.resize(np.arange(len(rows)), steps * size)]
    batches = TrainBatches(many, loop.phases.batches.order, size, loop.config.seed)
    return make_loader(samples, batches, loop.task.collate, 0, loop.device), batches


class InMemory(Dataset[dict[str, Any]]):
    """The first samples of a dataset, read beforehand: reading them is another row's business."""

    def __init__(self, dataset: Any) -> None:
        self.samples: list[dict[str, Any]] = [dataset[(0, row)] for row in range(min(SAMPLES, len(dataset)))]

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        return self.samples[index[1] % len(self.samples)]


class BareLoop:
    """What anyone would write: forward, loss, backward, step, and the next learning rate. Nothing else. Without a
    `loss` of (outputs, batch) it is cross-entropy."""

    def __init__(
        self,
        loop: Any,
        names: Any,
        batches: Iterable[dict[str, Any]],
        loss: Callable[[Mapping[str, torch.Tensor], dict[str, Any]], torch.Tensor] | None = None,
    ) -> None:
        from pipeline.inference.device import autocast
        from pipeline.training.optimizer import make_optimizer

        self.model = copy.deepcopy(loop.model).train()
        fused = loop.device.type in ("cpu", "cuda")
        self.optimizer = make_optimizer(self.model, loop.config.optimizer, names, fused=fused)
        self.autocast = nullcontext() if loop.precision == "fp32" else autocast(loop.device, loop.precision)
        self.factor, self.loss = loop.factor, loss or self._cross_entropy
        self.output_key, self.target_key = loop.heads[0].output_key, loop.heads[0].target_key
        self.batches = iter(batches)
        self.done = 0
        self.losses: list[torch.Tensor] = []  # the first of every block
        self._set_rate()

    def block(self, steps: int) -> None:
        """Train for some steps."""
        for number in range(steps):
            batch = next(self.batches)
            with self.autocast:
                loss = self.loss(self.model(batch), batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            self._set_rate()
            if number == 0:
                self.losses.append(loss.detach())

    def _cross_entropy(self, outputs: Mapping[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        return functional.cross_entropy(outputs[self.output_key], batch[self.target_key])

    def _set_rate(self) -> None:
        rate = self.factor(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate


@dataclass
class Turns:
    """The engine's batches. After each block of them the bare loop has its turn; the seconds of both are kept."""

    loader: "DataLoader[dict[str, Any]]"
    bare: BareLoop
    clock: Callable[[], float]
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    waited: float = 0.0  # the alarm of a slow loader has nothing to say here

    def __len__(self) -> int:
        return len(self.loader)

    def __exit__(self, *_: object) -> None:
        """The trainer ends its loader, which here has no processes."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self.loader)
        for block in range(len(self) // CADENCE):
            began = self.clock()
            for _ in range(CADENCE):
                yield next(batches)
            between = self.clock()
            self.bare.block(CADENCE)
            if block >= WARM_UP:
                self.ours.append(between - began)
                self.peer.append(self.clock() - between)


def calibrated_batch_size(place: Workplace) -> int:
    """The batch size, in fours, whose bare step takes about `STEP_MS` on this machine."""
    size = 32
    for _ in range(2):  # the second look corrects what does not grow with the batch
        loop, names = make_loop(place, "calibration", size, FURTHER[0])
        bare = BareLoop(loop, names, memory_loader(loop, InMemory(loop.phases.at(0).loader.loader.dataset), 30)[0])
        bare.block(5)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            bare.block(5)
            times.append((time.perf_counter() - began) / 5)
        size = max(4, 4 * round(size * STEP_MS / 1000 / statistics.median(times) / 4))
    return size


def draw_bar(loop: Any, console: Console) -> None:
    """Let the run draw its bar as it does in a terminal."""
    from pipeline.callbacks.log import Log

    for callback in loop.callbacks.callbacks:
        if isinstance(callback, Log):
            callback.out = console


def require_same_work(metrics: Path, losses: Sequence[torch.Tensor]) -> None:
    """The losses that the engine logged in the first blocks are the bare loop's; otherwise the ratio means nothing."""
    with metrics.open(encoding="utf-8", newline="") as file:
        logged = [float(row["batch/loss"]) for row in csv.DictReader(file) if row["batch/loss"]]
    for block, (ours, bare) in enumerate(zip(logged[:3], losses[:3], strict=True)):
        if not math.isclose(ours, bare.item(), rel_tol=0.01):
            raise RuntimeError(f"engine and bare loop part at step {block * CADENCE}: loss {ours} and {bare.item()}")
