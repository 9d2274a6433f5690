"""Runs that are saved on a GPU, a pretended one: what a save costs, where it goes on, what stays behind."""

import re
import shutil
from pathlib import Path

import pytest

from engines import FIRST_ENGINE
from pretended_gpu import ran
from projects import Renders
from training import add_callbacks, demo_project, expect

pytestmark = pytest.mark.slow

IDEAS = '''"""Callbacks for tests."""

import os
import signal

import torch
from torch.utils._pytree import tree_leaves

from pipeline.callbacks import Callback


class Sum(Callback):
    """Sums losses on the device, as one's own callback may."""

    def __init__(self) -> None:
        self.total = None

    def on_batch_end(self, run, stage, batch, result):
        loss = result["loss"].detach()[None]
        if stage == "train":
            print(f"loss {float(loss)}")
        self.total = loss if self.total is None else torch.cat([self.total, loss]).sum()[None]

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state.get("total")


class Interrupt(Callback):
    """Sends Ctrl-C amid the second epoch, once: after a step whose gradients were looked at."""

    def on_batch_start(self, run, stage, batch):
        flag = run.folder / "interrupted"
        if stage == "train" and (run.progress.epoch, run.progress.batch) == (1, 1) and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)


class Measure(Callback):
    """Prints what lies on the device before a fold, and how many copies a save in its second epoch is made of."""

    def on_run_start(self, run):
        print(f"fold {run.fold} begins with {self.extension().memory()[0]} bytes")

    def on_epoch_start(self, run, stage):
        if stage == "train" and run.progress.epoch == 1:
            kinds = {leaf.dtype for leaf in tree_leaves(run.state_dict()) if isinstance(leaf, torch.Tensor)}
            before = self.extension().counts()
            run.save()
            copies, reads = (self.extension().counts()[kind] - before[kind] for kind in (0, 2))
            print(f"a save makes {copies} copies of {len(kinds)} kinds and {reads} reads")

    def extension(self):
        from pretended_gpu.device import extension

        return extension
'''


@pytest.fixture(scope="module")
def base(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = demo_project(renders, tmp_path_factory.mktemp("saving") / "base")
    add_callbacks(project, IDEAS, Sum="Sum", Interrupt="Interrupt", Measure="Measure")
    return project


def train(project: Path, name: str, *settings: str, fold: str = "0", status: int = 0) -> str:
    known = (project / "experiments" / f"{name}.yaml").exists()
    arguments = (
        [name, *settings]
        if known
        else ["small", "watch.gradient_steps=1", "training.max_rows=400", *settings, "--as", name]
    )
    return expect(ran(project, "train.py", *arguments, "--fold", fold), status).stdout


@pytest.mark.parametrize("begun_on", ["cpu", "auto"])
def test_a_run_goes_on_where_there_is_no_gpu_and_the_other_way_round(base: Path, begun_on: str) -> None:
    """The next losses are the same on both but for rounding, which training carries on; so moments are in their place,
    also those of a user's callback."""
    name = f"begun_on_{begun_on}"
    settings = ("callbacks=[Sum, Interrupt]", "training.precision=fp32", f"machine.device={begun_on}")
    train(base, name, *settings, status=130)
    run, saved = base / "runs" / name, base / f"saved_on_{begun_on}"
    run.rename(saved)
    losses = []
    for device in ("cpu", "auto"):
        shutil.copytree(saved, run)
        said = train(base, name, f"machine.device={device}")
        assert "going on at epoch 2, batch 2" in said
        losses.append([float(loss) for loss in re.findall(r"^loss (\S+)", said, re.MULTILINE)])
        shutil.rmtree(run)
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("engine", FIRST_ENGINE)
def test_a_save_is_few_copies_and_a_fold_leaves_no_memory_behind(engine: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", engine)
    add_callbacks(project, IDEAS, Measure="Measure")
    said = train(project, "measured", "callbacks=[Measure]", "averaging.ema_decay=0.9", fold="0,1")
    saves = re.findall(r"a save makes (\d+) copies of (\d+) kinds and (\d+) reads", said)
    assert len(saves) == 2
    for copies, kinds, reads in saves:
        assert int(copies) <= int(kinds) and int(reads) <= 3, said
    first, second = (int(number) for number in re.findall(r"begins with (\d+) bytes", said))
    assert second < 1.1 * first


@pytest.mark.parametrize(
    "settings",
    [
        ("averaging.best_epochs=2", "averaging.swa_start=1"),
        ("callbacks=[{name: learning_test, params: {drop: 5.0}}]",),
    ],
)
def test_a_fold_is_finished_on_the_device_it_was_trained_on(base: Path, settings: tuple[str, ...]) -> None:
    for fold in ("0", "full"):
        train(base, "finished_" + "_".join(re.findall(r"\w+", settings[0])[:2]), *settings, fold=fold)
