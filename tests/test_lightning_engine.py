"""What is special to the Lightning engine: callbacks of Lightning's own, added from src/competition."""

from pathlib import Path

import pytest

from projects import Renders, run_script
from training import assert_same_outcome, demo_project, expect, outcome, register

pytestmark = pytest.mark.slow

NATIVE = '''"""Callbacks of Lightning's own kind."""

import lightning


class Diary(lightning.Callback):
    """Writes down Lightning's events, and changes nothing."""

    def __init__(self, *, name: str = "diary") -> None:
        self.name = name

    def on_train_start(self, trainer, module):
        self.file = module.loop.folder / f"{self.name}.txt"

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with self.file.open("a") as file:
            print(f"{trainer.current_epoch} {batch_idx} {outputs['loss'].item():.4f}", file=file)


class Halve(lightning.Callback):
    """Halves each gradient before the optimiser steps."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        for parameter in module.parameters():
            parameter.grad *= 0.5


class Other:
    """Is no callback."""
'''


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = demo_project(renders, tmp_path_factory.mktemp("lightning") / "project")
    (project / "src/competition/native.py").write_text(NATIVE)
    names = {name.lower(): f"competition.native:{name}" for name in ("Diary", "Halve", "Other")}
    register(project, "engine_callback", names)
    train(project, "plain", "engine_callbacks=[]")
    return project


def train(project: Path, name: str, callbacks: str, status: int = 0) -> str:
    settings = ("optimizer.name=sgd", "training.epochs=1", "optimizer.lr=0.02")
    result = run_script(project, "train.py", "small", *settings, callbacks, "--as", name, "--fold", "0")
    return expect(result, status).stderr


def test_callbacks_of_lightning_join_its_trainer(project: Path) -> None:
    train(project, "diary", "engine_callbacks=[diary, {name: diary, params: {name: second}}]")
    folder = project / "runs/diary/fold_0"
    lines = (folder / "diary.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["0", str(batch)] for batch in range(16)]
    assert (folder / "second.txt").read_text().splitlines() == lines
    assert_same_outcome(outcome(project, "plain"), outcome(project, "diary"))
    train(project, "halved", "engine_callbacks=[halve]")
    assert outcome(project, "halved")[1] != outcome(project, "plain")[1]


def test_what_is_no_callback_is_refused_by_name(project: Path) -> None:
    said = train(project, "wrong", "engine_callbacks=[other]", status=2)
    assert said.strip() == "error: engine_callbacks: Other is no lightning.Callback; derive it from that"
    assert not (project / "runs/wrong").exists()
    assert "unknown engine_callback 'dairy'; did you mean 'diary'?" in train(
        project, "typo", "engine_callbacks=[dairy]", status=2
    )
