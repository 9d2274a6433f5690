"""What is special to Catalyst as the engine: its callbacks and their order, its counters, its seeds, fp16's scaler."""

import json
import random
from pathlib import Path

import pytest

from projects import Renders, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome, register

pytestmark = pytest.mark.slow

CALLBACKS = '''"""Callbacks for tests: Catalyst's own ones, and two of the pipeline's."""

import os
import random
import signal

import torch
from catalyst import dl

from pipeline.callbacks import Callback
from pipeline.types import Verdict


class Note(dl.Callback):
    """Writes down what it finds at the end of each batch, and a number drawn at the start of each loader."""

    def __init__(self, *, file: str, order: int = 100) -> None:
        super().__init__(order=order)
        self.file = file

    def write(self, *values) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            print(*values, sep=",", file=file)

    def on_loader_start(self, runner):
        self.write("drawn", runner.epoch_step, runner.loader_key, random.random())

    def on_batch_end(self, runner):
        loss = runner.batch_metrics.get("loss")
        has_graph = loss is not None and loss.requires_grad
        has_gradients = any(each.grad is not None for each in runner.model.parameters())
        position = (runner.epoch_step, runner.loader_key, runner.loader_batch_step)
        self.write(f"order {self.order}", *position, has_graph, has_gradients, "input_id" in runner.batch)


class Times(dl.Callback):
    """Multiplies the loss before it is differentiated."""

    def __init__(self, *, factor: float) -> None:
        super().__init__(order=dl.CallbackOrder.metric_aggregation)
        self.factor = factor

    def on_batch_end(self, runner):
        if runner.is_train_loader:
            runner.batch_metrics["loss"] = runner.batch_metrics["loss"] * self.factor


class Leave(dl.Callback):
    """Asks to leave at a batch of an epoch, once."""

    def __init__(self, *, batch: int, flag: str) -> None:
        super().__init__(order=dl.CallbackOrder.external)
        self.batch, self.flag = batch, flag

    def on_batch_start(self, runner):
        if runner.is_train_loader and runner.loader_batch_step == self.batch and not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), signal.SIGTERM)


class NoCallback:
    """Catalyst does not know it."""


class Scale(Callback):
    """Scales losses as fp16 does on a GPU; a float32 loss times a power of two changes no bit of the training."""

    def __init__(self, *, start: float, growth_interval: int, backoff_factor: float = 0.5) -> None:
        self.arguments = {
            "init_scale": start,
            "growth_interval": growth_interval,
            "backoff_factor": backoff_factor,
        }

    def on_run_start(self, run):
        run.scaler = torch.amp.GradScaler("cpu", **self.arguments)

    def on_epoch_end(self, run, result):
        (run.folder / "scale.txt").write_text(str(run.scaler.get_scale()))


class Veto(Callback):
    """Leaves out the first step."""

    def on_gradients_ready(self, run):
        return Verdict.GO if run.progress.step else Verdict.SKIP
'''
NATIVE = {"note": "Note", "times": "Times", "leave": "Leave", "none": "NoCallback"}
SHORT = """extends: small
optimizer: {name: sgd, lr: 0.05, weight_decay: 0}
training: {epochs: 2, batch_size: 16, accumulate: 2, clip_grad: 0.5, max_rows: 80}
"""


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five batches an epoch, so that the last window is short."""
    made = demo_project(renders, tmp_path_factory.mktemp("catalyst") / "project", "catalyst")
    add_callbacks(made, CALLBACKS, scale="Scale", veto="Veto")
    register(made, "engine_callback", {name: f"competition.callbacks:{found}" for name, found in NATIVE.items()})
    return made


@pytest.fixture(scope="module")
def plain(project: Path) -> tuple:
    return train(project, "plain", "")


def train(project: Path, name: str, more: str) -> tuple:
    """Train fold 0 of the short experiment with something more; its outcome."""
    (project / f"experiments/{name}.yaml").write_text(SHORT + more)
    result = expect(run_script(project, "train.py", name, "--fold", "0"))
    assert not result.stderr
    assert not {path.name for path in project.iterdir()} & {"logs", "catalyst_logs", "checkpoints"}
    return outcome(project, name)


def test_callbacks_run_by_their_order(project: Path, plain: tuple) -> None:
    file = project / "order.csv"
    notes = [{"name": "note", "params": {"file": str(file), "order": order}} for order in (45, 25, 35)]
    assert_same_outcome(plain, train(project, "order", f"engine_callbacks: {notes}\n"))
    seen = [line.split(",") for line in file.read_text().splitlines()]
    batches = [line for line in seen if line[0] != "drawn"]
    assert [line[0] for line in batches] == ["order 25", "order 35", "order 45"] * (len(batches) // 3)
    train_batches = [line[4:] for line in batches if line[1] == "1" and line[2] == "train"]
    before = [["True", str(number in (2, 4)), "True"] for number in (1, 2, 3, 4, 5)]  # gradients of a half window
    after = [["False", str(number in (1, 3)), "True"] for number in (1, 2, 3, 4, 5)]
    assert train_batches[0::3] == before, "of order 25: the loss has its graph"
    assert train_batches[1::3] == [["False", "True", "True"]] * 5, "of order 35: the gradients are there"
    assert train_batches[2::3] == after, "of order 45: a window's gradients are gone, once the optimiser stepped"
    drawn = [float(line[3]) for line in seen if line[0] == "drawn"]
    assert not {random.Random(42 + epoch).random() for epoch in (0, 1, 2)} & set(drawn), "Catalyst seeded"


def test_a_callback_changes_the_loss(project: Path) -> None:
    """Half the loss at twice the rate is the same training, where nothing clips."""
    (project / "experiments/whole.yaml").write_text(SHORT)
    (project / "experiments/half.yaml").write_text(
        "extends: whole\noptimizer: {lr: 0.1}\nengine_callbacks: [{name: times, params: {factor: 0.5}}]\n"
    )
    for name in ("whole", "half"):
        expect(run_script(project, "train.py", name, "--fold", "0", "--as", f"free_{name}", "training.clip_grad=null"))
    assert outcome(project, "free_whole")[1] == outcome(project, "free_half")[1]


def test_counters_go_on_in_a_continued_run(project: Path, plain: tuple) -> None:
    file, flag = project / "counters.csv", project / "left"
    (project / "experiments/counters.yaml").write_text(
        SHORT
        + f"engine_callbacks: [{{name: note, params: {{file: {file}}}}}, "
        + f"{{name: leave, params: {{batch: 3, flag: {flag}}}}}]\n"
    )
    left = expect(run_script(project, "train.py", "counters", "--fold", "0"), 130)
    assert "is saved at epoch 1, batch 4" in left.last_line
    expect(run_script(project, "train.py", "counters", "--fold", "0"))
    assert_same_outcome(plain, outcome(project, "counters"))
    lines = [line.split(",")[1:4] for line in file.read_text().splitlines() if line.startswith("order")]
    positions = [(int(epoch), int(batch)) for epoch, loader, batch in lines if loader == "train"]
    assert positions == [(epoch, batch) for epoch in (1, 2) for batch in (1, 2, 3, 4, 5)]


def test_what_is_no_callback_of_catalyst(project: Path) -> None:
    (project / "experiments/none.yaml").write_text(SHORT + "engine_callbacks: [{name: none}]\n")
    result = expect(run_script(project, "train.py", "none", "--fold", "0"), 2)
    assert "NoCallback is no catalyst.dl.Callback" in result.last_line


def test_losses_are_scaled_and_gradients_unscaled(project: Path, plain: tuple) -> None:
    scaler = "{name: scale, params: {start: 1024, growth_interval: 2}}"
    assert_same_outcome(plain, train(project, "scaled", f"callbacks: [{scaler}]\n"))
    assert (project / "runs/scaled/fold_0/scale.txt").read_text() == "8192.0", "six steps double it three times"


def test_a_step_with_infinite_gradients_is_left_out(project: Path) -> None:
    """As a callback would leave it out."""
    scale = {"start": 2.0**127, "growth_interval": 100, "backoff_factor": 2.0**-117}
    scaler = json.dumps({"name": "scale", "params": scale})
    found = []
    for name, callback in (("infinite", scaler), ("vetoed", "{name: veto}")):
        (project / f"experiments/{name}.yaml").write_text(
            SHORT.replace("weight_decay: 0", "weight_decay: 0, params: {fused: false}").replace("accumulate: 2, ", "")
            + f"engine_callbacks: [{{name: times, params: {{factor: 1024}}}}]\ncallbacks: [{callback}]\n"
        )
        expect(run_script(project, "train.py", name, "--fold", "0"))
        predictions, weights, _ = outcome(project, name)
        found.append((predictions, weights, "of gradients, one has seen infinite ones"))
    assert_same_outcome(*found)
    assert (project / "runs/infinite/fold_0/scale.txt").read_text() == "1024.0", "one step was left out"
