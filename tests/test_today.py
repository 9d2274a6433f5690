"""What follows a training: today's metric, submission, test rows and settings, with the folds that are there."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from projects import Renders, Result, imported, run_script
from training import demo_project, expect

SMALL = """extends: demo
image: {size: 16}
model: {encoder: test_resnet}
training: {epochs: 1, batch_size: 32}
machine: {workers: 0}
watch: {figure_epochs: 0}
"""


@pytest.fixture(scope="module")
def trained(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of few rows, with three folds of which 0 and 2 are trained."""
    project = demo_project(renders, tmp_path_factory.mktemp("today") / "project")
    (project / "experiments/small.yaml").write_text(SMALL)
    for name, rows in (("train.csv", 150), ("test.csv", 30), ("sample_submission.csv", 30)):
        path = project / "data/raw" / name
        pd.read_csv(path, dtype=str).head(rows).to_csv(path, index=False)
    expect(run_script(project, "make_folds.py", "--n-folds", "3", "--force", "--no-leak-report"))
    expect(run_script(project, "train.py", "small", "--fold", "0,2"))
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "project"))


def edit(project: Path, file: str, before: str, after: str) -> None:
    path = project / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def scores(project: Path) -> dict:
    return json.loads((project / "runs/small/cv.json").read_text())


def predict(project: Path, *args: str) -> Result:
    return expect(run_script(project, "predict.py", "small", "--workers", "0", *args))


@pytest.mark.slow
def test_some_folds_of_several(project: Path) -> None:
    """What is trained is scored, averaged and reported, and each command says what is missing."""
    assert {path.name for path in (project / "runs/small").glob("fold_*")} == {"fold_0", "fold_2"}
    assert (
        "not evaluated; these are the scores of fold 0, 2" in expect(run_script(project, "report.py", "small")).stdout
    )
    said = expect(run_script(project, "evaluate.py", "small")).stdout
    assert "2 of 3 folds of 'small' are trained" in said and "scripts/train.py small --fold 1" in said
    found, folds = scores(project), pd.read_csv(project / "folds/folds.csv", dtype=str).set_index("id")["fold"]
    assert list(found["folds"]) == ["0", "2"] and found["n_folds"] == 3
    held_out = set(pd.read_parquet(project / "runs/small/oof.parquet")["id"])
    assert held_out == set(folds.index[folds != "1"]) and found["rows"] == len(held_out)

    said = predict(project).stdout
    assert "2 of 3 folds" in said and "30 rows with folds 0, 2" in said
    mean = pd.read_parquet(project / "runs/small/test.parquet").set_index("id")
    parts = []
    for fold in ("0", "2"):
        predict(project, "--fold", fold)
        parts.append(pd.read_parquet(project / "runs/small/test.parquet").set_index("id"))
    pd.testing.assert_frame_equal(mean, (parts[0] + parts[1]) / 2, atol=1e-6, check_exact=False)
    predict(project, "--fold", "2,0")
    assert "predictions of fold 2, 0 alone, of 3" in expect(run_script(project, "submit.py", "small")).stdout

    said = expect(run_script(project, "report.py", "small")).stdout
    assert "scored on fold 0, 2 of 3 alone" in said and "not trained: fold 1" in said
    expect(run_script(project, "train.py", "small", "--fold", "1"))
    said = expect(run_script(project, "report.py", "small")).stdout
    assert "fold 1 is trained as well: scripts/evaluate.py small" in said
    expect(run_script(project, "evaluate.py", "small"))
    assert len(scores(project)["folds"]) == 3
    assert "alone" not in expect(run_script(project, "report.py", "small")).stdout


