"""A training step on the pretended GPU waits for nothing; a wait or a mix of devices is found with its place."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from engines import ENGINES
from pretended_gpu import Ran, Wait, ran
from projects import Renders
from training import add_callbacks, demo_project, expect

pytestmark = pytest.mark.slow

EVERY = 5  # optimiser steps from one look to the next
FLAG, LOOK = 1024, 65_536  # most bytes that any step sends for later (flags, norms of gradients), and a look
LOOKS = f"training: {{epochs: 2}}\ntracking: {{every_steps: {EVERY}}}\n"
QUIET = f"watch: {{figure_epochs: 0, gradient_steps: {EVERY}}}\n"
PICTURES = f"watch: {{figure_epochs: 1, gradient_steps: {EVERY}}}\n"
PLANTED = '''"""Callbacks for tests: faults that only a GPU shows."""

import torch

from pipeline.callbacks import Callback


class Reads(Callback):
    """Waits for the loss of each batch."""

    def on_batch_end(self, run, stage, batch, result):
        result["loss"].item()  # planted


class Mixes(Callback):
    """Adds numbers that were made on the CPU."""

    def on_batch_end(self, run, stage, batch, result):
        torch.ones(2) + result["loss"].expand(2)  # planted


class Sends(Callback):
    """Copies to pinned memory, which nobody waits for; and reads what it copied a batch before."""

    copy = None

    def on_batch_end(self, run, stage, batch, result):
        if self.copy is not None:
            float(self.copy)
        self.copy = torch.empty((), pin_memory=True).copy_(result["loss"].detach().float(), non_blocking=True)
'''


def assert_waits_for_nothing(waits: list[Wait]) -> None:
    """No wait in an ordinary step, and no copy but of a flag; where a run is looked at, small copies, and few.

    Updates are known a step after gradients were looked at. The state that is saved, and what a stage comes to after
    its last batch, are no part of a step.
    """
    steps: dict[int, list[Wait]] = defaultdict(list)
    for wait in waits:
        if wait.kind != "sent":  # batches, which come while the one before is computed on
            steps[wait.step].append(wait)
    ordinary = {step: found for step, found in steps.items() if step % EVERY > 1}
    blocking = [str(wait).partition(": ")[2] for found in ordinary.values() for wait in found if wait.kind != "later"]
    places = "; ".join(f"{count} times {place}" for place, count in Counter(blocking).items())
    assert not blocking, f"the host waits in ordinary steps: {places}"
    for step, found in steps.items():
        most, largest = (1, FLAG) if step in ordinary else (4, LOOK)
        large = sorted({str(wait) for wait in found if wait.bytes > largest})
        assert not large, f"copies of more than {largest} bytes: {large}"
        assert len(found) <= most, f"{len(found)} copies in a step: {sorted({str(wait) for wait in found})}"


def train(renders: Renders, target: Path, engine: str, task: str, settings: str) -> Ran:
    project = demo_project(renders, target, engine, task)
    add_callbacks(project, PLANTED, **{name: name for name in ("Reads", "Mixes", "Sends")})
    (project / "experiments/watched.yaml").write_text(f"extends: small\n{LOOKS}{settings}")
    return ran(project, "train.py", "watched", "--fold", "0")


@pytest.mark.parametrize(
    ("engine", "task"), [*((engine, "classification") for engine in ENGINES), ("lightning", "segmentation")]
)
def test_an_ordinary_step_waits_for_nothing(engine: str, task: str, renders: Renders, tmp_path: Path) -> None:
    run = expect(train(renders, tmp_path / "project", engine, task, QUIET))
    assert {wait.kind for wait in run.waits} >= {"sent"}, "the waits are told at all"
    assert_waits_for_nothing(run.waits)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_step_of_an_epoch_with_pictures_waits_for_nothing(task: str, renders: Renders, tmp_path: Path) -> None:
    """Weights and gradients are drawn from its last step."""
    run = expect(train(renders, tmp_path / "project", "ignite", task, PICTURES))
    last = max(wait.batch for wait in run.waits)
    assert_waits_for_nothing([wait for wait in run.waits if wait.batch < last])


def test_a_planted_read_is_found_with_its_place(renders: Renders, tmp_path: Path) -> None:
    run = expect(train(renders, tmp_path / "project", "ignite", "classification", QUIET + "callbacks: [Reads]\n"))
    with pytest.raises(AssertionError, match=r"item .* at src/competition/callbacks.py:12 on_batch_end"):
        assert_waits_for_nothing(run.waits)


def test_a_copy_that_nobody_waits_for_is_no_wait(renders: Renders, tmp_path: Path) -> None:
    run = expect(train(renders, tmp_path / "project", "ignite", "classification", QUIET + "callbacks: [Sends]\n"))
    ours = [wait for wait in run.waits if "competition/callbacks.py" in wait.place]
    assert {wait.kind for wait in ours} == {"later"} and len(ours) > EVERY


@pytest.mark.parametrize("engine", ["lightning", "ignite"])
def test_a_planted_tensor_of_another_device_fails_with_its_place(engine: str, renders: Renders, tmp_path: Path) -> None:
    said = train(renders, tmp_path / "project", engine, "classification", QUIET + "callbacks: [Mixes]\n")
    assert said.status == 1
    assert 'src/competition/callbacks.py", line 19, in on_batch_end' in said.stderr
    assert "Expected all tensors to be on the same device" in said.last_line
