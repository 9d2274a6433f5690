"""What fails without any fault of the code (memory, processes, files, GPUs) is one line, nothing hangs, and what is
trained stays."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from pipeline.data.collate import collate
from pipeline.data.loader import EpochBatches, RowBatches, make_loader
from projects import Renders, run_script
from test_drawing_beside import is_alive, wait_for
from toolkit.errors import UserError, known_failure, known_failures
from training import assert_same_outcome, demo_project, expect, outcome, register

TRACEBACK = 'Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'
KNOWN: dict[str, tuple[Exception, str]] = {
    "memory of the GPU": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        "training.batch_size",
    ),
    "that of the processor": (RuntimeError("MPS backend out of memory"), "memory"),
    "cuBLAS": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        "training.batch_size",
    ),
    "a killed worker": (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "machine.workers"),
    "one that ended": (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "machine.workers"),
    "a bus error": (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "/dev/shm"),
    "shared memory": (
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
        "/dev/shm",
    ),
    "shared files": (
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
        "ulimit -n",
    ),
    "descriptors": (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    "open files": (OSError(24, "Too many open files", "data/raw/a.png"), "ulimit -n"),
    "processes": (BlockingIOError(11, "Resource temporarily unavailable"), "ulimit -u"),
    "memory for a fork": (OSError(12, "Cannot allocate memory"), "machine.workers"),
    "memory of the machine": (MemoryError(), "image.size"),
    "an array in a worker": (
        MemoryError(TRACEBACK.format("MemoryError") + "MemoryError: Unable to allocate 3. GiB for an array"),
        "machine.workers",
    ),
    "memory of a tensor": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        "image.size",
    ),
    "a full disk": (OSError(28, "No space left on device"), "disk"),
    "no kernels": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        "has no kernels",
    ),
    "an assert on the GPU": (RuntimeError("CUDA error: device-side assert triggered"), "number of a class"),
    "a broken GPU": (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), "machine.device=cpu"),
    "one row": (
        ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 512, 1, 1])"),
        "training.batch_size",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_failure_is_one_line_with_its_remedy(name: str) -> None:
    error, remedy = KNOWN[name]
    said = known_failure(error)
    assert said is not None and remedy in said and "\n" not in said
    with pytest.raises(UserError, match=r".+"), known_failures():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    """A fault of the code needs its traceback, and that another process has ended is said by the other one."""
    others = [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x4 and 3x2)"),
        ValueError("Expected input batch_size (8) to match target batch_size (4)."),
        KeyError("out of memory. Tried"),
        FileNotFoundError(2, "No such file or directory", "x.png"),
        torch.distributed.DistBackendError("NCCL error: CUDA error: unhandled"),
    ]
    for error in others:
        assert known_failure(error) is None
        with pytest.raises(type(error)), known_failures():
            raise error


class Samples(Dataset[dict[str, Any]]):
    """Eight rows; `limit` is called in the loader's process before each."""

    def __init__(self, limit: Callable[[], object]) -> None:
        self.limit = limit

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        self.limit()
        row = torch.full((64, 64, 3), index[1], dtype=torch.uint8)
        return {"input_id": str(index[1]), "input_image": row.numpy(), "target_ink": row[0, 0, 0].float().numpy()}


@contextmanager
def no_hang(seconds: int = 90) -> Iterator[None]:
    """A test that would wait for ever fails."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def batches_of(limit: Callable[[], object], made: Callable[..., Any] = collate) -> list[Any]:
    """The batches of one loader process, which pickles by the names of modules."""
    device = torch.device("cpu")
    loader = make_loader(Samples(limit), RowBatches(8, 4), made, 1, device)
    with no_hang(), EpochBatches(loader, device) as batches:
        return list(batches)


def no_file_of_this_size() -> None:
    """What shared memory is made of, as on a machine where /dev/shm is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))


def test_batches_without_room_in_shared_memory_come_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    expected, found = batches_of(lambda: None), batches_of(no_file_of_this_size)
    assert len(found) == len(expected) == 2
    for one, other in zip(expected, found, strict=True):
        assert one["input_id"] == other["input_id"]
        for key in ("input_image", "target_ink"):
            assert torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype
            other[key] += 1  # it is memory of its own
    assert capfd.readouterr().err.count("note: /dev/shm has no room") == 1