def test_scores_of_one_fold_are_kept_and_replace_no_more_of_them(project: Path) -> None:
    said = expect(run_script(project, "evaluate.py", "small", "--fold", "0")).stdout
    assert "runs/small/cv.json" in said
    assert list(scores(project)["folds"]) == ["0"]
    expect(run_script(project, "evaluate.py", "small", "--fold", "0,2"))
    both, oof = scores(project), (project / "runs/small/oof.parquet").read_bytes()
    assert list(both["folds"]) == ["0", "2"]
    assert "holds more folds" in expect(run_script(project, "evaluate.py", "small", "--fold", "2")).stdout
    assert scores(project) == both and (project / "runs/small/oof.parquet").read_bytes() == oof


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("evaluate.py", "small", "--fold", "1"), "run scripts/train.py small --fold 1"),
        (("predict.py", "small", "--fold", "all"), "run scripts/train.py small --fold 1"),
        (("predict.py", "small", "--fold", "0,7"), "no fold '7'; choose of 0, 1, 2, full"),
        (("evaluate.py", "small", "--fold", "full"), "holds nothing out"),
        (("evaluate.py", "demo"), "there is no run of experiment"),
        (("train.py", "small", "--fold", "0,3"), "there is no fold '3'"),
        (("find_lr.py", "small", "--fold", "0,1"), "trains on one fold"),
    ],
)
def test_folds_that_are_not_there(trained: Path, command: tuple[str, ...], said: str) -> None:
    """A message names a command that goes on, and not one that refuses in its turn."""
    assert said in expect(run_script(trained, *command), 2).last_line


def test_an_edited_submission_is_used(project: Path) -> None:
    predict(project)
    assert "newer" not in expect(run_script(project, "submit.py", "small")).stdout
    edit(
        project,
        "src/competition/submission.py",
        "    return submission_table(sample, predictions, heads, metric, settings.id_column)",
        "    table = submission_table(sample, predictions, heads, metric, settings.id_column)\n"
        '    return table.assign(label="5")',
    )
    said = expect(run_script(project, "submit.py", "small")).stdout
    assert "submission.py is newer than the run's; today's is used" in said
    assert set(pd.read_csv(project / "submissions/small.csv", dtype=str)["label"]) == {"5"}


def test_a_broken_edit_falls_back(project: Path) -> None:
    predict(project)
    (project / "src/competition/submission.py").write_text("def submission(:\n")
    said = expect(run_script(project, "submit.py", "small")).stdout
    assert "src/competition/submission.py cannot be imported (SyntaxError" in said
    (project / "src/competition/__init__.py").write_text("import competition.gone\n")
    said = expect(run_script(project, "submit.py", "small")).stdout
    assert "src/competition cannot be imported" in said and "30 rows" in said


def test_another_test_table_is_predicted_without_a_training(project: Path) -> None:
    """Stage two: other images, in another folder, under other ids, named in competition.yaml."""
    raw = project / "data/raw"
    before = pd.read_csv(raw / "test.csv", dtype=str)
    after = before.assign(image_id="two_" + before["image_id"])
    (raw / "stage_two").mkdir()
    for old, new in zip(before["image_id"], after["image_id"], strict=True):
        shutil.copy(raw / f"test_images/{old}.png", raw / f"stage_two/{new}.png")
    after.to_csv(raw / "test_two.csv", index=False)
    after[["image_id"]].assign(label="0").to_csv(raw / "sample_two.csv", index=False)
    predict(project)
    first = pd.read_parquet(project / "runs/small/test.parquet").set_index("id")
    edit(project, "competition.yaml", "test_csv: test.csv", "test_csv: test_two.csv")
    edit(project, "competition.yaml", "sample_submission: sample_submission.csv", "sample_submission: sample_two.csv")
    edit(project, "competition.yaml", "test_images/", "stage_two/")
    said = predict(project).stdout
    assert "test_csv (test.csv -> test_two.csv)" in said and "today's are used" in said
    second = pd.read_parquet(project / "runs/small/test.parquet").set_index("id")
    pd.testing.assert_frame_equal(first.set_axis("two_" + first.index, axis=0), second, check_names=False)
    expect(run_script(project, "submit.py", "small"))
    assert set(pd.read_csv(project / "submissions/small.csv", dtype=str)["image_id"]) == set(after["image_id"])
    said = expect(run_script(project, "train.py", "small", "--fold", "1")).stdout
    assert "no reason to train anew" in said and "test_images" in said


