"""The same numbers whatever happens: number of workers, kills, Ctrl-C, a full disk, watchers that draw randomness."""

from pathlib import Path

import pytest
from filelock import FileLock

from projects import Renders, imported, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, killed, outcome

pytestmark = pytest.mark.slow

IDEAS = '''"""Callbacks for tests."""

import os
import random
import resource
import signal

import numpy as np
import torch

from pipeline.callbacks import Callback
from pipeline.types import Verdict


class Noise(Callback):
    """Draws from every global generator, as a careless watcher would."""

    def on_batch_end(self, run, stage, batch, result):
        torch.rand(3), np.random.rand(3), random.random()

    def on_gradients_ready(self, run):
        torch.rand(3)
        return Verdict.GO


class Interrupt(Callback):
    """Sends a signal at a batch, once."""

    def __init__(self, *, epoch: int, batch: int, number: int = signal.SIGINT) -> None:
        self.at, self.number = (epoch, batch), number

    def on_batch_start(self, run, stage, batch):
        if stage == "train" and (run.progress.epoch, run.progress.batch) == self.at:
            flag = run.folder / f"interrupted-{self.at}"
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), self.number)


class InterruptLate(Callback):
    """Sends Ctrl-C while the fold is being finished, once."""

    def on_run_end(self, run, result):
        if run.fold == "0":
            os.kill(os.getpid(), signal.SIGINT)


class Remember(Callback):
    """Counts batches; the count survives a kill."""

    def __init__(self) -> None:
        self.count = 0

    def on_batch_end(self, run, stage, batch, result):
        self.count += stage == "train"

    def on_run_end(self, run, result):
        (run.folder / "count.txt").write_text(str(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state.get("count", 0)


class FullDisk(Callback):
    """From an epoch on, no file may grow beyond some bytes: what a full disk does to a writer."""

    def __init__(self, *, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_start(self, run, stage):
        if run.progress.epoch == self.epoch and not (run.folder / "was-full").exists():
            (run.folder / "was-full").touch()
            run.checkpoints.wait()  # what was saved before is on disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Veto(Callback):
    """Answers when the gradients are ready."""

    def __init__(self, *, answer: str, epoch: int = 0) -> None:
        self.answer, self.epoch = Verdict[answer.upper()], epoch

    def on_gradients_ready(self, run):
        assert all(p.grad is not None for p in run.model.parameters())
        return self.answer if run.progress.epoch >= self.epoch else Verdict.GO
'''
NAMES = ("Noise", "Interrupt", "InterruptLate", "Remember", "FullDisk", "Veto")


