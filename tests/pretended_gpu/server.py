"""The fork server with the pretended GPU: what it runs finds the device in `pipeline.inference.device`, and tells the
waits of its training steps. Its code takes the device for one of CUDA, so that what is for a GPU only is run as well.

The engines compute on the device as on any other; Lightning has to be told of it.
"""

import functools
import importlib.machinery
import json
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

import fork_server
from pretended_gpu.device import DEVICE, extension

CUDA = {
    '.type == "cuda"': '.type in ("cuda", "fake")',
    '.type != "cuda"': '.type not in ("cuda", "fake")',
    '.type in ("cpu", "cuda")': '.type in ("cpu", "cuda", "fake")',
}


class FakeAccelerator(Accelerator):
    """The device as Lightning asks for it."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "fake"


class Waits:
    """Writes a line for each wait between the first batch of a training stage and its last one's end."""

    def __init__(self, project: Path, path: Path) -> None:
        self.project, self.path = str(project), path
        self.now: tuple[int, int] | None = None  # step and batch
        self.main = threading.get_ident()

    def heard(self, kind: str, operation: str, size: int) -> None:
        if self.now is not None:
            with self.path.open("a") as file:
                print(json.dumps([kind, operation, size, *self.now, self.place()]), file=file)

    def place(self) -> str:
        """The innermost frame of the project; a backward pass has a thread of its own, without any."""
        frame = sys._getframe(2) if threading.get_ident() == self.main else sys._current_frames()[self.main]
        found: types.FrameType | None = frame
        while found is not None and not found.f_code.co_filename.startswith(self.project):
            found = found.f_back
        shown = found or frame
        name = shown.f_code.co_filename.removeprefix(self.project + "/")
        return f"{name}:{shown.f_lineno} {shown.f_code.co_name}"

    def watch(self, trainer: Any) -> None:
        """Have a `Trainer` say where it is."""
        train_batch, batch_end = trainer.train_batch, trainer.batch_end

        def starts(run: Any, batch: Any) -> Any:
            self.now = (run.progress.step, run.progress.batch)
            return train_batch(run, batch)

        def ends(run: Any) -> None:
            batch_end(run)
            if run.progress.batch >= run.batches_per_epoch:
                self.now = None

        trainer.train_batch, trainer.batch_end = starts, ends
        trainer.epoch_end = self._outside(trainer.epoch_end)
        trainer.save = self._outside(trainer.save)

    def _outside(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any) -> Any:
            before, self.now = self.now, None
            try:
                return method(*args)
            finally:
                self.now = before

        return call


class Loader(importlib.machinery.SourceFileLoader):
    """Loads modules of a project, for whose code the device is one of CUDA."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        source = Path(path).read_text(encoding="utf-8")
        for before, after in CUDA.items():
            source = source.replace(before, after)
        return compile(source, path, "exec", dont_inherit=True)


def use(job: dict[str, Any]) -> None:
    """Let the project of a job find the device, in a process of its own."""
    project = Path(job["project"])
    finder = importlib.machinery.FileFinder.path_hook((Loader, importlib.machinery.SOURCE_SUFFIXES))
    sys.path_hooks.insert(0, lambda path: finder(path) if Path(path).is_relative_to(project / "src") else _not_ours())
    sys.path.insert(0, str(project / "src"))
    from pipeline.inference import device

    device.choose_device = lambda asked, number=0: torch.device("cpu") if asked == "cpu" else DEVICE
    of_cpu = device.choose_precision

    def choose_precision(asked: str, where: torch.device) -> Any:
        return of_cpu(asked, where) if where.type == "cpu" else "bf16" if asked == "auto" else asked

    device.choose_precision = choose_precision
    if job["arguments"][0] == "train.py":
        from pipeline.training.trainer import Trainer

        waits = Waits(project, Path(job["waits"]))
        waits.watch(Trainer)
        extension.listen(waits.heard)


def _not_ours() -> NoReturn:
    raise ImportError


def tell_lightning() -> None:
    """Lightning takes a device type that it does not know for the CPU."""
    AcceleratorRegistry.register("fake", FakeAccelerator)
    choose = _AcceleratorConnector._choose_strategy

    def choose_strategy(connector: Any) -> Any:
        return SingleDeviceStrategy(device=DEVICE) if connector._accelerator_flag == "fake" else choose(connector)

    _AcceleratorConnector._choose_strategy = choose_strategy


if __name__ == "__main__":
    tell_lightning()
    fork_server.main(use)
