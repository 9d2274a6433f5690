"""Every kind of competition with its default answers and its demo, and under every framework."""

import json
from pathlib import Path

import pandas as pd
import pytest

from engines import ENGINES
from projects import Renders, run_process, run_script
from training import SMALL_MASKS, assert_close_maps, expect

GOALS = {  # metric and what the default demo has to reach out of fold, which is far above a constant prediction
    "multilabel": ("roc_auc", 0.95),
    "regression": ("r2", 0.7),
    "multitask": ("balanced_accuracy", 0.9),
    "metric_learning": ("map_at_5", 0.85),
}
QUICK = """extends: demo
image: {size: 24}
model: {encoder: test_resnet}
training: {epochs: 3, batch_size: 64}
machine: {workers: 0}
"""

pytestmark = pytest.mark.full


@pytest.mark.parametrize("task", GOALS)
def test_the_default_demo(task: str, renders: Renders, tmp_path: Path) -> None:
    """The command line, two folds, up to a checked submission that scores as the folds promise."""
    project = renders.copy(tmp_path / "demo", {"task": task})
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    expect(run_process(project, "train.py", "demo", timeout=900))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "demo"))
    cv = json.loads((project / "runs/demo/cv.json").read_text())
    name, goal = GOALS[task]
    assert cv["overall"][name] >= goal > cv["constant"][name] + 0.2
    submission = json.loads((project / "runs/demo/submission.json").read_text())
    best = cv["tuned"]["folds"].values() if cv.get("tuned", {}).get("used") else [cv["overall"]]
    promised = pd.DataFrame(best)[submission["metric"]].mean()
    assert submission["score"] == pytest.approx(promised, rel=0.15)


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "lightning"])
@pytest.mark.parametrize("task", [*GOALS, "segmentation"])
def test_each_framework_comes_to_the_same(task: str, engine: str, renders: Renders, tmp_path: Path) -> None:
    """One fold; predictions are those under Lightning, up to the rounding of sums."""
    found = []
    for framework in ("lightning", engine):
        project = renders.copy(tmp_path / framework, {"task": task, "framework": framework, "trackers": []})
        (project / "experiments/quick.yaml").write_text(SMALL_MASKS if task == "segmentation" else QUICK)
        expect(run_script(project, "make_demo_data.py"))
        expect(run_script(project, "make_folds.py", "--n-folds", "3"))
        expect(run_script(project, "train.py", "quick", "--fold", "0"))
        found.append(pd.read_parquet(project / "runs/quick/fold_0/oof.parquet"))
    if task == "segmentation":
        assert_close_maps(project, *found)
    else:
        pd.testing.assert_frame_equal(*found, rtol=1e-4, atol=1e-4)
