"""What is special to Ignite as the engine: handlers of its kind, exceptions, its place in a resumed run, scaling."""

from pathlib import Path

import pandas as pd
import pytest

from projects import Renders, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, killed, outcome

pytestmark = pytest.mark.slow

CALLBACKS = '''"""Callbacks and handlers for tests."""

import os
import signal
from pathlib import Path

import torch
from ignite.engine import Events

from pipeline.callbacks import Callback


class Scaled(Callback):
    """Gives the run a scaler, as fp16 would, and writes down its last scale."""

    def on_run_start(self, run):
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)

    def on_run_end(self, run, result):
        (run.folder / "scale.txt").write_text(str(run.scaler.get_scale()))


class Diary:
    """Writes down what happens to the engines that it is called with."""

    def __call__(self, trainer, evaluator):
        folder = trainer.state.run.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "diary.txt"
        trainer.add_event_handler(Events.EPOCH_STARTED, self.note, "epoch")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.note, "step")
        evaluator.add_event_handler(Events.COMPLETED, lambda: self.note(trainer, "valid"))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.note, "end")
        for engine in (trainer, evaluator):
            engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: self.note(engine, "error"))

    def note(self, engine, what):
        with self.path.open("a") as file:
            file.write(f"{what} {engine.state.epoch} {engine.state.iteration}\\n")


class Interrupt:
    """Sends Ctrl-C at an iteration, once; attached to the trainer alone."""

    def __init__(self, *, iteration: int) -> None:
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), os.kill, os.getpid(), signal.SIGINT)


def stop_after(*, epochs: int):
    def attach(trainer, evaluator):
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), trainer.terminate)

    return attach


def stop(trainer, evaluator, *, epochs: int):
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), trainer.terminate)


class Neither:
    """No handler of any kind."""
'''
NATIVE = ("Diary", "Interrupt", "stop", "stop_after", "Neither")
FEW = "extends: small\ntraining: {epochs: 2, max_rows: 256, accumulate: 3, clip_grad: 0.5}\n"


@pytest.fixture(scope="module")
def base(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with handlers of its own, and a run of `few`: two epochs of four batches."""
    project = demo_project(renders, tmp_path_factory.mktemp("ignite") / "base", "ignite")
    add_callbacks(project, CALLBACKS, Scaled="Scaled")
    package = project / "src/competition/__init__.py"
    native = ", ".join(f'"{name}": "competition.callbacks:{name}"' for name in NATIVE)
    native += ', "TerminateOnNan": "ignite.handlers:TerminateOnNan"'
    package.write_text(package.read_text().replace("names={", f'names={{\n        "engine_callback": {{{native}}},'))
    (project / "experiments/few.yaml").write_text(FEW)
    train(project, "few")
    return project


def train(project: Path, name: str, *settings: str, status: int = 0) -> str:
    """Train a variation of `few` on fold 0; what it says."""
    made = ["few", *settings, "--as", name] if settings else [name]
    result = expect(run_script(project, "train.py", *made, "--fold", "0"), status)
    return result.stdout + result.stderr


def test_handlers_follow_a_run_through_an_interruption(base: Path) -> None:
    """A handler that hears of exceptions does not keep them; counts go on where they stood."""
    handlers = "[Diary, {name: Interrupt, params: {iteration: 6}}]"
    said = train(base, "diary", f"engine_callbacks={handlers}", status=130)
    assert "fold 0 is saved at epoch 2, batch 3" in said and "Traceback" not in said and "Engine run" not in said
    diary = base / "runs/diary/fold_0/diary.txt"
    first = ["epoch 1 0", *(f"step 1 {step}" for step in (1, 2, 3, 4)), "valid 1 4", "end 1 4", "epoch 2 4"]
    lines = diary.read_text().splitlines()
    assert lines[: len(first)] == first
    assert lines[len(first) : len(first) + 3] == ["step 2 5", "step 2 6", "step 2 7"]
    assert set(lines[len(first) + 3 :]) == {"error 2 7"}
    diary.unlink()
    assert "going on at epoch 2, batch 3" in train(base, "diary")
    assert diary.read_text().splitlines() == ["epoch 2 7", "step 2 8", "valid 2 8", "end 2 8"]
    assert_same_outcome(outcome(base, "few"), outcome(base, "diary"))


@pytest.mark.parametrize("handler", ["stop", "stop_after"])
def test_a_handler_may_terminate_the_run(base: Path, handler: str) -> None:
    """A function of the two engines, or a factory of one."""
    train(base, f"by-{handler}", f"engine_callbacks=[{{name: {handler}, params: {{epochs: 1}}}}]")
    metrics = pd.read_csv(base / f"runs/by-{handler}/fold_0/metrics.csv")
    assert metrics["epoch"].max() == 1
    assert (base / f"runs/by-{handler}/fold_0/oof.parquet").is_file()


@pytest.mark.parametrize("name", ["Neither", "TerminateOnNan"])
def test_what_is_no_handler_is_named(base: Path, name: str) -> None:
    said = train(base, f"wrong-{name}", f"engine_callbacks=[{name}]", status=2)
    assert f"engine_callbacks: {name} can be neither attached" in said


def test_scaled_gradients_are_unscaled_before_they_are_clipped(base: Path) -> None:
    """With scales that are powers of two, every bit is that of a run without scaling."""
    train(base, "scaled", "callbacks=[Scaled]")
    assert_same_outcome(outcome(base, "few"), outcome(base, "scaled"))
    steps = 4  # two windows in each of two epochs, and the scale is doubled after each
    assert float((base / "runs/scaled/fold_0/scale.txt").read_text()) == 1024 * 2**steps


def test_processes_agree_on_what_is_frozen_later(base: Path) -> None:
    """What is frozen in the last epochs trains in all processes alike before."""
    later = "interventions: [{epochs: [2, 2], set: {model.frozen: [encoder]}}]\nmodel: {encoder: test_convnext}\n"
    for name in ("alone", "together"):  # no batch norm, which would see half of the batch
        (base / f"experiments/{name}.yaml").write_text(FEW + later)
    train(base, "alone")
    killed(base, 0, "together", processes=2)
    tables = [outcome(base, name)[0].set_index("id") for name in ("alone", "together")]
    classes = [column for column in tables[0] if column.startswith("label:")]
    assert (tables[0][classes] - tables[1][classes]).abs().max().max() < 1e-4
