"""The experiments that masks come with: `debug` tells a broken pipeline from a sound one, `strong` holds together."""

from pathlib import Path

import pandas as pd
import pytest

from projects import Renders, Result, run_script
from training import demo_project, expect, register

pytestmark = pytest.mark.slow

TINY = ("model.pretrained=false", "image.size=64", "machine.workers=0", "--fold", "0")
DEAF = '''"""A loss that the network never hears of."""

import torch


class Deaf(torch.nn.Module):
    def __init__(self, head):
        super().__init__()

    def forward(self, logits, target):
        return (logits.detach() - target).square().mean(dim=(1, 2, 3)) + 0 * logits.mean(dim=(1, 2, 3))
'''


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = demo_project(renders, tmp_path_factory.mktemp("masks") / "project", task="segmentation")
    (made / "src/competition/broken.py").write_text(DEAF)
    register(made, "loss", {"deaf": "competition.broken:Deaf"})
    return made


def debug(project: Path, name: str, *settings: str) -> Result:
    tiny = ("model.encoder=test_resnet", "model.params={decoder_channels: [32, 16, 16, 8, 8]}", "optimizer.lr=1e-2")
    return run_script(project, "train.py", "debug", *TINY, *tiny, *settings, "--as", name)


def test_a_sound_pipeline_passes(project: Path) -> None:
    said = expect(debug(project, "sound")).stdout
    assert "learning test: the same 8 rows, 200 steps" in said and "passed: the loss fell" in said


@pytest.mark.parametrize(
    ("name", "setting", "hint"),
    [
        ("deaf", "losses=[{head: mask, loss: deaf}]", "never got a gradient"),
        ("still", "optimizer.lr=1e-9", "a rate that is too small"),
    ],
)
def test_a_broken_pipeline_fails_and_is_told_where_to_look(project: Path, name: str, setting: str, hint: str) -> None:
    result = expect(debug(project, name, setting), 2)
    assert "the learning test failed" in result.last_line and hint in result.last_line


def test_what_strong_sets_goes_together(project: Path) -> None:
    """With its decoder on a tiny encoder, and one epoch on a few rows."""
    few = ("model.encoder=test_efficientnet", "training.epochs=1", "training.max_rows=8")
    said = expect(run_script(project, "train.py", "strong", *TINY, *few, "--as", "strong_tiny")).stdout
    assert "encoder_00" in said and "unknown" not in said
    assert len(pd.read_parquet(project / "runs/strong_tiny/fold_0/oof.parquet")) == 8
