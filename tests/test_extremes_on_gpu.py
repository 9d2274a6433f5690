"""Samples that are worth a look cost no training step a wait for the device."""

from pathlib import Path

import pandas as pd
import pytest

from pretended_gpu import ran
from projects import Renders
from training import demo_project, expect

pytestmark = pytest.mark.slow

WATCHING = ("callbacks/ranking.py", "callbacks/extremes.py", "callbacks/pictures.py", "segmentation/samples.py")
MIXED = "training.batch_transforms=[{name: mixup, params: {prob: 0.5}}]"
SHOWN = ["training.epochs=1", "training.precision=fp32", "watch.figure_epochs=1"]


@pytest.mark.parametrize(
    ("task", "ranking"),
    [
        ("classification", "accuracy"),
        ("segmentation", ""),
        pytest.param("segmentation", "dice", marks=pytest.mark.full),
        pytest.param("metric_learning", "", marks=pytest.mark.full),
    ],
)
def test_no_step_waits_and_the_same_are_found(task: str, ranking: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", task=task)
    settings = [*SHOWN, *(["training.max_rows=48"] if task == "segmentation" else ["training.max_rows=96", MIXED])]
    settings += [f"watch.extremes_by={ranking}"] if ranking else []
    done = ran(project, "train.py", "small", *settings, "--as", "there", "--fold", "0")
    expect(done)
    assert "left out" not in done.stdout, "every picture is drawn"
    waits = [wait for wait in done.blocking() if any(file in wait.place for file in WATCHING)]
    assert not waits, "\n".join(map(str, waits))
    expect(ran(project, "train.py", "small", *settings, "machine.device=cpu", "--as", "here", "--fold", "0"))
    for stage in ("train", "valid"):
        tables = [project / f"runs/{name}/fold_0/tables/worst_samples/{stage}.csv" for name in ("there", "here")]
        found, expected = (pd.read_csv(table, dtype={"id": str})[["id", "loss"]] for table in tables)
        assert len(found) == 8
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3)
    figures = project / "runs/there/fold_0/figures"
    drawn = [
        f"{kind}/{stage}" for kind in ("best_batch", "worst_batch", "best_samples") for stage in ("train", "valid")
    ]
    assert all((figures / f"{name}.png").is_file() for name in [*drawn, "grad_cam/worst", "grad_cam/random"])
