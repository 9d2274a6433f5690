"""What a step costs on a GPU beside a bare loop's; without a GPU, how often the host waits in one.

A loop trains as `train.py` would, on batches that lie on the device: what the loader adds is the row of `feed`. After
each block of steps the bare loop has its turn in the same process. A clock is read at the ends of blocks, after the
device is done. Without a GPU the trainings run on the pretended one of the tests, in a process of their own, and the
clock counts waits: so the same code is measured in either.
"""

import gc
import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.engine_step import CADENCE, BareLoop, InMemory, Variant, make_loop
from benchmarks.measure import Aim, Effort, Row, alone, beside
from benchmarks.workplace import ENGINES, Workplace, quiet
from projects import run_script

PEER = "bare step"
FIRST, ORDINARY, PICTURES = range(3)  # the epochs of a training
KEPT = 4  # distinct batches on the device
WAITS = Aim("at most", 0)
SMALL = ("training.max_rows=64", "tracking.every_steps=10")


@dataclass(frozen=True)
class Network:
    """What is trained; `aims` are those of its first, its ordinary and its epoch with pictures, as shares of the bare
    loop's rate, none for an epoch that has no row."""

    name: str
    batch_size: int
    settings: tuple[str, ...]
    aims: tuple[float | None, float | None, float | None]
    task: str = "classification"
    compiled: bool = False


TINY = ("model.encoder=convnext_tiny", "image.size=224")
ON_GPU = (
    Network("convnext_tiny 224 px", 128, TINY, (0.9, 0.97, 0.95)),
    Network("convnext_tiny 224 px, compiled", 128, TINY, (None, 0.95, None), compiled=True),
    Network("thin: resnet18 128 px", 64, ("model.encoder=resnet18", "image.size=128"), (None, 0.9, None)),
    Network(
        "Unet, resnet34 512 px", 16, ("model.encoder=resnet34", "image.size=512"), (0.9, 0.95, 0.95), "segmentation"
    ),
)
PRETENDED = (
    Network("test_resnet 32 px", 8, ("model.encoder=test_resnet", "image.size=32"), (None, 0, 0)),
    Network(
        "Unet, test_resnet 64 px",
        4,
        ("model.encoder=test_resnet", "image.size=64", "model.params={decoder_channels: [16, 16, 16, 8, 8]}"),
        (None, 0, 0),
        "segmentation",
    ),
)


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Rows of time on a GPU; else rows of waits, and a line that says so."""
    if torch.cuda.is_available():
        return on_gpu(place, effort)
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        print("gpu: there is no GPU here, and no C++ compiler for a pretended one; nothing is measured")
        return []
    print("gpu: there is no GPU here; counted are the waits of a step on a pretended one")
    places = {network.task: place.with_task(network.task) for network in PRETENDED}
    for each in places.values():
        assert each.project.is_dir()  # rendered by this process
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(
            on_pretended, {task: each.project for task, each in places.items()}, place.folder
        ).result()


def on_gpu(place: Workplace, effort: Effort) -> list[Row]:
    """Images per second of each network's epochs, then what is done once."""
    device, rows = torch.device("cuda", 0), []
    note = f"gpu: {torch.cuda.get_device_name()}, blocks of {CADENCE} steps on batches that lie there"

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    for network in ON_GPU:
        own = place.with_task(network.task)
        turns, once = trained(own, network, device, clock, effort.gpu_blocks)
        images = CADENCE * network.batch_size
        for epoch, (aim, words) in enumerate(zip(network.aims, ("first", "ordinary", "pictures"), strict=True)):
            if aim is not None:
                seconds, bare = turns.epochs[epoch]
                if epoch == FIRST:  # its slow beginning is what it is about; the bare loop's is the next epoch's
                    seconds, bare = [statistics.mean(seconds)], [statistics.median(turns.epochs[ORDINARY][1])]
                ours, peer = ([images / each for each in part] for part in (seconds, bare))
                name = f"{network.name}, {'an epoch with pictures' if epoch == PICTURES else f'{words} epoch'}"
                rows.append(beside("gpu", name, PEER, "/s", ours, peer, Aim("at least", aim), note))
        if network is ON_GPU[0]:
            rows.append(alone("gpu", "start to first step", "s", [once.start]))
            rows.append(beside("gpu", "save", "torch.save of both", "s", [once.save], [once.bare_save]))
    return [*rows, prediction(place)]


def on_pretended(projects: dict[str, Any], folder: Any) -> list[Row]:
    """Waits per step of each network's epochs, ours and the bare loop's."""
    os.environ["WANDB_MODE"] = "offline"
    from pretended_gpu.device import DEVICE, extension
    from pretended_gpu.server import tell_lightning

    tell_lightning()
    waits, rows = [0], []

    def heard(kind: str, operation: str, size: int) -> None:
        waits[0] += kind in ("read", "write")

    extension.listen(heard)
    for network in PRETENDED:
        place = Workplace(folder, ENGINES[0], network.task)
        place.project = projects[network.task]
        turns, _ = trained(place, network, DEVICE, lambda: float(waits[0]), 2)
        for epoch, words in ((ORDINARY, "an ordinary epoch"), (PICTURES, "an epoch with pictures")):
            ours, bare = ([count / CADENCE for count in part] for part in turns.epochs[epoch])
            note = "waits: reads, and copies that the host waits for, on the pretended GPU"
            rows.append(alone("gpu", f"{network.name}: waits of a step in {words}", "", ours, WAITS, note))
            rows.append(alone("gpu", f"{network.name}: waits of a bare step beside it", "", bare, WAITS, note))
    return rows


