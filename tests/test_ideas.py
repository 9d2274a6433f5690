"""Room for the user's own ideas: a reader, a model, a loss, a step and a callback by name, with settings of their own,
without an edit in the pipeline. The run predicts from its snapshot after the code has moved on."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from projects import Renders, files, run_script
from training import demo_project, expect

pytestmark = pytest.mark.slow

IDEAS = '''"""Everything of one's own in one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.callbacks import Callback
from pipeline.competition import Head
from pipeline.config import Model
from pipeline.keys import INPUT_IMAGE
from pipeline.registry import Registry
from pipeline.types import Batch, Run, Stage, StepContext, StepResult

STRENGTH = 1.0


def edges(path: Path, size: tuple[int, int], *, ksize: int = 3) -> np.ndarray:
    """Grey image, and its gradients, as float32 in [0, 1]: (H, W, 3)."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    sides = [np.abs(cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx, ksize=ksize)) / 4 for dx in (0, 1)]
    return STRENGTH * np.clip(np.stack([grey, *sides], axis=2), 0, 1)


class Tiny(nn.Module):
    """A network without timm that returns one output more than the heads ask for."""

    def __init__(self, heads: Sequence[Head], settings: Model, names: Registry, *, width: int = 16) -> None:
        super().__init__()
        self.mean, self.std = [0.2] * settings.in_chans, [0.3] * settings.in_chans
        layers: list[nn.Module] = []
        for inside, outside in ((settings.in_chans, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.key = heads[0].output_key
        self.head = nn.Linear(16 * width, len(heads[0].classes))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.body(batch[INPUT_IMAGE])
        return {self.key: self.head(features), "output_embedding": features}


class Focal(nn.Module):
    """Focal loss per sample (Lin et al., arXiv:1708.02002)."""

    def __init__(self, head: Head, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = functional.cross_entropy(logits.float(), target, reduction="none")
        return (1 - torch.exp(-loss)) ** self.gamma * loss


class Small(nn.Module):
    """A loss without a head: it sees every output."""

    def __init__(self, head: None) -> None:
        super().__init__()

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return outputs["output_embedding"].float().square().mean(dim=1)


def noisy(batch: Batch, model: Any, context: StepContext, *, sigma: float = 0.05) -> StepResult:
    """Trains on prepared images with noise on them."""
    prepared = model.prepare(batch)
    if context.stage == "train":
        prepared[INPUT_IMAGE] = prepared[INPUT_IMAGE] + sigma * torch.randn_like(prepared[INPUT_IMAGE])
    outputs = model.network(prepared)
    return {**context.criterion(outputs, batch), "outputs": {key: value.detach() for key, value in outputs.items()}}


class Largest(Callback):
    """Writes down the id of the worst sample of every batch."""

    def __init__(self, *, file: str = "worst.txt") -> None:
        self.file = file

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        worst = int(result["sample_losses"]["label_focal"].argmax())
        with (run.folder / self.file).open("a") as file:
            print(stage, batch["input_id"][worst], file=file)
'''
NAMES = """
        "reader": {"edges": "competition.ideas:edges"},
        "model": {"tiny": "competition.ideas:Tiny"},
        "loss": {"focal": "competition.ideas:Focal", "small": "competition.ideas:Small"},
        "step": {"noisy": "competition.ideas:noisy"},
        "callback": {"largest": "competition.ideas:Largest"},
"""
EXPERIMENT = """extends: small
image: {size: 32, reader: {name: edges, params: {ksize: 5}}}
model: {name: tiny, params: {width: 12}}
losses:
  - {head: label, loss: {name: focal, params: {gamma: 1.5}}}
  - {loss: small, weight: 0.01}
step: {name: noisy, params: {sigma: 0.1}}
callbacks: [{name: largest, params: {file: largest.txt}}]
training: {epochs: 3, batch_size: 32}
"""


def sources(project: Path) -> dict[str, bytes]:
    """The pipeline's files, without what Python caches beside them."""
    return {name: data for name, data in files(project / "src/pipeline").items() if "__pycache__" not in name}


@pytest.fixture(scope="module")
def trained(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = demo_project(renders, tmp_path_factory.mktemp("ideas") / "project")
    pipeline = sources(project)
    package = project / "src/competition"
    (package / "ideas.py").write_text(IDEAS)
    init = package / "__init__.py"
    init.write_text(init.read_text().replace("names={", "names={" + NAMES))
    (project / "experiments/own.yaml").write_text(EXPERIMENT)
    expect(run_script(project, "train.py", "own", "--fold", "0"))
    assert sources(project) == pipeline, "nothing in the pipeline was edited"
    return project


def test_it_learns_with_everything_of_its_own(trained: Path) -> None:
    oof = pd.read_parquet(trained / "runs/own/fold_0/oof.parquet").set_index("id")
    truth = pd.read_csv(trained / "data/raw/train.csv", dtype=str).set_index("image_id")["label"]
    predicted = oof[[f"label:{digit}" for digit in range(10)]].to_numpy().argmax(axis=1).astype(str)
    assert (truth.loc[oof.index].to_numpy() == predicted).mean() > 0.6
    metrics = pd.read_csv(trained / "runs/own/fold_0/metrics.csv")
    assert {"train/label_focal", "train/small", "valid/label_focal"} <= set(metrics)
    means = metrics.dropna(subset=["train/loss"])
    total = means["train/label_focal"] + 0.01 * means["train/small"]
    assert (means["train/loss"] - total).abs().max() < 1e-4, "the loss is the weighted sum of its terms"
    worst = (trained / "runs/own/fold_0/largest.txt").read_text().splitlines()
    assert {line.split()[0] for line in worst} == {"train", "valid"}


def test_the_saved_config_holds_every_setting(trained: Path) -> None:
    text = (trained / "runs/own/config.yaml").read_text()
    for setting in ("gamma: 1.5", "width: 12", "ksize: 5", "sigma: 0.1", "save_minutes: 10.0", "file: largest.txt"):
        assert setting in text


def test_it_predicts_from_its_snapshot_after_the_code_moved_on(trained: Path, tmp_path: Path) -> None:
    expect(run_script(trained, "predict.py", "own", "--fold", "0"))
    before = pd.read_parquet(trained / "runs/own/test.parquet")
    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    ideas = moved / "src/competition/ideas.py"
    ideas.write_text(
        ideas.read_text().replace("STRENGTH = 1.0", "STRENGTH = 0.1").replace("width: int = 16", "wide: int = 9")
    )
    (moved / "src/competition/tables.py").unlink()
    expect(run_script(moved, "predict.py", "own", "--fold", "0"))
    pd.testing.assert_frame_equal(before, pd.read_parquet(moved / "runs/own/test.parquet"), check_exact=True)
    assert "competition.tables" in expect(run_script(moved, "train.py", "own", "--fold", "0"), 2).last_line


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("model.params.widht=3", "width"),
        ("losses.0.loss.params.gamma=strong", "gamma"),
        ("losses.0.loss.name=focall", "focal"),
        ("step.params.sigmaa=1", "sigma"),
        ("image.reader.name=edge", "edges"),
    ],
)
def test_its_settings_are_as_strict_as_the_pipelines(trained: Path, setting: str, hint: str) -> None:
    name = "bad-" + setting.partition("=")[0].replace(".", "-")
    result = run_script(trained, "train.py", "own", setting, "--as", name, "--fold", "0")
    assert result.status != 0 and hint in result.stderr