@pytest.mark.slow
def test_a_mistake_in_test_rows_is_mended_after_the_training(project: Path) -> None:
    """It is also said before a training, in which it would take hours to show."""
    call = "return image_rows(table, settings, settings.test_images, data)"
    with_helper = "from competition.naming import image_name\n\n    table = image_name(table)\n    " + call
    (project / "runs/small/code/competition/tables.py").write_text(
        (project / "src/competition/tables.py").read_text().replace(call, 'raise KeyError("a mistake")')
    )
    (project / "src/competition/naming.py").write_text("def image_name(table):\n    return table.head(7)\n")
    edit(project, "src/competition/tables.py", call, with_helper)
    said = predict(project).stdout
    assert "test_rows in tables.py is newer" in said and "7 rows" in said
    expect(run_script(project, "train.py", "small", "--fold", "1"))
    edit(project, "src/competition/naming.py", "table.head(7)", 'table.drop(columns="image_id")')
    refused = expect(run_script(project, "train.py", "small", "training.epochs=2", "--as", "later"), 2)
    assert "image_id" in refused.last_line and not (project / "runs/later").exists()
    for name in ("test.csv", "sample_submission.csv"):
        (project / "data/raw" / name).unlink()
    said = expect(run_script(project, "train.py", "small", "training.epochs=2", "--as", "later", "--fold", "0")).stdout
    assert "there are no test rows yet" in said


@pytest.mark.slow
def test_an_edited_metric_scores_and_refuses_no_fold(project: Path) -> None:
    expect(run_script(project, "evaluate.py", "small"))
    assert scores(project)["metric"] == "accuracy"
    edit(project, "competition.yaml", "metric: accuracy", "metric: log_loss")
    said = expect(run_script(project, "evaluate.py", "small")).stdout
    assert "metric (accuracy -> log_loss) is newer than the run's" in said
    found = scores(project)
    assert found["metric"] == "log_loss" and found["score"] == pytest.approx(found["overall"]["log_loss"])
    edit(project, "src/competition/metric.py", 'COMPANIONS = ("accuracy", "log_loss")', 'COMPANIONS = ("accuracy",)')
    said = expect(run_script(project, "train.py", "small", "--fold", "1")).stdout
    assert "metric.py" in said and "folds 0, 2 chose their best epoch by the metric that" in said
    fold = json.loads((project / "runs/small/fold_1/fold.json").read_text())
    assert list(fold["metrics"]) == ["log_loss", "accuracy"]


def test_a_half_trained_fold_keeps_its_metric(project: Path) -> None:
    fold = project / "runs/small/fold_1"
    (fold / "checkpoints").mkdir(parents=True)
    (fold / "checkpoints/state.pt").touch()
    edit(project, "competition.yaml", "metric: accuracy", "metric: log_loss")
    assert "fold 1 of 'small' is half trained" in expect(run_script(project, "train.py", "small"), 2).last_line


@pytest.mark.slow
def test_thresholds_of_another_metric_are_not_used(project: Path) -> None:
    expect(run_script(project, "evaluate.py", "small"))
    predict(project)
    (project / "runs/small/thresholds.json").write_text("{}")
    expect(run_script(project, "submit.py", "small"))
    edit(project, "src/competition/metric.py", "find_metric(name) for name", "find_metric(str(name)) for name")
    refused = expect(run_script(project, "submit.py", "small"), 2)
    assert "another one; run scripts/evaluate.py small again" in refused.last_line
    edit(project, "competition.yaml", "metric: accuracy", "metric: log_loss")
    refused = expect(run_script(project, "submit.py", "small"), 2)
    assert "'accuracy', which is now 'log_loss'; run scripts/evaluate.py small again" in refused.last_line
    expect(run_script(project, "evaluate.py", "small"))
    expect(run_script(project, "submit.py", "small"))


