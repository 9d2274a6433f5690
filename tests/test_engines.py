"""Every engine does the same training: the same events in the same order, the same numbers, states and weights.

The engine of docs/add-an-engine.md, as it stands on the page, is what the others are held against.
"""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engines import BARE, ENGINES, engine_project
from projects import Renders, run_script
from test_engine_kills import EVERYTHING
from training import add_callbacks, expect

pytestmark = pytest.mark.slow

CALLBACKS = '''"""Callbacks for tests."""

import json
import os
import signal

import torch

from pipeline.callbacks import Callback
from pipeline.errors import UserError
from pipeline.keys import INPUT_ID
from pipeline.seam import Verdict


def gradient_norm(run):
    norms = [weight.grad.norm() for weight in run.model.parameters() if weight.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class Record(Callback):
    """Writes every event into `events.jsonl`, one a line."""

    def __init__(self):
        self.worst = {}

    def write(self, run, event, stage="", **values):
        now = run.progress
        line = {"event": event, "stage": stage, "epoch": now.epoch, "batch": now.batch, "step": now.step, **values}
        with (run.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")

    def on_run_start(self, run):
        self.write(run, "run_start")

        def stepped(optimizer, *_):
            rates = [group["lr"] for group in optimizer.param_groups]
            self.write(run, "optimizer_step", rates=rates, norm=gradient_norm(run))

        run.optimizer.register_step_post_hook(stepped)

    def on_epoch_start(self, run, stage):
        self.write(run, "epoch_start", stage)

    def on_batch_start(self, run, stage, batch):
        self.write(run, "batch_start", stage, training=run.model.training, ids=batch[INPUT_ID])

    def on_batch_end(self, run, stage, batch, result):
        losses = sum(result["sample_losses"].values())
        worst = (float(losses.max()), batch[INPUT_ID][int(losses.argmax())])
        self.worst[stage] = max(self.worst.get(stage, worst), worst)
        rates = [group["lr"] for group in run.optimizer.param_groups]
        self.write(run, "batch_end", stage, loss=float(result["loss"].detach()), rates=rates)

    def on_gradients_ready(self, run):
        self.write(run, "gradients_ready", norm=gradient_norm(run))
        return Verdict.GO

    def on_epoch_end(self, run, result):
        self.write(run, "epoch_end", result.stage, worst=self.worst.pop(result.stage)[1])

    def on_run_end(self, run, result):
        self.write(run, "run_end")

    def on_exception(self, run, error):
        self.write(run, "exception", error=str(error))

    def state_dict(self):
        return {"worst": {stage: list(worst) for stage, worst in self.worst.items()}}

    def load_state_dict(self, state):
        self.worst = {stage: tuple(worst) for stage, worst in state.get("worst", {}).items()}


class Interrupt(Callback):
    """Sends Ctrl-C at a batch, once."""

    def __init__(self, *, epoch: int, batch: int):
        self.at = (epoch, batch)

    def on_batch_start(self, run, stage, batch):
        flag = run.folder / "interrupted"
        if stage == "train" and (run.progress.epoch, run.progress.batch) == self.at and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)


class OwnError(Exception):
    pass


class Raise(Callback):
    """Raises an error of its own at an event, and notes whether that very one came out."""

    def __init__(self, *, at: str, kind: str):
        self.error = {"own": OwnError, "ctrl_c": KeyboardInterrupt, "user": UserError}[kind]("this one")
        self.at, self.raised = at, False

    def reached(self, at):
        if at == self.at:
            self.raised = True
            raise self.error

    def on_batch_start(self, run, stage, batch):
        self.reached(stage)

    def on_gradients_ready(self, run):
        self.reached("gradients")
        return Verdict.GO

    def on_epoch_end(self, run, result):
        self.reached("epoch")

    def on_exception(self, run, error):
        found = {"raised": self.raised, "same": error is self.error}
        (run.folder.parents[1] / f"raised-{run.experiment}.json").write_text(json.dumps(found))


class SkipFirst(Callback):
    """Vetoes the first steps, and notes after each step whether all weights are still what they were."""

    def __init__(self, *, steps: int):
        self.steps, self.unchanged = steps, {}

    def on_run_start(self, run):
        self.before = [weight.detach().clone() for weight in run.model.parameters()]

    def on_gradients_ready(self, run):
        return Verdict.SKIP if run.progress.step < self.steps else Verdict.GO

    def on_batch_end(self, run, stage, batch, result):
        pairs = zip(self.before, run.model.parameters(), strict=True)
        self.unchanged[run.progress.step] = all(torch.equal(before, now) for before, now in pairs)

    def on_run_end(self, run, result):
        (run.folder / "unchanged.json").write_text(json.dumps(self.unchanged))
'''
CLASSES = {name: name for name in ("Record", "Interrupt", "Raise", "SkipFirst")}
EPOCHS, BATCHES, ACCUMULATE, CLIP, ROWS, BATCH_SIZE = 2, 7, 3, 0.7, 112, 16
CONFORM = f"""extends: small
image: {{size: 24}}
model: {{drop_rate: 0.2}}
training:
  epochs: {EPOCHS}
  batch_size: {BATCH_SIZE}
  max_rows: {ROWS}
  accumulate: {ACCUMULATE}
  clip_grad: {CLIP}
  batch_transforms: [{{name: mixup, params: {{mixup_alpha: 0.4, cutmix_alpha: 1.0, prob: 0.8}}}}]
optimizer: {{layer_decay: 0.8}}
schedule: {{warmup_epochs: 0.7}}
averaging: {{ema_decay: 0.9}}
tracking: {{every_steps: 1}}
callbacks: [Record]
"""
INTERRUPT = "Record, {name: Interrupt, params: {epoch: 1, batch: 1}}"
SKIP = "callbacks=[Record, {name: SkipFirst, params: {steps: 3}}]"
ONE_BATCH = ("training.max_rows=16", "training.batch_size=64")
engines = pytest.mark.parametrize("engine", ENGINES)


