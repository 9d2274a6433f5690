"""Whole trainings on a pretended GPU: every kind of task, cut off and continued, up to a checked submission."""

from pathlib import Path

import pandas as pd
import pytest

from engines import ENGINES
from pretended_gpu import ran
from projects import Renders, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome

pytestmark = pytest.mark.slow

INTERRUPT = '''"""A callback for tests."""

import os
import signal

from pipeline.callbacks import Callback


class Interrupt(Callback):
    """Sends Ctrl-C before a batch, and before the end of an epoch, each once."""

    def __init__(self, *, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_batch_start(self, run, stage, batch):
        if stage == "train" and (run.progress.epoch, run.progress.batch) == (self.epoch, self.batch):
            self.once(run, "batch")

    def on_epoch_start(self, run, stage):
        if stage == "valid" and run.progress.epoch == self.epoch:
            self.once(run, "epoch")

    def once(self, run, name):
        flag = run.folder / f"interrupted-{name}"
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)
'''
TASKS = ("classification", "multilabel", "regression", "multitask", "metric_learning", "segmentation")
# Each task once, each engine, and fp16 with Lightning's own scaling; all others take minutes.
QUICK = [
    *zip(TASKS[:4], ENGINES, ["bf16"] * 4, strict=True),
    ("metric_learning", "lightning", "fp16"),
    ("segmentation", "ignite", "bf16"),
]
CROSS = [(task, engine, precision) for task in TASKS for engine in ENGINES for precision in ("bf16", "fp16")]
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.full) for case in CROSS]


def project_of(renders: Renders, target: Path, engine: str, task: str) -> Path:
    """A project with demo data and the callback `Interrupt`."""
    project = demo_project(renders, target, engine, task)
    add_callbacks(project, INTERRUPT, Interrupt="Interrupt")
    return project


@pytest.mark.parametrize(("task", "engine", "precision"), CASES)
def test_a_task_walks_the_whole_path(task: str, engine: str, precision: str, renders: Renders, tmp_path: Path) -> None:
    """Cut off in the middle of an epoch, after a step that was looked at, and at its end: it goes on to the bit."""
    project = project_of(renders, tmp_path / "project", engine, task)
    text = f"extends: small\ntraining: {{ precision: {precision} }}\nwatch: {{ gradient_steps: 3 }}\n"
    if task in TASKS[:4]:  # whose every class a few rows show
        table = project / "data/raw/train.csv"
        pd.read_csv(table, dtype=str, keep_default_na=False).head(400).to_csv(table, index=False)
        expect(run_script(project, "make_folds.py", "--n-folds", "2", "--no-leak-report", "--force"))
        text = text.replace("training: {", "training: { batch_size: 20,")
    (project / "experiments/whole.yaml").write_text(text)
    cut = text + "callbacks: [{ name: Interrupt, params: { epoch: 0, batch: 3 } }]\n"
    (project / "experiments/cut.yaml").write_text(cut)
    expect(ran(project, "train.py", "whole", "--fold", "0"))
    for where in ("epoch 1, batch 4", "epoch 2, batch 0"):
        said = expect(ran(project, "train.py", "cut", "--fold", "0"), 130).stdout
        assert f"fold 0 is saved at {where}" in said
    expect(ran(project, "train.py", "cut", "--fold", "0"))
    assert_same_outcome(outcome(project, "whole"), outcome(project, "cut"))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(ran(project, script, "cut"))
    assert (project / "submissions/cut.csv").is_file()
    assert pd.read_csv(project / "runs/cut/fold_0/metrics.csv")["valid/loss"].count() == 2