FORMS = {
    "augmentations": ("augmentations.py", "A.Resize(*size", "A.Resize(7, 7"),
    "what train_rows uses": ("tables.py", "groups = [settings", "groups = [*[], settings"),
    "what heads use": ("targets.py", "return tuple(", "return (*[],) + tuple("),
}
HARMLESS = {
    "a comment": ("augmentations.py", "import albumentations", "# resized\nimport albumentations"),
    "a docstring": ("tables.py", '"""One row per training image:', '"""A row for each training image:'),
    "test rows": ("tables.py", "    path = data / settings.test_csv", "    path = data / str(settings.test_csv)"),
    "an import of theirs": (
        "tables.py", "image_rows, read_table, sample_ids", "image_rows, read_table, require_cells, sample_ids",
    ),
    "a metric": ("metric.py", "find_metric(name)", "find_metric(str(name))"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*FORMS, *HARMLESS])
def test_what_forms_weights_is_told_from_what_does_not(trained: Path, tmp_path: Path, case: str) -> None:
    source = Path(shutil.copytree(trained / "src/competition", tmp_path / "src/competition")).parent
    file, before, after = {**FORMS, **HARMLESS}[case]
    edit(source, f"competition/{file}", before, after)
    with imported(trained):
        from pipeline.inference.snapshot import changed_files

        changed = changed_files(source, trained / "folds/classes.json", trained / "runs/small")
    assert [path.name for path, _ in changed] == ([file] if case in FORMS else [])


TASKS = ("classification", "multilabel", "regression", "multitask", "metric_learning", "segmentation")


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_divided_alike(renders: Renders, tmp_path: Path, task: str) -> None:
    """A submission, or a comment, is no reason to train anew; heads are."""
    project = renders.copy(tmp_path / "project", {"task": task})
    (project / "folds/classes.json").write_text("{}")
    with imported(project):
        from pipeline.inference.snapshot import changed_files, save_snapshot

        classes, source, run = project / "folds/classes.json", project / "src", project / "runs/one"
        save_snapshot(source, project / "competition.yaml", classes, run)
        for name in ("submission", "metric"):
            path = source / f"competition/{name}.py"
            path.write_text(path.read_text().replace("return ", "return (None, *[])[0] or ", 1) + "\nOWN = 1\n")
        targets = source / "competition/targets.py"
        targets.write_text("# the heads\n" + targets.read_text())
        assert changed_files(source, classes, run) == []
        targets.write_text(targets.read_text() + "\nCLASSES = (1, 2)\n")
        changed = [path.name for path, _ in changed_files(source, classes, run)]
        assert changed == ["targets.py"]