class Runs:
    """A project for each engine, and its runs, each trained once."""

    def __init__(self, renders: Renders, folder: Path) -> None:
        self.renders, self.folder = renders, folder
        self.said: dict[tuple[str, str], tuple[str, str]] = {}

    def project(self, engine: str) -> Path:
        target = self.folder / engine
        if not target.exists():
            draft = engine_project(self.renders, self.folder / f"draft-{engine}", engine)
            add_callbacks(draft, CALLBACKS, **CLASSES)
            (draft / "experiments/conform.yaml").write_text(CONFORM)
            for name, callbacks in (("whole", "Record"), ("everything", INTERRUPT)):
                text = EVERYTHING.replace("training:", f"training:\n  max_rows: {ROWS}\n  batch_size: {BATCH_SIZE}")
                (draft / f"experiments/{name}.yaml").write_text(text.replace("[Remember]", f"[{callbacks}]"))
            draft.rename(target)
        return target

    def run(self, engine: str, name: str, *settings: str, fold: str = "0", status: int = 0) -> Path:
        """The folder of a run of `conform` with other settings, trained unless it is there."""
        project = self.project(engine)
        if (engine, name) not in self.said:
            known = (project / f"experiments/{name}.yaml").exists()
            arguments = [name] if known else ["conform", *settings, "--as", name]
            result = expect(run_script(project, "train.py", *arguments, "--fold", fold), status)
            self.said[engine, name] = (result.stdout, result.stderr)
        return project / "runs" / name


@pytest.fixture(scope="module")
def runs(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(renders, tmp_path_factory.mktemp("engines"))


def events(run: Path, fold: str = "0") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"fold_{fold}/events.jsonl").read_text().splitlines()]


def order(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(line[key] for key in ("event", "stage", "epoch", "batch", "step")) for line in lines]


def promised(epochs: int, batches: int, accumulate: int, held_out: int) -> Iterator[tuple[Any, ...]]:
    """What `pipeline.seam.Loop` promises, in the words of the recorder."""
    step = 0
    yield "run_start", "", 0, 0, 0
    for epoch in range(epochs):
        yield "epoch_start", "train", epoch, 0, step
        for batch in range(batches):
            yield "batch_start", "train", epoch, batch, step
            yield "batch_end", "train", epoch, batch, step
            if (batch + 1) % accumulate == 0 or batch + 1 == batches:
                yield "gradients_ready", "", epoch, batch, step
                yield "optimizer_step", "", epoch, batch, step
                step += 1
        if held_out:
            yield "epoch_start", "valid", epoch, batches, step
        for _ in range(held_out):
            yield "batch_start", "valid", epoch, batches, step
            yield "batch_end", "valid", epoch, batches, step
        for stage in ("train", "valid") if held_out else ("train",):
            yield "epoch_end", stage, epoch + 1, 0, step
    yield "run_end", "", epochs, 0, step


