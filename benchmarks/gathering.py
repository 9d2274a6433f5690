"""What the processes of a training exchange in a step beside gradients, held against the averaging of gradients.

Two processes on this machine's CPU, which talk through gloo, as a training on CPUs would. Each calls what a step of
`Trainer` calls, with a network that costs nothing; the times are the main process's.
"""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from benchmarks.measure import Aim, Effort, Row, alone, in_turns
from benchmarks.workplace import Workplace
from projects import imported

PROCESSES = 2
BATCH = 32  # the samples of all processes
SIZES = (224, 32)
GRADIENT = 25_000_000  # numbers, as in a resnet50
CLASSES = 10
AIM = Aim("at most", 5.0)  # milliseconds
PEER = "all_reduce, 25 M float32"


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """A row for each size of images, and one for the averaging of gradients."""
    output = place.folder / "gather.json"
    with imported(place.project):
        from toolkit.launch import free_port

        job = (free_port(), place.project, effort.gather_rounds, output)
    multiprocessing.spawn(_measure_in_process, job, nprocs=PROCESSES)
    times = json.loads(output.read_text(encoding="utf-8"))
    rows = [
        alone("gather", f"exchange of a step, {BATCH} x {size} px, uint8", "ms", times[str(size)], AIM)
        for size in SIZES
    ]
    return [*rows, alone("gather", PEER, "ms", times[PEER])]


def _measure_in_process(rank: int, port: int, project: Path, rounds: int, output: Path) -> None:
    """One of the processes; the main one writes milliseconds by what was done."""
    size = str(PROCESSES)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with imported(project):
        from toolkit.distributed import joined

        with joined() as processes:
            functions: dict[str, Callable[[], object]] = {str(size): _step(processes, size) for size in SIZES}
            functions[PEER] = partial(distributed.all_reduce, torch.ones(GRADIENT))
            turns = {name: partial(_milliseconds, processes, function) for name, function in functions.items()}
            in_turns(turns, 2)
            times = in_turns(turns, rounds)
    if rank == 0:
        output.write_text(json.dumps(times), encoding="utf-8")


def _step(processes: Any, size: int) -> Callable[[], None]:
    """A training step of this process's share of a batch, without a network, an engine and what watches."""
    from pipeline.callbacks import CallbackList
    from pipeline.config import parse_experiment
    from pipeline.keys import INPUT_ID, INPUT_IMAGE
    from pipeline.losses.criterion import LossSums
    from pipeline.training.averaging import WeightAverages
    from pipeline.training.trainer import Trainer
    from pipeline.types import Progress
    from toolkit.signals import LeaveOnSignal

    share = BATCH // PROCESSES

    class Steps(Trainer):
        def __init__(self) -> None:
            self.processes, self.callbacks, self.sums = processes, CallbackList([]), LossSums()
            self.config, self.progress, self.signals = parse_experiment({}, "gather"), Progress(), LeaveOnSignal()
            self.optimizer, self.factor = torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda step: 1.0
            self.averages = WeightAverages(torch.nn.Identity(), self.config.averaging, 1)
            self.optimizer.param_groups[0]["initial_lr"] = 1.0
            self.batches_per_epoch, self._saved_at = 1_000_000, time.monotonic()

        def run_step(self, *_: Any) -> Any:
            loss = {"label": torch.ones(())}
            outputs: dict[str, Tensor] = {"output_label": torch.ones(share, CLASSES)}
            return {"loss": loss["label"], "losses": loss, "sample_losses": {}, "outputs": outputs}

    trainer = Steps()
    image = torch.zeros(share, size, size, 3, dtype=torch.uint8)
    batch = {INPUT_ID: [f"{number:012d}" for number in range(share)], INPUT_IMAGE: image}

    def step() -> None:
        trainer.train_batch(batch)
        trainer.gradients_ready()
        trainer.batch_end()

    return step


def _milliseconds(processes: Any, function: Callable[[], object]) -> float:
    processes.highest(0)
    began = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - began)
