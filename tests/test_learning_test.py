"""`train.py debug` tells a broken pipeline from a hard problem."""

from pathlib import Path

import pytest

from projects import Renders, Result, run_script
from training import demo_project, expect

pytestmark = pytest.mark.slow

BROKEN = '''"""Ways to break a pipeline."""

import zlib

import numpy as np
import torch
from toolkit.images.readers import image


def black(path, size, *, channels: int = 3):
    """A reader that loses the image."""
    return np.zeros_like(image(path, size, channels=channels))


class Deaf(torch.nn.Module):
    """A loss that the encoder never hears of."""

    def __init__(self, head):
        super().__init__()

    def forward(self, logits, target):
        return torch.nn.functional.cross_entropy(logits.detach() + 0 * logits, target, reduction="none")


class Drifting(torch.nn.Module):
    """Labels that are others at every reading."""

    def __init__(self, head):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, logits, target):
        other = torch.randint(logits.shape[1], target.shape, generator=self.generator)
        return torch.nn.functional.cross_entropy(logits, other, reduction="none")
'''
NAMES = """names={
        "reader": {"black": "competition.broken:black"},
        "loss": {"deaf": "competition.broken:Deaf", "drifting": "competition.broken:Drifting"},"""
SMALL = (
    "model.encoder=test_resnet",
    "model.pretrained=false",
    "image.size=32",
    "optimizer.lr=1e-2",
    "machine.workers=0",
)


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = demo_project(renders, tmp_path_factory.mktemp("learning") / "project")
    (made / "src/competition/broken.py").write_text(BROKEN)
    package = made / "src/competition/__init__.py"
    package.write_text(package.read_text().replace("names={", NAMES))
    return made


def debug(project: Path, name: str, *settings: str) -> Result:
    return run_script(project, "train.py", "debug", *SMALL, *settings, "--as", name, "--fold", "0")


def test_a_sound_pipeline_passes(project: Path) -> None:
    said = expect(debug(project, "sound")).stdout
    assert "16 of 1,037 rows train, 16 are held out" in said
    assert "learning test: the same 16 rows, 60 steps" in said and "passed: the loss fell" in said
    assert "training.max_rows" in expect(run_script(project, "evaluate.py", "sound", "--fold", "0"), 2).last_line


def test_a_hard_problem_passes_too(project: Path) -> None:
    """Labels that have nothing to do with the images are hard, and no fault of the pipeline."""
    path = project / "data/raw/train.csv"
    text = path.read_text()
    header, *rows = text.strip().splitlines()
    pairs = [row.split(",") for row in rows]
    moved = [f"{pair[0]},{pairs[(number * 7 + 3) % len(pairs)][1]}" for number, pair in enumerate(pairs)]
    path.write_text("\n".join([header, *moved]) + "\n")
    try:
        assert "passed" in expect(debug(project, "hard")).stdout
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "setting", "hint"),
    [
        ("black", "image.reader=black", "every image of the batch is the same"),
        ("deaf", "losses=[{head: label, loss: deaf}]", "never got a gradient"),
        ("drifting", "losses=[{head: label, loss: drifting}]", "labels that change between two readings"),
        ("still", "optimizer.lr=1e-9", "a rate that is too small"),
    ],
)
def test_a_broken_pipeline_fails_and_is_told_where_to_look(project: Path, name: str, setting: str, hint: str) -> None:
    result = expect(debug(project, name, setting), 2)
    assert "the learning test failed" in result.last_line and hint in result.last_line
    assert not (project / f"runs/{name}/fold_0/fold.json").exists()
