"""What a process draws in tests; it imports little."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure


def line(last: float) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2, last])
    return figure


def line_once_there(last: float, gate: str) -> Figure:
    """Wait until a file is there."""
    while not Path(gate).exists():
        time.sleep(0.01)
    return line(last)


def line_after(seconds: float) -> Figure:
    time.sleep(seconds)
    return line(3)


def killed() -> Figure:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class OddError(Exception):
    """Cannot be taken out of a pickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("a figure of one's own is wrong\nand a long story")


def failing() -> Figure:
    raise OddError(1, 2)


def told(path: str) -> Figure:
    """Write down what the process is like that draws."""
    found = {
        "pid": os.getpid(),
        "gpus": os.environ["CUDA_VISIBLE_DEVICES"],
        "threads": os.environ["OMP_NUM_THREADS"],
        "nice": os.nice(0),
        "torch": "torch" in sys.modules,
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    }
    Path(f"{path}.part").write_text(json.dumps(found))
    Path(f"{path}.part").replace(path)
    return line(3)
