"""The examples, walked as their READMEs say, and graded by code that is not ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import log_loss

from projects import ROOT, Renders, run_script
from training import expect

pytestmark = pytest.mark.slow


def test_state_farm_by_answers_alone(renders: Renders, tmp_path: Path) -> None:
    example = ROOT / "examples" / "state-farm"
    project = renders.copy(tmp_path / "project", yaml.safe_load((example / "answers.yml").read_text()))
    raw = project / "data/raw"
    subprocess.run([sys.executable, str(example / "make_data.py"), str(raw)], check=True, timeout=60)
    assert "no leaks" in expect(run_script(project, "make_folds.py", "--n-folds", "4")).stdout
    expect(run_script(project, "check_data.py"))
    settings = ("image.size=48", "model.encoder=test_resnet", "training.epochs=10", "machine.workers=0")
    for fold in "0123":
        name = ["demo", *settings, "--as", "first"]
        expect(run_script(project, "train.py", *name, "--fold", fold))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "first"))
    folds = pd.read_csv(project / "folds/folds.csv")
    assert folds.groupby("group")["fold"].nunique().max() == 1, "a driver crosses folds"
    submission = pd.read_csv(project / "submissions/first.csv").set_index("img")
    answers = pd.read_csv(raw / "hidden_answers.csv").set_index("img")["classname"]
    classes = [f"c{number}" for number in range(10)]
    assert list(submission.columns) == classes
    assert list(submission.index) == list(answers.index), "the sample's order"
    assert np.abs(submission.sum(axis=1) - 1).max() < 1e-5
    score = log_loss(answers, submission[classes].to_numpy(), labels=classes)
    assert score < 0.5 * np.log(10), "far better than the constant prediction of the sample"
