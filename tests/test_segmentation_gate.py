"""Two stages: whether there is anything in an image, then where; one submission comes out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from projects import Renders, imported, run_script
from training import expect

GATE = {
    "__init__.py": "",
    "tables.py": '''"""Is there any digit?"""

from competition.tables import test_rows, train_rows as masks

__all__ = ["test_rows", "train_rows"]


def train_rows(settings, data):
    rows = masks(settings.model_copy(update={"target_columns": ("mask",)}), data)
    return rows.assign(filled=["yes" if truth.present().any() else "no" for truth in rows["mask"]]).drop(columns="mask")
''',
    "targets.py": '''"""One head."""

from pipeline.competition import Head


def heads(settings, classes):
    return [Head("filled", "multiclass", tuple(classes["filled"]))]
''',
    "metric.py": '''"""The area under the ROC curve."""

from pipeline.metrics.image_level import find_metric


def metrics(settings):
    return (find_metric(settings.metric),)
''',
    "augmentations.py": '''"""Small images."""

import albumentations as A


def augmentations(stage, size):
    return A.Compose([A.Resize(*size)])
''',
}
FILLED = """\
stage: gate
image: {size: 64}
model: {encoder: test_resnet, pretrained: false}
training: {epochs: 1}
machine: {workers: 0}
"""
STAGES = """    stages={
        "gate": Competition(
            read_settings(__file__).model_copy(update={"target_columns": ("filled",), "metric": "roc_auc"}),
            "competition.gate",
        )
    },
)
"""


@pytest.fixture
def staged(renders: Renders, tmp_path: Path) -> Path:
    """A project of masks with a gate before it, as its user would write it."""
    project = renders.copy(
        tmp_path / "project", {"task": "segmentation", "extra_tasks": ["classification"], "trackers": []}
    )
    folder = project / "src/competition/gate"
    folder.mkdir()
    for name, text in GATE.items():
        (folder / name).write_text(text)
    (project / "experiments/filled.yaml").write_text(FILLED)
    init = project / "src/competition/__init__.py"
    init.write_text(init.read_text().removesuffix(")\n") + STAGES)
    return project


@pytest.mark.slow
def test_a_gate_feeds_the_masks(staged: Path) -> None:
    expect(run_script(staged, "make_demo_data.py"))
    expect(run_script(staged, "make_folds.py", "--n-folds", "2", "--no-leak-report"))
    common = (
        "demo",
        "machine.workers=0",
        "training.epochs=1",
        "model.encoder=test_resnet",
        "image.size=64",
        "watch.figure_epochs=0",
    )
    expect(run_script(staged, "train.py", "filled"))
    for script in ("evaluate.py", "predict.py"):
        expect(run_script(staged, script, "filled"))
    gated = ("inputs={gate: filled}", "task.params.gate=gate:filled:yes", "task.params.overlap=0.125")
    expect(run_script(staged, "train.py", *common, *gated, "--as", "where"))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(run_script(staged, script, "where"))
    for file in ("oof.parquet", "test.parquet"):
        gate = pd.read_parquet(staged / "runs/filled" / file).set_index("id")["filled:yes"]
        masks = pd.read_parquet(staged / "runs/where" / file).set_index("id")
        for name in ("light", "dark"):
            assert np.allclose(masks[f"mask_{name}@presence"], gate[masks.index], atol=1e-6)
    sample = pd.read_csv(staged / "data/raw/sample_submission.csv")
    made = pd.read_csv(staged / "submissions/where.csv")
    assert made[["image_id", "class"]].equals(sample[["image_id", "class"]])


def test_what_is_surely_empty_has_no_mask(staged: Path) -> None:
    with imported(staged):
        from pipeline.competition import Head
        from pipeline.heads.mask_decoding import decoded, gated
        from toolkit.errors import UserError
        from toolkit.masks.maps import encode

        head = Head("mask", "mask", ("a", "b"))
        sure = encode(np.full((4, 4), 250, np.uint8), (4, 4))
        predictions = pd.DataFrame({"mask_a": [sure] * 2, "mask_b": [sure] * 2}, index=pd.Index(["x", "y"], name="id"))
        rows = pd.DataFrame({"id": ["y", "x"], "gate:a": [0.9, 0.1], "gate:b": [0.2, 0.8]})
        found = gated(rows, predictions, [head], "gate:{class}")
        shown = [planes.any(axis=(1, 2)).tolist() for planes in decoded(found, head)]
        assert shown == [[False, True], [True, False]]
        both = gated(rows, found, [head], "gate:{class}")
        assert np.allclose(both["mask_a@presence"], [0.01, 0.81])
        with pytest.raises(UserError, match="no earlier stage predicts 'gate:c'"):
            gated(rows, predictions, [head], "gate:c")
