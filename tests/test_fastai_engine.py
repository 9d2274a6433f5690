"""What is special to the engine of fastai: callbacks of fastai's own, its counters, its loss scaling."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects import Renders, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome, register

pytestmark = pytest.mark.slow

NATIVE = '''"""Callbacks of fastai for tests."""

import os
import signal

from fastai.callback.core import Callback, CancelFitException


class Journal(Callback):
    """Writes down events, and where fastai counts itself to be; sends Ctrl-C at a batch, once."""

    def __init__(self, *, name: str = "journal", interrupt: int = -1) -> None:
        self.title, self.interrupt = name, interrupt

    def write(self, text):
        with (self.loop.folder.parent / "journal.txt").open("a") as file:
            print(self.title, text, file=file)

    def before_fit(self):
        self.write("before_fit")

    def after_step(self):
        self.write(f"after_step {self.epoch}")

    def after_batch(self):
        if self.training:
            total = self.loop.epochs * self.loop.batches_per_epoch
            place = (self.epoch, self.iter, self.n_iter, self.train_iter, round(self.pct_train * total))
            self.write(" ".join(map(str, place)))
            if self.train_iter == self.interrupt:
                os.kill(os.getpid(), signal.SIGINT)

    def after_validate(self):
        self.write(f"after_validate {self.epoch} {self.iter + 1} of {self.n_iter}")


class EnoughEpochs(Callback):
    """Ends the training as fastai's EarlyStoppingCallback does."""

    def after_epoch(self):
        raise CancelFitException


class NoCallback:
    pass
'''

SCALED = '''"""fp16's loss scaling on a CPU."""

import torch

from pipeline.callbacks import Callback


class Scaled(Callback):
    def on_run_start(self, run):
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def on_run_end(self, run, result):
        (run.folder / "steps.txt").write_text(str(run.scaler.state_dict()["_growth_tracker"]))
'''


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose engine is fastai, with callbacks of fastai's own."""
    made = demo_project(renders, tmp_path_factory.mktemp("fastai") / "project", "fastai")
    add_callbacks(made, SCALED, Scaled="Scaled")
    (made / "src/competition/native.py").write_text(NATIVE)
    names = {name: f"competition.native:{name}" for name in ("Journal", "EnoughEpochs", "NoCallback")}
    register(made, "engine_callback", names)
    return made


def train(project: Path, name: str, settings: str, status: int = 0, fold: str = "0") -> str:
    """Train a fold of a variation of `small`; what it says, on standard error where it fails."""
    (project / f"experiments/{name}.yaml").write_text(f"extends: small\n{settings}")
    result = expect(run_script(project, "train.py", name, "--fold", fold), status)
    return result.stderr if status else result.stdout


def test_native_callbacks_see_every_event_where_it_is_also_after_ctrl_c(project: Path) -> None:
    """Two in their order; what a run that was interrupted writes down is what an unbroken one would."""
    settings = (
        "training: {epochs: 2, batch_size: 128, accumulate: 3}\nengine_callbacks:\n"
        "  - {name: Journal, params: {name: first, interrupt: 10}}\n  - {name: Journal, params: {name: second}}\n"
    )
    assert "interrupted: fold 0 is saved at epoch 2, batch 3" in train(project, "journal", settings, status=130)
    train(project, "journal", settings)

    lines = (project / "runs/journal/journal.txt").read_text().splitlines()
    assert lines[::2] == [line.replace("second", "first") for line in lines[1::2]]
    seen = [line.removeprefix("first ") for line in lines[::2]]
    assert [n for n, line in enumerate(seen) if line == "before_fit"] == [0, seen.index("1 2 8 11 11") + 1]
    expected = []
    for epoch in range(2):
        for batch in range(8):
            expected += [f"after_step {epoch}"] if batch % 3 == 2 or batch == 7 else []
            done = 8 * epoch + batch + 1
            expected += [f"{epoch} {batch} 8 {done} {done}"]
        expected += [f"after_validate {epoch} 3 of 3"]
    assert [line for line in seen if line != "before_fit"] == expected


def test_a_native_callback_may_end_the_training(project: Path) -> None:
    settings = "training: {epochs: 2, batch_size: 128, max_rows: 256}\nengine_callbacks: [EnoughEpochs]\n"
    said = train(project, "enough", settings)
    assert "best epoch 1" in said
    assert (project / "runs/enough/fold_0/best.safetensors").exists()


def test_nothing_held_out(project: Path) -> None:
    said = train(project, "all", "training: {epochs: 1, batch_size: 128, max_rows: 256}\n", fold="full")
    assert "1 epoch of 2 batches, nothing held out" in said
    assert (project / "runs/all/fold_full/best.safetensors").exists()


def test_what_is_no_callback_of_fastai_is_refused(project: Path) -> None:
    said = train(project, "wrong", "engine_callbacks: [NoCallback]\n", status=2)
    assert said.splitlines()[-1] == (
        "error: engine_callbacks: NoCallback is no fastai.callback.core.Callback; derive it from that"
    )


def test_a_scaled_loss_trains_as_one_that_is_not(project: Path) -> None:
    """Gradients are clipped unscaled: with a scale that is a power of two, to the bit."""
    settings = "training: {epochs: 2, batch_size: 128, max_rows: 512, accumulate: 3, clip_grad: 0.5}\n"
    train(project, "plain", settings)
    train(project, "scaled", settings + "callbacks: [Scaled]\n")
    assert (project / "runs/scaled/fold_0/steps.txt").read_text() == "4"
    assert_same_outcome(outcome(project, "plain"), outcome(project, "scaled"))


def test_importing_the_engine_says_nothing_and_leaves_pandas_alone(project: Path) -> None:
    """Most of fastai imports its module for tables, which changes options of pandas."""
    code = "import sys, pipeline.engine; print([name for name in sys.modules if name.startswith('fastai.tabular')])"
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