def values(lines: list[dict[str, Any]], event: str, key: str, stage: str = "") -> list[Any]:
    return [line[key] for line in lines if line["event"] == event and stage in ("", line["stage"])]


def assert_same_numbers(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Losses, learning rates, gradient norms and worst samples, whatever the other events are."""
    for stage in ("train", "valid"):
        assert values(found, "batch_start", "ids", stage) == values(expected, "batch_start", "ids", stage)
        losses = values(expected, "batch_end", "loss", stage)
        assert values(found, "batch_end", "loss", stage) == pytest.approx(losses, rel=0, abs=1e-5)
        assert values(found, "epoch_end", "worst", stage) == values(expected, "epoch_end", "worst", stage)
    assert values(found, "batch_end", "rates") == values(expected, "batch_end", "rates")
    for event in ("gradients_ready", "optimizer_step"):
        assert values(found, event, "norm") == pytest.approx(values(expected, event, "norm"), rel=1e-4)


def assert_same_outcome(found: Path, expected: Path, fold: str = "0") -> None:
    """Weights, and what they predict for the held-out rows."""
    first, second = (load_file(run / f"fold_{fold}/best.safetensors") for run in (found, expected))
    assert first.keys() == second.keys()
    for name, value in second.items():
        torch.testing.assert_close(
            first[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    if fold != "full":
        tables = [pd.read_parquet(run / f"fold_{fold}/oof.parquet") for run in (found, expected)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-5)


def logged(run: Path) -> pd.DataFrame:
    metrics = pd.read_csv(run / "fold_0/metrics.csv")
    return metrics[[column for column in metrics if not column.startswith("time/")]]


def tensorboard(run: Path) -> dict[str, list[int]]:
    """Tag -> the steps it was logged at, numbers and pictures."""
    found = EventAccumulator(str(run / "fold_0/tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    numbers = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return numbers | {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}


def files_of(run: Path) -> set[str]:
    paths = (path.relative_to(run).as_posix() for path in run.rglob("*") if "test.parquet" not in path.name)
    return {re.sub(r"tfevents.*", "tfevents", path) for path in paths}


def test_the_experiment_is_what_it_has_to_be(runs: Runs) -> None:
    """The reference keeps the promise, with a window that is shorter and gradients that are cut."""
    lines = events(runs.run(BARE, "conform"))
    assert order(lines) == list(promised(EPOCHS, BATCHES, ACCUMULATE, BATCHES))
    before, after = (values(lines, event, "norm") for event in ("gradients_ready", "optimizer_step"))
    assert any(norm > 1.05 * CLIP for norm in before) and all(norm <= 1.001 * CLIP for norm in after)
    assert [min(norm, CLIP) for norm in before] == pytest.approx(after, rel=1e-3), "clipped between the two"
    rates = values(lines, "batch_end", "rates", "train")
    assert len(rates[0]) > 2 and rates[0] < rates[3] and len({tuple(rate) for rate in rates}) >= 5


@engines
def test_the_same_events_and_numbers(runs: Runs, engine: str) -> None:
    run = runs.run(engine, "conform")
    assert json.loads((run / "run.json").read_text())["engine"] == engine
    found, expected = events(run), events(runs.run(BARE, "conform"))
    assert order(found) == order(expected)
    assert_same_numbers(found, expected)
    for stage in ("train", "valid"):
        assert set(values(found, "batch_start", "training", stage)) == {stage == "train"}


@engines
def test_the_same_logs_files_and_weights(runs: Runs, engine: str) -> None:
    run, expected = runs.run(engine, "conform"), runs.run(BARE, "conform")
    assert_same_outcome(run, expected)
    pd.testing.assert_frame_equal(logged(run), logged(expected), check_exact=False, rtol=1e-4, atol=1e-5)
    assert tensorboard(run) == tensorboard(expected)
    words = [re.findall(r"[A-Za-z]{2,}", "".join(runs.said[name, "conform"])) for name in (engine, BARE)]
    assert words[0] == words[1], "a framework says nothing of its own"
    assert files_of(run) == files_of(expected), "and leaves no files"
    known = {path.name for path in runs.project(BARE).iterdir()}
    assert {path.name for path in runs.project(engine).iterdir()} == known


def predicted(project: Path, name: str) -> pd.DataFrame:
    table = project / f"runs/{name}/test.parquet"
    if not table.exists():
        expect(run_script(project, "predict.py", name, "--fold", "0"))
    return pd.read_parquet(table)


def check_prediction(runs: Runs, trained_by: str, under: str) -> None:
    """The weights of one engine predict under another."""
    source, target = runs.run(trained_by, "conform"), runs.project(under) / f"runs/from-{trained_by}"
    if not target.exists():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("test.parquet"))
    tables = [predicted(path.parents[1], path.name) for path in (target, source)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-6)


def check_continuing(runs: Runs, whole: str, cut: str, begun_by: str, by: str, settings: tuple[str, ...]) -> None:
    """A run cut off under one engine goes on under another to the end of the unbroken one."""
    left = runs.run(begun_by, cut, *settings, status=130)
    name = f"{cut}-{begun_by}"
    target = runs.project(by) / "runs" / name
    shutil.copytree(left, target)
    source = runs.project(begun_by) / f"experiments/{cut}.yaml"
    shutil.copy(source, runs.project(by) / f"experiments/{name}.yaml")
    result = expect(run_script(runs.project(by), "train.py", name, "--fold", "0"))
    assert f"note: the run '{name}' was begun with {begun_by}, and {by} goes on with it" in result.stdout
    assert "going on at epoch 2, batch 3" in result.stdout
    expected = runs.run(BARE, whole)
    assert_same_outcome(target, expected)
    assert_same_numbers(events(target), events(expected))


@engines
def test_weights_predict_under_another_engine(runs: Runs, engine: str) -> None:
    check_prediction(runs, engine, BARE)
    check_prediction(runs, BARE, engine)


@engines
def test_a_run_goes_on_under_another_engine(runs: Runs, engine: str) -> None:
    check_continuing(runs, "conform", "cut", engine, BARE, (f"callbacks=[{INTERRUPT}]",))
    check_continuing(runs, "conform", "cut", BARE, engine, (f"callbacks=[{INTERRUPT}]",))


@engines
def test_training_on_everything(runs: Runs, engine: str) -> None:
    settings = ("training.epochs=1", "averaging.ema_decay=null")
    found, expected = (runs.run(name, "everyone", *settings, fold="full") for name in (engine, BARE))
    lines = events(found, "full")
    assert order(lines) == list(promised(1, BATCHES, ACCUMULATE, 0))
    assert_same_numbers(lines, events(expected, "full"))
    assert_same_outcome(found, expected, "full")


@engines
def test_an_epoch_of_one_batch(runs: Runs, engine: str) -> None:
    found, expected = (runs.run(name, "one", *ONE_BATCH, "training.epochs=3") for name in (engine, BARE))
    assert order(events(found)) == list(promised(3, 1, ACCUMULATE, 1))
    assert_same_numbers(events(found), events(expected))
    assert_same_outcome(found, expected)


@engines
def test_skipped_steps_change_no_weight(runs: Runs, engine: str) -> None:
    found, expected = (runs.run(name, "skip", SKIP) for name in (engine, BARE))
    unchanged = json.loads((found / "fold_0/unchanged.json").read_text())
    assert unchanged == {str(step): step <= 3 for step in range(7)}
    ready = [line for line in events(found) if line["event"] != "optimizer_step"]
    assert_same_numbers(ready, [line for line in events(expected) if line["event"] != "optimizer_step"])
    assert_same_outcome(found, expected)


@engines
@pytest.mark.parametrize(
    ("at", "kind"), [("train", "own"), ("gradients", "ctrl_c"), ("valid", "user"), ("epoch", "own")]
)
def test_an_error_leaves_as_it_is(runs: Runs, engine: str, at: str, kind: str) -> None:
    project, name = runs.project(engine), f"raise-{at}"
    callback = f"callbacks=[{{name: Raise, params: {{at: {at}, kind: {kind}}}}}]"
    result = run_script(project, "train.py", "conform", callback, *ONE_BATCH, "--as", name, "--fold", "0")
    assert result.status == {"own": 1, "ctrl_c": 130, "user": 2}[kind], result.stderr
    found = json.loads((project / f"runs/raised-{name}.json").read_text())
    assert found == {"raised": True, "same": True}


@pytest.mark.full
@pytest.mark.parametrize(("begun_by", "by"), list(permutations((BARE, *ENGINES), 2)))
def test_every_engine_takes_up_what_every_other_began(runs: Runs, begun_by: str, by: str) -> None:
    """With a balanced sampler, plateau, SWA, frozen parts and interventions; and predicts with its weights."""
    check_continuing(runs, "whole", "everything", begun_by, by, ())
    check_prediction(runs, begun_by, by)
