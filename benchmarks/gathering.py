"""What it costs that the main process of several sees whole batches, over the averaging of gradients.

Two processes on this machine's CPU, which talk through gloo, as a training on CPUs would. They do the same calls in the
same order; the times are the main process's.
"""

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing

from benchmarks.measure import Effort, Row, alone, beside, in_turns
from benchmarks.workplace import Workplace
from projects import imported

PROCESSES = 2
BATCH = 32  # the samples of all processes
SIZES = (256, 32)
GRADIENT = 25_000_000  # numbers, as in a resnet50
CLASSES = 10
PEER = "all_reduce, 25 M float32"
REST = "the step's result and votes"


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """A row for each size of images, and one for what a step asks of the others besides."""
    output = place.folder / "gather.json"
    with imported(place.project):
        from toolkit.launch import free_port

        job = (free_port(), place.project, effort.gather_rounds, output)
    multiprocessing.spawn(_measure_in_process, job, nprocs=PROCESSES)
    times = json.loads(output.read_text(encoding="utf-8"))
    note = f"gather: {PROCESSES} processes, gloo, one thread each; batches of {BATCH} are those of all processes"
    rows = [
        beside("gather", f"gather {BATCH} x {size} px, uint8", PEER, "ms", times[str(size)], times[PEER], None, note)
        for size in SIZES
    ]
    return [*rows, alone("gather", f"gather {REST}", "ms", times[REST])]


def _measure_in_process(rank: int, port: int, project: Path, rounds: int, output: Path) -> None:
    """One of the processes; the main one writes milliseconds by what was done."""
    size = str(PROCESSES)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with imported(project):
        from toolkit.distributed import end_processes, start_processes

        processes = start_processes()
        batches = {size: _batch(size) for size in SIZES}
        functions: dict[str, Callable[[], object]] = {
            str(size): partial(processes.gather, batch, BATCH // PROCESSES) for size, batch in batches.items()
        }
        functions[REST] = partial(_gather_the_rest, processes, _result())
        functions[PEER] = partial(distributed.all_reduce, torch.ones(GRADIENT))
        turns = {name: partial(_milliseconds, processes, function) for name, function in functions.items()}
        in_turns(turns, 2)
        times = in_turns(turns, rounds)
        end_processes()
    if rank == 0:
        output.write_text(json.dumps(times), encoding="utf-8")


def _batch(size: int) -> dict[str, Any]:
    """This process's share of a batch as classification has it."""
    from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT

    share = BATCH // PROCESSES
    pixels = np.random.default_rng(0).integers(0, 256, (share, size, size, 3), dtype=np.uint8)
    return {
        INPUT_ID: [f"{number:012d}" for number in range(share)],
        INPUT_ROW: torch.arange(share),
        INPUT_IMAGE: torch.from_numpy(pixels),
        INPUT_WEIGHT: torch.ones(share),
        "target_label": torch.zeros(share, dtype=torch.int64),
    }


def _result() -> dict[str, Any]:
    """What a step returns for this share: `pipeline.types.StepResult` of one head."""
    share = BATCH // PROCESSES
    return {
        "loss": torch.ones(()),
        "losses": {"label": torch.ones(())},
        "sample_losses": {"label": torch.ones(share)},
        "outputs": {"output_label": torch.ones(share, CLASSES)},
    }


def _gather_the_rest(processes: Any, result: dict[str, Any]) -> None:
    """Whole results; whether a callback skips the step; whether it is time to save."""
    processes.gather(result, BATCH // PROCESSES)
    processes.highest(0)
    processes.highest(0)


def _milliseconds(processes: Any, function: Callable[[], object]) -> float:
    processes.wait()
    began = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - began)
