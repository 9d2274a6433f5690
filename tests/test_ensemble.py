"""Ensembles as experiments: made, refused, evaluated, predicted, submitted and members of others."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.inference import ensemble as ensembles
from pipeline.inference.snapshot import run_competition
from pipeline.project import Project
from planted_runs import importable, plant
from projects import Renders, run_script
from toolkit.errors import UserError
from toolkit.files import write_json
from training import demo_project, expect


@pytest.fixture(scope="module")
def digits(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three planted runs; tests add to it."""
    project = demo_project(renders, tmp_path_factory.mktemp("ensembles") / "project")
    plant(project, "a", "b", "c")
    return project


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ensembles are made, and neither drawn nor evaluated, which draws all that is drawn of a run."""
    monkeypatch.setattr(ensembles.MethodSearch, "figures", lambda search: {})
    monkeypatch.setattr(ensembles, "evaluate_run", lambda project, made, run, *_: write_json(run / "cv.json", {}))


def ensemble(project: Path, name: str, *members: str, method: str = "mean", restart: bool = False) -> str:
    """What is printed when an ensemble is made."""
    with importable(project), contextlib.redirect_stdout(io.StringIO()) as printed:
        ensembles.make_ensemble(Project.at(project), name, members, method, restart)
    return printed.getvalue()


def refused(text: str, project: Path, name: str, *members: str, method: str = "mean", restart: bool = False) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        ensemble(project, name, *members, method=method, restart=restart)


def predict(project: Path, name: str, fold: str | None = None) -> pd.DataFrame:
    """Test predictions of an ensemble."""
    made = Project.at(project)
    with importable(project), run_competition(made.run(name)) as competition:
        ensembles.predict_ensemble(made, competition, made.run(name), made.data, fold)
    return pd.read_parquet(made.run(name) / "test.parquet").set_index("id")


def out_of_fold(project: Path, name: str) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in (project / "runs" / name).glob("fold_*/oof.parquet")]
    return pd.concat(parts).set_index("id").sort_index()


@pytest.mark.slow
def test_the_command_line(digits: Path) -> None:
    for script, *arguments in (
        ("ensemble.py", "whole", "a", "b"),
        ("evaluate.py", "whole"),
        ("predict.py", "whole"),
        ("submit.py", "whole"),
    ):
        printed = expect(run_script(digits, script, *arguments)).stdout
    assert (digits / "submissions/whole.csv").is_file(), printed
    drawn = {path.name for path in (digits / "runs/whole/figures/ensemble").iterdir()}
    assert drawn == {"correlation.png", "gains.png"}
    scored = json.loads((digits / "runs/whole/cv.json").read_text())
    made = json.loads((digits / "runs/whole/ensemble.json").read_text())
    assert scored["mean"] == pytest.approx(made["scores"]["methods"][made["method"]]["nested"])
    assert set(made["scores"]["methods"]) == {"mean", "geometric", "hill", "nnls", "stack"}
    assert "choose another name" in expect(run_script(digits, "ensemble.py", "a", "b", "c"), 2).last_line


def test_an_ensemble_is_an_experiment_and_a_member_of_others(digits: Path, quiet: None) -> None:
    printed = ensemble(digits, "both", "a", "b", method="nnls")
    assert "'nnls' gains +" in printed
    assert "optimism: " in printed
    made = json.loads((digits / "runs/both/ensemble.json").read_text())
    weights = made["weights"]["label"]
    assert sum(weights.values()) == pytest.approx(1)
    assert made["scores"]["methods"]["nnls"]["nested"] > max(
        each["alone"] for each in made["scores"]["members"].values()
    )
    assert "nothing to do" in ensemble(digits, "both", "a", "b", method="nnls")
    tables = [pd.read_parquet(digits / f"runs/{name}/test.parquet").set_index("id") for name in ("a", "b")]
    expected = weights["a"] * tables[0] + weights["b"] * tables[1]
    pd.testing.assert_frame_equal(predict(digits, "both"), expected, check_exact=False, atol=1e-5)

    ensemble(digits, "outer", "both", "c")
    outer, inner, third = (out_of_fold(digits, name) for name in ("outer", "both", "c"))
    np.testing.assert_allclose(outer["label:3"], (inner["label:3"] + third["label:3"]) / 2, atol=1e-6)
    assert len(predict(digits, "outer")) == len(expected)
    with pytest.raises(UserError, match=r"run scripts/predict\.py both c --fold 0, and then"):
        predict(digits, "outer", "0")


def test_what_cannot_be_an_ensemble_is_refused(digits: Path, quiet: None) -> None:
    ensemble(digits, "pair", "a", "b")
    ensemble(digits, "above", "pair", "c")
    (digits / "runs/stray").mkdir()
    refused("'a' is an experiment (experiments/a.yaml)", digits, "a", "b", "c")
    refused("runs/stray is the run of something else", digits, "stray", "a", "b")
    refused("names 'a' twice", digits, "new", "a", "a")
    refused("has one member only", digits, "new", "a")
    refused("would be a member of itself", digits, "pair", "a", "above", restart=True)
    refused("there is no run of experiment 'd'", digits, "new", "a", "d")
    refused("members: ['a', 'b'] -> ['a', 'c']", digits, "pair", "a", "c")
    refused("'rank' cannot join what 'label' (multiclass) predicts", digits, "new", "a", "b", method="rank")
    assert not (digits / "runs/new").exists()
    ensemble(digits, "pair", "a", "c", restart=True)
    assert json.loads((digits / "runs/pair/ensemble.json").read_text())["members"] == ["a", "c"]
    assert not list((digits / "runs").glob(".*"))


def test_members_that_saw_each_others_rows_are_refused(digits: Path, quiet: None) -> None:
    table = pd.read_csv(digits / "folds/folds.csv", dtype=str)
    table.assign(fold=np.roll(table["fold"], 1)).to_csv(digits / "folds/others.csv", index=False)
    plant(digits, "elsewhere", folds="others", skill=2.0)
    refused("'elsewhere' was trained with other folds than 'a'", digits, "leak", "a", "elsewhere", method="best")
    refused("--method mean averages repeats of one experiment", digits, "leak", "a", "elsewhere", method="nnls")
    assert "nothing is fitted" in ensemble(digits, "repeats", "a", "elsewhere")
    one, other, joined = (out_of_fold(digits, name)["label:3"] for name in ("a", "elsewhere", "repeats"))
    np.testing.assert_allclose(joined, (one + other) / 2, atol=1e-6)

    (digits / "experiments/larger.yaml").write_text("extends: small\nfolds: others\noptimizer: {lr: 0.1}\n")
    plant(digits, "larger")
    refused("scripts/train.py larger folds=folds --as OTHER", digits, "leak", "a", "larger")

    plant(digits, "moved")  # its file says the same folds, its predictions do not
    paths = [digits / f"runs/moved/fold_{fold}/oof.parquet" for fold in (0, 1)]
    first, second = map(pd.read_parquet, paths)
    pd.concat([first[1:], second[:1].assign(fold=0)]).to_parquet(paths[0])
    pd.concat([second[1:], first[:1].assign(fold=1)]).to_parquet(paths[1])
    refused("2 rows of 'moved'", digits, "leak", "a", "moved")
    assert not (digits / "runs/leak").exists()


def test_only_what_all_members_predicted_is_scored(digits: Path, quiet: None) -> None:
    plant(digits, "partly", only=(0, 2))
    plant(digits, "single", only=(2,))
    plant(digits, "apart", only=(1,))
    assert "rows count, which all members have predicted" in ensemble(digits, "two", "a", "partly", method="nnls")
    assert {path.name for path in (digits / "runs/two").glob("fold_*")} == {"fold_0", "fold_2"}
    with importable(digits):
        assert ensembles.require_current(Project.at(digits), digits / "runs/two") == "0,2"
    ensemble(digits, "one", "a", "partly", "single", method="nnls")  # five parts of its rows instead of folds
    scores = json.loads((digits / "runs/one/ensemble.json").read_text())["scores"]["methods"]["nnls"]
    assert scores["fitted"] != scores["nested"]
    refused("no fold that all of them have predicted (partly: 0, 2; apart: 1)", digits, "no", "partly", "apart")


def test_members_of_other_classes_and_broken_ones_are_refused(digits: Path, quiet: None) -> None:
    plant(digits, "fewer", "broken", "nothing")
    for path in (digits / "runs/fewer").glob("fold_*/oof.parquet"):
        pd.read_parquet(path).drop(columns="label:9").to_parquet(path)
    refused("'fewer' and 'a' do not predict the same: label:9 differs", digits, "new", "a", "fewer")
    path = digits / "runs/broken/fold_1/oof.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "label:2"] = np.nan
    table.to_parquet(path)
    refused("1 predictions of 'broken'", digits, "new", "a", "broken")
    for path in (digits / "runs/nothing").glob("fold_*/oof.parquet"):
        pd.read_parquet(path)[["id", "fold"]].to_parquet(path)
    refused("'nothing' kept no out-of-fold predictions", digits, "new", "nothing", "a")


def test_members_that_changed_and_predictions_that_did_not(digits: Path, quiet: None) -> None:
    plant(digits, "d", "e")
    ensemble(digits, "late", "d", "e")
    ensemble(digits, "later", "late", "a")
    test, path = digits / "runs/e/test.parquet", digits / "runs/e/fold_0/oof.parquet"
    os.utime(test, (1, 1))
    with pytest.raises(UserError, match=r"'e' has test predictions older than runs/e/.*; run scripts/predict.py e$"):
        predict(digits, "late")
    pd.read_parquet(test)[1:].to_parquet(test)
    (digits / "runs/d/test.parquet").unlink()
    missing = r"'d' has not predicted the test rows; 'e' has predicted other test rows \(1 of .*/predict.py d e$"
    with pytest.raises(UserError, match=missing):
        predict(digits, "late")

    pd.read_parquet(path).assign(**{"label:0": 0.5}).to_parquet(path)
    made, remedy = Project.at(digits), "since 'late' was made of it; run scripts/ensemble.py late d e --method mean"
    for name in ("late", "later"):
        with pytest.raises(UserError, match=remedy):
            ensembles.require_current(made, made.run(name))
    assert "'mean' gains" in ensemble(digits, "late", "d", "e")
    ensembles.require_current(made, made.run("late"))
    with pytest.raises(UserError, match="'late' was trained again"):
        ensembles.require_current(made, made.run("later"))


def test_what_was_fitted_is_plain_data_and_made_anew_where_it_is_damaged(digits: Path, quiet: None) -> None:
    plant(digits, "f", "g")
    ensemble(digits, "plain", "f", "g", method="stack")
    path, about = digits / "runs/plain/fitted.json", digits / "runs/plain/ensemble.json"
    expected, whole = predict(digits, "plain"), path.read_text()
    assert set(json.loads(whole)["models"]["label"][0]) == {"classes", "mean", "scale", "slopes", "intercepts"}
    remedy = r"damaged, or of another version; make 'plain' anew: run scripts/ensemble.py plain f g --method stack$"
    other = json.loads(about.read_text())
    for damage in (
        lambda: path.write_text(whole[:-1]),
        path.unlink,
        lambda: about.write_text(json.dumps(other | {"fitted": "2" + other["fitted"][1:]})),
    ):
        damage()
        with pytest.raises(UserError, match=remedy):
            predict(digits, "plain")
        assert "'stack' gains" in ensemble(digits, "plain", "f", "g", method="stack")
        pd.testing.assert_frame_equal(predict(digits, "plain"), expected)
    assert "nothing to do" in ensemble(digits, "plain", "f", "g", method="stack")


@pytest.mark.full
@pytest.mark.parametrize("task", ["regression", "multilabel", "multitask", "segmentation"])
def test_every_task_finds_its_method(task: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", task=task)
    plant(project, "a", "b")
    printed = expect(run_script(project, "ensemble.py", "both", "a", "b")).stdout
    made = json.loads((project / "runs/both/ensemble.json").read_text())
    assert set(made["scores"]["methods"]) >= {"mean"} | ({"hill", "nnls", "stack"} if task != "segmentation" else set())
    assert made["scores"]["gain"] > 0, printed
    assert set(made["scores"]["members"]) == {"a", "b"}
    expect(run_script(project, "predict.py", "both"))
    expect(run_script(project, "submit.py", "both"))
