"""What happens before the first step: nobody is asked for a newer version, and loaders are at work early."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from pipeline.config import parse_experiment
from pipeline.data.collate import collate
from pipeline.data.loader import EpochBatches, TrainBatches, make_loader
from pipeline.inference.predict import model_outputs
from projects import Renders, imported
from training import assert_same_outcome, demo_project, outcome

CPU = torch.device("cpu")
LOOK_UP = """
import os, sys, urllib.request, warnings
warnings.simplefilter("ignore")
def asked(*_, **__):
    print("asked")
    raise OSError
urllib.request.OpenerDirector.open = asked
import {module}
assert "albumentations" in sys.modules
print(os.environ["NO_ALBUMENTATIONS_UPDATE"])  # which loader processes inherit
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipeline.data.augment", "competition.augmentations"])
@pytest.mark.parametrize(("own", "said"), [(None, ["1"]), ("0", ["asked", "0"])])
def test_nobody_asks_for_a_newer_albumentations(
    module: str, own: str | None, said: list[str], renders: Renders
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    environment |= {"PYTHONPATH": str(renders.shared() / "src")} | (
        {} if own is None else {"NO_ALBUMENTATIONS_UPDATE": own}
    )
    command = [sys.executable, "-c", LOOK_UP.format(module=module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == said


class Rows(Dataset[dict[str, Any]]):
    """Samples that say which they are, and write down in which process they were read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: Any) -> dict[str, Any]:
        (self.folder / f"{index[0]}_{os.getpid()}").touch()
        return {"input_row": np.array(index)}

    def readers(self, epoch: int) -> set[str]:
        return {path.name for path in self.folder.glob(f"{epoch}_*")} - {f"{epoch}_{os.getpid()}"}


def wait_for(is_so: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def read(batches: Any) -> list[Any]:
    return [batch["input_row"].tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_may_begin_early(workers: int, tmp_path: Path) -> None:
    def order(rows: pd.DataFrame, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(len(rows))

    found = []
    for early in (False, True):
        rows = Rows(tmp_path / str(early))
        rows.folder.mkdir()
        sampler = TrainBatches(pd.DataFrame(index=range(20)), order, 4, 0)
        found.append([])
        with EpochBatches(make_loader(rows, sampler, collate, workers, CPU), CPU) as batches:
            for epoch, first in ((0, 3), (1, 0), (2, 0)):  # as after a resume amid an epoch
                sampler.begin(epoch, first)
                if early:
                    batches.start()
                    if workers:
                        wait_for(lambda epoch=epoch, rows=rows: rows.readers(epoch))
                    if epoch < 2:
                        batches.wait()
                    sampler.begin(epoch, first)
                found[-1].append(read(batches))
            sampler.begin(3, 0)
            if early:
                batches.start()
            sampler.begin(4, 2)  # somewhere else than it was started
            found[-1].append(read(batches))
            if early:
                batches.start()  # and left
    assert found[0] == found[1]
    assert [len(epoch) for epoch in found[0]] == [2, 5, 5, 3]
    assert {row[0] for batch in found[0][3] for row in batch} == {4}


def test_images_are_read_while_a_model_is_loaded(tmp_path: Path) -> None:
    rows = Rows(tmp_path)

    def models() -> Iterator[nn.Module]:
        wait_for(lambda: rows.readers(0))
        yield Doubled()

    class Doubled(nn.Module):
        def forward(self, batch: Any) -> Any:
            return {"output_x": 2 * batch["input_row"]}

    config = parse_experiment({"machine": {"workers": 1, "device": "cpu"}, "training": {"batch_size": 8}}, "test")
    task: Any = SimpleNamespace(collate=lambda samples: {"input_id": [""] * len(samples), **collate(samples)})
    chunks = model_outputs(task, models(), rows, config, "test")  # type: ignore[arg-type]
    found = [one for passes in chunks for one in passes]
    assert [batch["input_row"][:, 1].tolist() for _, batch, _ in found] == [
        list(range(8)), list(range(8, 16)), list(range(16, 20))
    ]  # fmt: skip
    assert all((outputs["output_x"] == 2 * batch["input_row"]).all() for _, batch, outputs in found)


@pytest.mark.slow
def test_each_epoch_begins_to_read_early(renders: Renders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = demo_project(renders, tmp_path / "project")
    monkeypatch.chdir(project)
    with imported(project):
        from competition import competition
        from competition.dataset import ImageDataset
        from pipeline.callbacks import Callback
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training import fold, trainer
        from pipeline.training.setup import prepare

        seen, read_row, default = Rows(tmp_path / "seen"), ImageDataset.__getitem__, trainer.default_callbacks
        seen.folder.mkdir()

        def getitem(self: Any, index: Any) -> Any:
            if len(index) == 3:  # (epoch, row, turn) of training rows
                seen[index]
            return read_row(self, index)

        class Waits(Callback):
            def on_run_start(self, run: Any) -> None:
                wait_for(lambda: seen.readers(0))

            def on_epoch_end(self, run: Any, result: Any) -> None:
                if run.progress.epoch < run.epochs:
                    wait_for(lambda: seen.readers(run.progress.epoch))

        def train(workers: int, callbacks: list[Callback]) -> Any:
            monkeypatch.setattr(trainer, "default_callbacks", lambda *given: [*default(*given), *callbacks])
            settings = [f"machine.workers={workers}", "training.max_rows=256"]
            config, at = load_experiment(Project.at(project), "small", settings), Project.at(project)
            fold.train(prepare(at, competition, "small", config), "0", restart=bool(callbacks))
            return outcome(project, "small")

        usual = train(0, [])
        monkeypatch.setattr(ImageDataset, "__getitem__", getitem)
        assert_same_outcome(usual, train(1, [Waits()]))