def test_what_a_loss_takes_from_the_metric_forms_weights(trained: Path, tmp_path: Path) -> None:
    """Also by way of a name that stands in a string, and of a module that others use as well."""
    with imported(trained):
        from pipeline.inference.code import Code

        root = tmp_path / "competition"
        root.mkdir()
        texts = {
            "__init__": 'names = {"loss": {"own": "competition.losses:Own"}}',
            "losses": "from competition.metric import weights\n\n\nclass Own:\n    rows = weights()",
            "metric": "from . import tools\n\nBETA = 2\n\n\ndef weights():\n    return tools.one()\n\n\n"
            "def metrics(settings):\n    from competition.scores import f\n\n    return f(BETA)",
            "tools": "def one():\n    return 1",
            "scores": "def f(beta):\n    return beta",
            "submission": "def submission():\n    return 0",
            "tables": "from competition.scores import f\n\n\ndef train_rows():\n    return 1\n\n\n"
            "def test_rows():\n    return f(1)",
        }
        for name, text in texts.items():
            (root / f"{name}.py").write_text(text)
        forming = Code(root).forms_weights()
        assert list(forming) == ["", "losses", "metric", "tables", "tools"]
        assert len(forming["metric"]) == 2 and len(forming["tables"]) == 1
        before = Code(root).hash([("metric", "metrics")])
        (root / "tools.py").write_text("def one():\n    return 2")
        assert Code(root).hash([("metric", "metrics")]) == before and Code(root).forms_weights() != forming
        (root / "scores.py").write_text("def f(beta):\n    return -beta")
        assert Code(root).hash([("metric", "metrics")]) != before


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_given_validation_split(project: Path, by_hand: bool) -> None:
    """One fold, made by hand (-1 trains only) or from a source in tables.py, from its folds to the report."""
    table = pd.read_csv(project / "data/raw/train.csv", dtype=str)
    valid = table["image_id"][(table.index % 4 == 0) & (table["label"] != "3")]  # a class is in the training part only
    folds = project / "folds/folds.csv"
    if by_hand:
        folds.with_suffix(".json").unlink()
        marked = table["image_id"].isin(valid).map({True: 0, False: -1})
        pd.DataFrame({"id": table["image_id"], "fold": marked}).to_csv(folds, index=False)
        expect(run_script(project, "make_folds.py"))
    else:
        call = "return image_rows(table, settings, settings.train_images, data)"
        marked = 'rows["source"] = ["train" if n % 4 or rows.label[n] == "3" else "competition" for n in rows.index]'
        lines = (call.replace("return", "rows ="), marked, "return rows")
        edit(project, "src/competition/tables.py", call, "\n    ".join(lines))
        expect(run_script(project, "make_folds.py", "--n-folds", "1", "--force"))
        assert set(pd.read_csv(folds, dtype=str)["id"]) == set(valid)
    expect(run_script(project, "check_data.py"))
    expect(run_script(project, "train.py", "small", "--restart"))
    said = expect(run_script(project, "evaluate.py", "small")).stdout
    assert "left out" not in said and "written: runs/small/oof.parquet, runs/small/cv.json" in said
    assert set(pd.read_parquet(project / "runs/small/oof.parquet")["id"]) == set(valid)
    found = scores(project)
    assert (list(found["folds"]), found["n_folds"], found["rows"]) == (["0"], 1, len(valid))
    assert "with folds 0" in predict(project).stdout
    assert "alone" not in expect(run_script(project, "submit.py", "small")).stdout
    said = expect(run_script(project, "report.py", "small")).stdout
    assert "±" not in said.splitlines()[-3] and "alone" not in said


@pytest.mark.parametrize("task", [task for task in TASKS if task != "classification"])
def test_a_given_validation_split_of_each_task(renders: Renders, tmp_path: Path, task: str) -> None:
    """All that train name classes; what is held out is in the fold file alone."""
    project = renders.copy(tmp_path / "project", {"task": task, "trackers": []})
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--no-leak-report"))
    classes = json.loads((project / "folds/classes.json").read_text())
    tables = project / "src/competition/tables.py"
    text = tables.read_text()
    before, after = text.split("def test_rows")
    place = before.rindex("return ")
    held_out = (
        '    rows["source"] = ["train" if n % 3 else "competition" for n in range(len(rows))]\n    return rows\n\n\n'
    )
    tables.write_text(before[:place] + "rows = " + before[place + 7 :].rstrip() + f"\n{held_out}def test_rows" + after)
    expect(run_script(project, "make_folds.py", "--n-folds", "1", "--force", "--no-leak-report"))
    assert json.loads((project / "folds/classes.json").read_text()) == classes
    folds = pd.read_csv(project / "folds/folds.csv", dtype=str)
    assert set(folds["fold"]) == {"0"}
    assert "nothing to do" in expect(run_script(project, "make_folds.py", "--no-leak-report")).stdout