@dataclass
class Once:
    """Seconds of what is not a step."""

    start: float = 0.0  # from nothing to the end of the first step
    save: float = 0.0
    bare_save: float = 0.0


def trained(
    place: Workplace, network: Network, device: torch.device, clock: Callable[[], float], blocks: int
) -> "tuple[Turns, Once]":
    """One `fit` of three epochs with the bare loop's blocks in it; the third draws pictures."""
    gc.collect()
    once, began = Once(), time.perf_counter()
    precision = "auto" if device.type == "cuda" else "bf16"
    settings = ("model.pretrained=false", "watch.figure_epochs=3", *network.settings)
    variant = Variant("gpu", overrides=settings, device=device, precision=precision)
    with place.pipeline(), quiet():
        from pipeline import engine

        loop, names = make_loop(place, "gpu", network.batch_size, variant)
        stage = loop.phases.at(0)
        samples = InMemory(stage.loader.loader.dataset)
        batches = on_device(loop, samples)
        criterion = stage.criterion
        bare = BareLoop(loop, names, itertools.cycle(batches), lambda outputs, batch: criterion(outputs, batch)["loss"])
        if network.compiled:
            for model in (loop.model, bare.model):
                model.network.compile(dynamic=False)
        stage.loader = turns = Turns(batches, bare, clock, blocks)
        size, count = network.batch_size, len(turns)
        indices = [[(0, batch % KEPT * size + k) for k in range(size)] for batch in range(count)]
        turns.loader = SimpleNamespace(dataset=samples, batch_sampler=indices)
        loop.batches_per_epoch, loop.epochs = blocks * CADENCE, 3
        with closing(loop):
            loop.callbacks.on_run_start(loop)
            engine.fit(loop)
            once.start, once.save = turns.first - began, seconds_of(loop.save, clock)
            path = loop.folder / "bare.pt"
            both = {"model": bare.model, "optimizer": bare.optimizer}
            once.bare_save = seconds_of(
                lambda: torch.save({name: each.state_dict() for name, each in both.items()}, path), clock
            )
            loop.tracker.finish(succeeded=True)
    return turns, once


def on_device(loop: Any, samples: InMemory) -> list[dict[str, Any]]:
    """A few batches as the loader would give them."""
    from pipeline.data.loader import to_device

    size = loop.config.training.batch_size
    starts = range(0, KEPT * size, size)
    return [
        to_device(loop.task.collate([samples[(0, start + k)] for k in range(size)]), loop.device) for start in starts
    ]


def seconds_of(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long a call takes the host, once the device has done all before."""
    clock()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@dataclass
class Turns:
    """The engine's batches, which are on the device. After each block of them the bare loop has its turn; by how much
    the clock went on in both is kept, block by block, for each epoch."""

    batches: Sequence[dict[str, Any]]
    bare: BareLoop
    clock: Callable[[], float]
    blocks: int
    epochs: list[tuple[list[float], list[float]]] = field(default_factory=list)
    first: float = 0.0  # when the first step of all had ended
    waited: float = 0.0  # the alarm of a slow loader has nothing to say here
    loader: Any = None  # what gives the samples of its batches once more, for pictures

    def __len__(self) -> int:
        return self.blocks * CADENCE

    def __exit__(self, *_: object) -> None:
        """The trainer ends its loader, which here has no processes."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        ours, peer = list[float](), list[float]()
        self.epochs.append((ours, peer))
        batches = itertools.cycle(self.batches)
        for _ in range(self.blocks):
            began = self.clock()
            for _ in range(CADENCE):
                yield next(batches)
                self.first = self.first or time.perf_counter()
            between = self.clock()
            self.bare.block(CADENCE)
            ours.append(between - began)
            peer.append(self.clock() - between)


def prediction(place: Workplace) -> Row:
    """The demo's test rows with a trained fold, the start of all of it included."""
    (place.project / "experiments/predicts.yaml").write_text("extends: demo\n", encoding="utf-8")
    settings = ("training.epochs=1", "model.encoder=resnet18", "watch.figure_epochs=0", *SMALL)
    for script, *arguments in (("train.py", "predicts", *settings, "--fold", "0"), ("predict.py", "predicts")):
        began = time.perf_counter()
        result = run_script(place.project, script, *arguments)
        if result.status:
            raise RuntimeError(f"{script} failed: {result.stderr}")
    return alone("gpu", "predict.py, 500 rows, from its start", "s", [time.perf_counter() - began])
