"""Kills at random moments change nothing under any engine, with everything on."""

import json
from pathlib import Path

import pytest

from engines import ENGINES
from projects import Renders
from test_resume import IDEAS
from training import add_callbacks, assert_same_outcome, demo_project, killed, outcome

pytestmark = pytest.mark.slow

EVERYTHING = """extends: small
image: {cache: true}
model: {drop_rate: 0.2, multi_sample_dropout: 2}
training:
  epochs: 3
  accumulate: 3
  clip_grad: 0.5
  sampler: {name: balanced, params: {column: label}}
  batch_transforms: [{name: mixup, params: {mixup_alpha: 0.4, cutmix_alpha: 1.0, prob: 0.8}}]
optimizer: {layer_decay: 0.8}
schedule: {name: plateau, warmup_epochs: 1.5, params: {patience: 0, factor: 0.3, threshold: 0.5}}
averaging: {ema_decay: 0.9, swa_start: 2, best_epochs: 2}
interventions:
  - {epochs: [1, 1], set: {model.frozen: [encoder.layer1], image.size: 24}}
  - {epochs: [-1, -1], set: {training.batch_transforms: []}}
callbacks: [Remember]
checkpoints: {save_minutes: 0.0001}
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_kills_change_nothing_with_everything_on(renders: Renders, tmp_path: Path, engine: str) -> None:
    """EMA and SWA, accumulation, mixup, a balanced sampler, warm-up and plateau, clipping, frozen parts, a cache."""
    project = demo_project(renders, tmp_path / "project", engine)
    add_callbacks(project, IDEAS, Remember="Remember")
    for name in ("whole", "killed"):
        (project / f"experiments/{name}.yaml").write_text(EVERYTHING)
    killed(project, 0, "whole")
    assert killed(project, 3, "killed").count("going on at") >= 2
    assert_same_outcome(outcome(project, "whole"), outcome(project, "killed"))
    whole, again = (project / f"runs/{name}/fold_0" for name in ("whole", "killed"))
    assert (whole / "count.txt").read_text() == (again / "count.txt").read_text(), "a callback's memory"
    kept, kept_again = (json.loads((folder / "fold.json").read_text())["weights"] for folder in (whole, again))
    assert kept == kept_again
    raw = [folder / "best.raw.safetensors" for folder in (whole, again)]
    assert [path.is_file() for path in raw] == [raw[0].is_file()] * 2
    assert not list(again.rglob(".*")), "temporary files of killed writers are cleaned up"