def nested(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of an own collate: boxes of each sample, and half precision."""
    batch = collate(samples)
    return {
        **batch,
        "boxes": [torch.full((n, 4), n, dtype=torch.float16) for n in range(4)],
        "more": {"mask": batch["input_image"][..., 0] > 2, "count": torch.tensor(3, dtype=torch.bfloat16)},
    }


def test_nested_batches_of_every_type_come_through_the_pipe() -> None:
    for one, other in zip(
        batches_of(lambda: None, made=nested), batches_of(no_file_of_this_size, made=nested), strict=True
    ):
        pairs = [
            *zip(one["boxes"], other["boxes"], strict=True),
            *((one["more"][key], other["more"][key]) for key in one["more"]),
        ]
        assert len(pairs) == 6
        assert all(torch.equal(a, b) and a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)


def unsendable(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {**collate(samples), "function": lambda: None}


def test_a_batch_that_cannot_be_sent_ends_the_loader(capfd: pytest.CaptureFixture[str]) -> None:
    """The process that made it went on, and the main one waited for ever."""
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        batches_of(lambda: None, made=unsendable)
    assert "machine.workers" in (known_failure(caught.value) or "")
    assert "cannot hand on its batch" in capfd.readouterr().err


def test_the_death_of_a_loader_waits_for_the_end_of_a_step() -> None:
    """Amid a step nothing could be saved."""
    device, stepping = torch.device("cpu"), multiprocessing.Event()

    def killed_amid_a_step() -> None:
        KILL.append(0)
        if len(KILL) > 4 and stepping.wait(60):
            os.kill(os.getpid(), signal.SIGKILL)

    loader = make_loader(Samples(killed_amid_a_step), RowBatches(8, 4), collate, 1, device)
    with no_hang(), EpochBatches(loader, device) as batches:
        running = iter(batches)
        next(running)
        stepping.set()
        wait_for(lambda worker=loader._iterator._workers[0].pid: not is_alive(worker))
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            next(running)


KILL: list[int] = []
READER = """import os
import signal
from pathlib import Path

import cv2

COUNT, FLAG = Path(__file__).parents[2] / "count", Path(__file__).parents[2] / "kill"


def mortal(path, size):
    with COUNT.open("a") as file:
        file.write("x")
    if FLAG.exists() and COUNT.stat().st_size > int(FLAG.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
"""


@pytest.mark.slow
def test_a_killed_loader_costs_nothing_that_was_trained(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    (project / "src/competition/reading.py").write_text(READER)
    register(project, "reader", {"mortal": "competition.reading:mortal"})
    few = ["image.reader=mortal", "training.max_rows=192", "training.batch_size=16", "machine.workers=1"]
    for name in ("whole", "broken"):
        (project / f"experiments/{name}.yaml").write_text("extends: small\n")
    expect(run_script(project, "train.py", "whole", *few, "--fold", "0"))
    (project / "count").unlink()
    (project / "kill").write_text("170")  # of 192: a loader runs some batches ahead of the first step
    with no_hang(300):
        killed = expect(run_script(project, "train.py", "broken", *few, "--fold", "0"), 2)
    assert "killed" in killed.last_line and "machine.workers" in killed.last_line
    assert "fold 0 is saved at epoch 1, batch" in killed.stdout
    (project / "kill").unlink()
    again = expect(run_script(project, "train.py", "broken", *few, "--fold", "0"))
    assert "going on at epoch 1, batch" in again.stdout
    assert_same_outcome(outcome(project, "whole"), outcome(project, "broken"))


def test_a_single_row_under_batch_norm(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    settings = ["model.encoder=resnet10t", "image.size=32", "training.batch_size=1"]
    said = expect(run_script(project, "train.py", "small", *settings, "--as", "one", "--fold", "0"), 2)
    assert "training.batch_size" in said.last_line
    assert not (project / "runs/one").exists() and not (project / "experiments/one.yaml").exists(), (
        "nothing remembers it"
    )
