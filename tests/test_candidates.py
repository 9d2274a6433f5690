"""Every candidate for a fold's weights is kept under its name, scored, and predicts when it is asked for."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.inference.weights import BEST, weights_file
from projects import Renders, imported
from toolkit.errors import UserError
from training import assert_same_outcome, demo_project, outcome

SETTINGS = [
    "training.epochs=2",
    "training.batch_size=128",
    "averaging.best_epochs=2",
    "averaging.swa_start=-1",
    "averaging.ema_decay=0.9",
]


def test_a_name_that_a_fold_does_not_have_is_one_line_with_those_it_has(tmp_path: Path) -> None:
    fold = tmp_path / "runs/one/fold_0"
    fold.mkdir(parents=True)
    for record, has in (
        ({}, "best"),
        ({"candidates": {"ema": {"file": BEST}, "mean": {"file": "m"}}}, "best, ema, mean"),
    ):
        (fold / "fold.json").write_text(json.dumps(record))  # the first one is of an older version
        assert weights_file(fold, "best") == fold / BEST
        with pytest.raises(UserError, match=rf"^one/fold_0 has no weights 'men'; it has {has}; averaging"):
            weights_file(fold, "men")
    assert weights_file(fold, "ema") == fold / BEST and weights_file(fold, "mean") == fold / "m"


@pytest.mark.slow
def test_candidates_are_scored_and_predict(
    renders: Renders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after a kill between two of them."""
    project = demo_project(renders, tmp_path / "project")
    with imported(project):
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.inference.command import predict_run
        from pipeline.inference.evaluation import evaluate_run
        from pipeline.inference.snapshot import run_competition
        from pipeline.project import Project
        from pipeline.report import print_differences
        from pipeline.training import finish
        from pipeline.training.fold import train
        from pipeline.training.setup import prepare

        at = Project.at(project)
        setups = {
            name: prepare(at, competition, name, load_experiment(at, "small", SETTINGS)) for name in ("kept", "same")
        }
        validate, calls = finish.validate, []

        def killed(trainer: object) -> object:
            calls.append(trainer)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return validate(trainer)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(finish, "validate", killed)
            train(setups["kept"], "0", restart=False)
        assert not (at.run("kept") / "fold_0/fold.json").exists()
        train(setups["kept"], "0", restart=False)
        train(setups["same"], "0", restart=False)
        run, kept = at.run("kept"), at.run("kept") / "fold_0"
        assert_same_outcome(outcome(project, "kept"), outcome(project, "same"))
        candidates = json.loads((kept / "fold.json").read_text())["candidates"]
        assert set(candidates) == {"ema", "mean", "swa", "raw"}
        files = {one["file"] for one in candidates.values()}
        assert files == {path.name for path in kept.glob("*.safetensors")} and len(files) == 4 and BEST in files
        means = [load_file(at.run(name) / "fold_0/mean.safetensors") for name in ("kept", "same")]
        assert all(torch.equal(value, means[1][name]) for name, value in means[0].items())

        def call(what: object, weights: str) -> str:
            capsys.readouterr()
            with run_competition(run) as own:
                if what is evaluate_run:
                    evaluate_run(at, own, run, at.data, None, weights)
                else:
                    predict_run(at, own, run, at.data, None, {"workers": 0}, weights=weights)
            return capsys.readouterr().out

        said = call(evaluate_run, "mean")
        assert all(f"│ {name}" in said for name in ("ema", "mean", "swa", "raw", "best"))
        assert _row(said, "* │ mean")[0] == pytest.approx(_row(said, "fold 0")[0], abs=1e-3)
        scores = json.loads((run / "cv.json").read_text())
        assert scores["folds"]["0"]["log_loss"] == pytest.approx(candidates["mean"]["metrics"]["log_loss"], rel=1e-4)
        of_mean = pd.read_parquet(kept / "oof.mean.parquet").drop(columns="fold")
        pd.testing.assert_frame_equal(pd.read_parquet(run / "oof.parquet"), of_mean)
        assert scores["weights"] == "mean" and scores["interval"]["low"] < scores["score"] < scores["interval"]["high"]
        print_differences(at, [run, at.run("same")])
        assert f"│ {len(pd.read_parquet(kept / 'oof.parquet'))} │" in " ".join(capsys.readouterr().out.split())
        assert "note: " not in call(predict_run, "mean").replace("note: 1 of 5", "")
        by_name = pd.read_parquet(run / "test.parquet").set_index("id")
        shutil.copy(kept / "mean.safetensors", kept / BEST)
        assert "of its weights 'mean'" in call(predict_run, "best")
        pd.testing.assert_frame_equal(pd.read_parquet(run / "test.parquet").set_index("id"), by_name)
        with pytest.raises(Exception, match="kept/fold_0 has no weights 'epoch'; it has best, ema, mean, swa, raw"):
            call(evaluate_run, "epoch")


def _row(said: str, begins: str) -> list[float]:
    """The numbers of a line of a table."""
    line = next(line for line in said.splitlines() if line.startswith(f"│ {begins}"))
    return [float(cell) for cell in line.split("│") if cell.strip().replace(".", "").isdigit()]
