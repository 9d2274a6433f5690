"""A training step on a GPU waits for nothing that watches it, and is skipped there as on a CPU."""

from pathlib import Path

import pandas as pd
import pytest

from engines import ENGINES
from pretended_gpu import ran
from projects import Renders
from training import add_callbacks, demo_project, expect

pytestmark = pytest.mark.slow

WATCHING = ("callbacks/__init__.py", "non_finite/", "debug/", "callbacks/gradients.py", "callbacks/log.py", "trackers/")
STEPPING = ("training/trainer.py", "training/optimizer.py", "training/step.py", "engine/__init__.py")
POISON = '''"""A callback for tests."""

import torch

from pipeline.callbacks import Callback


class Poison(Callback):
    """Writes a NaN into a gradient of the second step, on the device."""

    every_process = True

    def on_gradients_ready(self, run):
        if run.progress.step == 1:
            next(iter(run.model.network.parameters())).grad.fill_(torch.nan)
        return super().on_gradients_ready(run)
'''


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("lightning", "bf16"),
        ("lightning", "fp16"),
        *(pytest.param(engine, "bf16", marks=pytest.mark.full) for engine in ENGINES[1:]),
    ],
)
def test_no_step_waits(engine: str, precision: str, renders: Renders, tmp_path: Path) -> None:
    """Neither an ordinary one nor one that is looked at, drawn and logged."""
    project = demo_project(renders, tmp_path / "project", engine)
    settings = [
        "watch.figure_epochs=1",
        "training.clip_grad=1",
        "training.max_rows=192",
        "training.batch_size=16",
        "tracking.every_steps=3",
        f"training.precision={precision}",
    ]
    done = ran(project, "train.py", "small", "training.epochs=1", *settings, "--as", "waits", "--fold", "0")
    expect(done)
    waits = [wait for wait in done.blocking() if any(file in wait.place for file in (*WATCHING, *STEPPING))]
    assert not waits, "\n".join(map(str, waits))
    copies = [wait for wait in done.waits if wait.kind == "later" and "callbacks/" in wait.place]
    assert {wait.step for wait in copies if wait.bytes < 4096} >= set(range(10)), "a flag of each step"
    for name, every in (("metrics", 3), ("gradients", 5)):
        steps = pd.read_csv(project / f"runs/waits/fold_0/{name}.csv")["step"].tolist()
        assert steps[:3] == [0, every, 2 * every] and steps == sorted(steps)


def test_a_step_is_skipped_with_the_same_words(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    add_callbacks(project, POISON, Poison="Poison")
    settings = ["callbacks=[Poison]", "watch.non_finite=skip", "training.epochs=1", "training.precision=fp32"]
    said = {}
    for device in ("auto", "cpu"):
        name = f"on-{device}"
        done = ran(project, "train.py", "small", *settings, f"machine.device={device}", "--as", name, "--fold", "0")
        said[device] = [line for line in expect(done).stdout.splitlines() if "; skipped, 1 of at most 10" in line]
    assert len(said["auto"]) == 1 and "step 1 (epoch 1, batch 2)" in said["auto"][0]
    assert "the gradient of network" in said["auto"][0]
    assert said["auto"][0].replace("on-auto", "on-cpu") == said["cpu"][0]