@pytest.fixture(scope="module")
def base(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with callbacks of its own, and an unbroken run of `small`."""
    project = demo_project(renders, tmp_path_factory.mktemp("resume") / "base")
    add_callbacks(project, IDEAS, **{name: name for name in NAMES})
    expect(run_script(project, "train.py", "small", "--fold", "0"))
    return project


def train(project: Path, name: str, *settings: str, status: int = 0) -> str:
    """Train a variation of `small` on fold 0; what it says."""
    known = (project / "experiments" / f"{name}.yaml").exists()
    arguments = [name] if known else ["small", *settings, "--as", name]
    result = expect(run_script(project, "train.py", *arguments, "--fold", "0"), status)
    return result.stdout + result.stderr


def test_two_workers_and_a_noisy_watcher_change_nothing(base: Path) -> None:
    train(base, "workers", "machine.workers=2", "callbacks=[Noise]", "checkpoints.save_minutes=0.001")
    assert_same_outcome(outcome(base, "small"), outcome(base, "workers"))


def test_another_seed_does_change_something(base: Path) -> None:
    train(base, "seed", "seed=1")
    assert outcome(base, "seed")[1] != outcome(base, "small")[1]


def test_fifteen_kills_change_nothing(base: Path) -> None:
    """A process killed at fifteen random moments ends with the bits of an unbroken one."""
    (base / "experiments/killed.yaml").write_text(
        "extends: small\ncallbacks: [Remember]\ncheckpoints: {save_minutes: 0.0001}\n"
        "training: {accumulate: 2, epochs: 8}\n"
    )
    whole = (base / "experiments/killed.yaml").read_text()
    (base / "experiments/whole.yaml").write_text(whole)
    killed(base, 0, "whole")
    said = killed(base, 15, "killed")
    assert said.count("going on at") >= 8, "most kills came after a state was saved"
    assert_same_outcome(outcome(base, "whole"), outcome(base, "killed"))
    folders = [base / f"runs/{name}/fold_0" for name in ("whole", "killed")]
    assert len({(folder / "count.txt").read_text() for folder in folders}) == 1, "a callback's memory"
    assert not list(folders[1].rglob(".*")), "temporary files of killed writers are cleaned up"


@pytest.mark.parametrize("foreground", [0, 0.8])
def test_kills_change_no_crop(foreground: float, renders: Renders, tmp_path: Path) -> None:
    """Where windows of images lie is a matter of epoch and row, wherever and however often a run was cut off."""
    project = demo_project(renders, tmp_path / "project", task="segmentation")
    text = (
        "extends: small\ncheckpoints: {save_minutes: 0.0001}\nmachine: {workers: 1}\n"
        f"task: {{params: {{foreground: {foreground}}}}}\n"
    )
    for name in ("whole", "killed"):
        (project / f"experiments/{name}.yaml").write_text(text)
    killed(project, 0, "whole")
    said = killed(project, 3, "killed")
    assert said.count("going on at") >= 2
    assert_same_outcome(outcome(project, "whole"), outcome(project, "killed"))


@pytest.mark.parametrize("number", ["2", "15"])
def test_a_signal_saves_and_leaves(base: Path, number: str) -> None:
    name = f"signal{number}"
    said = train(
        base, name, f"callbacks=[{{name: Interrupt, params: {{epoch: 1, batch: 3, number: {number}}}}}]", status=130
    )
    assert "fold 0 is saved at epoch 2, batch 4" in said
    assert "going on at epoch 2, batch 4" in train(base, name)
    assert_same_outcome(outcome(base, "small"), outcome(base, name))


def test_ctrl_c_while_a_fold_is_finished_starts_no_other_fold(base: Path) -> None:
    arguments = ("callbacks=[InterruptLate]", "training.epochs=1", "--as", "late")
    result = expect(run_script(base, "train.py", "small", *arguments), 130)
    assert "fold 0 is finished" in result.stderr
    assert [path.name for path in (base / "runs/late").glob("fold_*")] == ["fold_0"]


def test_a_full_disk_leaves_the_previous_checkpoint(base: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        said = train(base, "full", "callbacks=[{name: FullDisk, params: {epoch: 1}}]", status=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in said and "free space" in said
    assert "going on at epoch 2, batch 0" in train(base, "full")
    assert_same_outcome(outcome(base, "small"), outcome(base, "full"))


def test_a_damaged_state_falls_back_to_the_one_before(base: Path) -> None:
    said = train(base, "damaged", "callbacks=[{name: Interrupt, params: {epoch: 1, batch: 3}}]", status=130)
    state = base / "runs/damaged/fold_0/checkpoints/state.pt"
    state.write_bytes(state.read_bytes()[:2000])
    said = train(base, "damaged")
    assert "state.pt is damaged" in said and "going on at epoch 2, batch 0" in said
    assert_same_outcome(outcome(base, "small"), outcome(base, "damaged"))


def test_a_callback_may_veto_the_steps(base: Path) -> None:
    train(base, "skip", "callbacks=[{name: Veto, params: {answer: skip}}]", "training.epochs=1")
    weights = outcome(base, "skip")[1]
    train(base, "skip2", "callbacks=[{name: Veto, params: {answer: skip}}]", "training.epochs=1", "optimizer.lr=0.1")
    again = outcome(base, "skip2")[1]
    trained = {name for name in weights if "running" not in name and "num_batches" not in name}
    assert all(weights[name] == again[name] for name in trained), "skipped steps change no weight, whatever the rate"
    said = train(base, "stop", "callbacks=[{name: Veto, params: {answer: stop, epoch: 1}}]", status=2)
    assert "stopped the training" in said
    assert (base / "runs/stop/fold_0/checkpoints/state.pt").is_file(), "the first epoch is kept"


def test_training_on_everything(base: Path) -> None:
    expect(run_script(base, "train.py", "small", "training.epochs=1", "--as", "everything", "--fold", "full"))
    folder = base / "runs/everything/fold_full"
    assert (folder / "best.safetensors").is_file() and not (folder / "oof.parquet").exists()
    assert "1297 rows" not in (folder / "fold.json").read_text()
    result = expect(run_script(base, "predict.py", "everything"))
    assert "500 rows with folds full" in result.stdout


def test_two_trainers_do_not_meet(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process on the same fold is refused; a lock that a dead one left behind is no obstacle."""
    train(base, "twice", "callbacks=[{name: Interrupt, params: {epoch: 1, batch: 3}}]", status=130)
    held = FileLock(base / "runs/twice/.fold_0.lock")
    with imported(base):
        from pipeline.training import run_folder

        with held, pytest.raises(Exception, match="another process is training fold_0 of 'twice'"):
            monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
            with run_folder.the_only_trainer(base / "runs/twice", "fold_0"):
                pass
    assert "going on at" in train(base, "twice")
