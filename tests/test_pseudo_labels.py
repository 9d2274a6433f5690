"""Pseudo labels: what a fold's model says trains that fold alone, and what would leak is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, parse_experiment
from pipeline.data.folds import FoldTable, split
from pipeline.heads.base import kind_of
from pipeline.inference import pseudo_labels
from pipeline.inference.pseudo_labels import fingerprints, pseudo_path, with_pseudo_labels, write_pseudo_labels
from pipeline.project import Project
from pipeline.settings import Settings
from pipeline.tasks import task_for
from pipeline.tasks.segmentation.truth import Truth
from projects import Renders, run_script
from test_constant import LABEL
from toolkit.errors import UserError
from toolkit.files import write_json
from toolkit.masks import maps
from training import demo_project, expect

NAMES = [f"label:{name}" for name in LABEL.classes]
SETTINGS = Settings.model_construct(target_columns=("label",), side_columns=())
TASK = task_for(Competition(SETTINGS), [LABEL])
ROWS = pd.DataFrame({"id": ["t0", "t1", "t2"], "image": ["a.png", "b.png", "c.png"], "site": ["x", "y", "x"]})


class Teacher:
    """A run whose model of fold k is quite sure of the class k for the first row, and less for each further one."""

    def __init__(self, folder: Path, task: Any = TASK, folds: str = "01", **settings: Any) -> None:
        self.folder, self.task, self.folds, self.names = folder, task, list(folds), None
        self.experiment = parse_experiment(settings, "a test")
        write_json(folder / "run.json", {"folds": "hash", "n_folds": 2})
        write_json(folder / "config.yaml", self.experiment.model_dump(mode="json"))

    def choose_folds(self, asked: str | None, held_out: bool) -> list[str]:
        assert asked is None and held_out  # never the model that was trained on everything
        return self.folds

    def load(self, fold: str) -> int:
        return int(fold)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    def predict(task: Any, fold: int, rows: pd.DataFrame, *_: Any) -> pd.DataFrame:
        sure = np.full((3, 3), 0.05)
        sure[:, fold] = 0.9
        sure[1:] += [[0.1], [0.4]]
        shares = sure / sure.sum(axis=1, keepdims=True)
        return pd.DataFrame(shares.astype(np.float32), pd.Index(rows["id"]), NAMES)

    monkeypatch.setattr(pseudo_labels, "predict_rows", predict)
    return Project(tmp_path, tmp_path / "data" / "raw")


def label(project: Project, name: str = "sure", above: float = 0, soft: bool = False, **settings: Any) -> pd.DataFrame:
    run: Any = Teacher(project.runs / "teacher", **settings)
    write_pseudo_labels(project, run, ROWS, name, above, soft, 0.5)
    return pd.read_parquet(pseudo_path(project, name))


def folds_of(n_folds: int = 2) -> FoldTable:
    rows = pd.DataFrame({"id": list("abcd"), "image": "z.png", "label": ["ant", "bee", "cat", "ant"]})
    found = rows.assign(source="competition", weight=1.0, fold=[0, 0, 1, 1])
    return FoldTable(found, n_folds, "hash", "auto")


def test_rows_of_a_fold_have_the_labels_of_its_model_and_train_that_fold_alone(project: Project) -> None:
    found = label(project, above=0.6)
    assert set(found["source"]) == {"sure"} and set(found["weight"]) == {0.5} and "label:ant" not in found
    by_fold = {fold: dict(zip(of["image"], of["label"], strict=True)) for fold, of in found.groupby("only_fold")}
    assert by_fold[0] == {"a.png": "ant", "b.png": "ant"} and by_fold[1] == {"a.png": "bee", "b.png": "bee"}
    assert -1 not in by_fold  # the mean of both is sure of nothing
    joined = with_pseudo_labels(project, ["sure"], folds_of(), TASK)
    assert joined.hash == "hash" and joined.rows["id"].is_unique
    for fold, own, of_pseudo in (("0", {"c", "d"}, "ant"), ("1", {"a", "b"}, "bee")):
        train, valid = split(joined.rows, fold)
        assert set(valid["source"]) == {"competition"} and set(train["id"][:2]) == own
        assert list(train["label"][2:]) == [of_pseudo] * 2 and list(train["site"][2:]) == ["x", "y"]
    assert len(split(joined.rows, "full")[0]) == 4


def test_soft_labels_are_targets_and_everything_trains_on_the_mean(project: Project) -> None:
    label(project, soft=True)
    train, _ = split(with_pseudo_labels(project, ["sure"], folds_of(), TASK).rows, "full")
    assert list(train["id"][4:]) == ["sure:-1:t0", "sure:-1:t1", "sure:-1:t2"]
    targets: Any = TASK
    soft = targets.targets(train)["target_label"]
    np.testing.assert_allclose(soft[:4], np.eye(3)[[0, 1, 2, 0]])
    np.testing.assert_allclose(soft[4], [0.475, 0.475, 0.05], atol=1e-6)


def test_a_student_of_other_folds_or_classes_is_refused(project: Project) -> None:
    label(project)
    with pytest.raises(UserError, match="its teacher was trained on other folds, so it would leak"):
        with_pseudo_labels(project, ["sure"], replace(folds_of(), hash="edited since"), TASK)
    other = task_for(TASK.competition, [replace(LABEL, classes=("ant", "bee"))])
    with pytest.raises(UserError, match="other heads or classes"):
        with_pseudo_labels(project, ["sure"], folds_of(), other)
    with pytest.raises(UserError, match="no pseudo labels 'shure'; did you mean 'sure'"):
        with_pseudo_labels(project, ["shure"], folds_of(), TASK)


@pytest.mark.parametrize(
    "changes", [{"only_fold": np.nan}, {"only_fold": 2}, {"only_fold": 0.5}, {"source": "competition"}]
)
def test_rows_that_would_train_everywhere_or_be_scored_are_refused(project: Project, changes: dict[str, Any]) -> None:
    found, path = label(project), pseudo_path(project, "sure")
    before = fingerprints(project, ["sure"])
    found.assign(**{name: found[name].where(found.index != 1, value) for name, value in changes.items()}).to_parquet(
        path
    )
    assert fingerprints(project, ["sure"]) != before
    with pytest.raises(UserError, match=r"1 rows \(id sure:0:t1\) lack only_fold or the source 'sure'"):
        with_pseudo_labels(project, ["sure"], folds_of(), TASK)


def test_a_table_that_the_script_did_not_write_is_refused(project: Project) -> None:
    pseudo_path(project, "mine").parent.mkdir(parents=True)
    ROWS.assign(source="mine", only_fold=0, label="ant").to_parquet(pseudo_path(project, "mine"))
    with pytest.raises(UserError, match="other folds"):
        with_pseudo_labels(project, ["mine"], folds_of(), TASK)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": {"weights": "run:old/full"}}, "started from run:old/full, which saw the truth of held-out rows"),
        ({"inputs": {"gate": "g"}}, "reads the mean of an earlier stage's folds"),
    ],
)
def test_a_teacher_that_may_know_held_out_rows_is_refused(project: Project, settings: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        label(project, **settings)
    assert not pseudo_path(project, "sure").exists()


def test_a_teacher_is_asked_what_all_before_it_started_from(project: Project) -> None:
    """Runs that started from each other, one of them anew, are gone through once."""
    Teacher(project.runs / "young", model={"weights": "run:old"})
    Teacher(project.runs / "old", model={"weights": "run:young"})
    label(project, model={"weights": "run:young"})
    Teacher(project.runs / "old", model={"weights": "run:first/full"})
    with pytest.raises(UserError, match="'teacher': 'old', from which it started, started from run:first/full"):
        label(project, "other", model={"weights": "run:young"})


def test_an_ensemble_is_no_teacher(project: Project) -> None:
    write_json(project.runs / "teacher/ensemble.json", {})
    with pytest.raises(UserError, match="'teacher' is an ensemble and has no models of its own"):
        label(project)


def test_nothing_is_written_where_no_label_is_sure_enough(project: Project) -> None:
    with pytest.raises(UserError, match="'teacher' labels none of 3 rows"):
        label(project, above=0.99)


def test_some_folds_label_for_themselves_only(project: Project) -> None:
    assert set(label(project, folds="1")["only_fold"]) == {1}


def test_images_of_one_prediction_have_its_label(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ROWS.assign(prediction_id=["p", "p", "q"])
    said = pd.DataFrame([[1.0, 0, 0], [0, 0, 1.0]], pd.Index(["p", "q"]), NAMES)
    monkeypatch.setattr(pseudo_labels, "predict_rows", lambda *_: said)
    write_pseudo_labels(project, Teacher(project.runs / "teacher"), views, "sure", 0, False, 1)  # type: ignore[arg-type]
    table = folds_of()
    table = replace(table, rows=table.rows.assign(prediction_id=list("pqrs")))
    rows = with_pseudo_labels(project, ["sure"], table, TASK).rows
    assert list(rows["label"][4:7]) == ["ant", "ant", "cat"]
    assert list(rows["prediction_id"][4:]) == list(rows["id"][4:])


@pytest.mark.parametrize("above", [0.0, 0.8])
def test_each_kind_of_head_has_labels_of_its_own(above: float) -> None:
    ids, classes = pd.Index(["t0", "t1"]), ("cat", "dog")
    labels = pd.DataFrame({"l:cat": [0.9, 0.7], "l:dog": [0.3, 0.05]}, ids)
    multilabel = kind_of(Head("l", "multilabel", classes))
    hard = multilabel.columns.pseudo_labels(labels, above, soft=False)
    gap = np.nan if above else 0.0
    np.testing.assert_array_equal(hard, [[1, gap], [gap if above else 1, 0]])
    rows = pd.DataFrame({"id": ids, "cat": ["0", "0"], "dog": ["1", "1"]}, ids).join(hard)
    np.testing.assert_array_equal(multilabel.targets(rows), hard)
    grades = kind_of(Head("g", "ordinal", classes)).columns
    soft = grades.pseudo_labels(pd.DataFrame({"g:cat": [0.9, 0.4], "g:dog": [0.1, 0.6]}, ids), above, soft=True)
    assert soft["g"].fillna("").tolist() == ["cat", "" if above else "dog"]
    number = kind_of(Head("n", "regression")).columns.pseudo_labels(pd.DataFrame({"n": [1.5, 2.0]}, ids), above, False)
    assert number["n"].fillna(-1).tolist() == ([-1, -1] if above else [1.5, 2.0])
    with pytest.raises(UserError, match="kind 'embedding', which makes no pseudo labels"):
        kind_of(Head("w", "embedding", classes)).columns.pseudo_labels(labels, above, False)


def test_masks_become_a_truth_that_the_dataset_reads() -> None:
    head = Head("mask", "mask", ("light", "dark"))
    task = task_for(TASK.competition, [head])
    planes = np.zeros((2, 5, 7), np.float32)
    planes[0, 1:3, 2:6] = 0.8
    cells = [maps.encode(np.round(255 * plane).astype(np.uint8), (5, 7)) for plane in planes]
    predictions = pd.DataFrame([cells], pd.Index(["t0"]), ["mask_light", "mask_dark"])
    labels = task.predictions.pseudo_labels(predictions, 0, False)
    rows = task.predictions.labelled(ROWS[:1].merge(labels, left_on="id", right_index=True))
    truth = rows["mask"].iloc[0]
    assert isinstance(truth, Truth) and truth.size == (5, 7) and list(rows) == [*ROWS, "mask"]
    np.testing.assert_array_equal(truth.read(), planes > 0.5)
    for above, soft in ((0.9, False), (0.0, True)):
        with pytest.raises(UserError, match="neither --above nor --soft"):
            task.predictions.pseudo_labels(predictions, above, soft)


def test_an_experiment_names_them() -> None:
    assert Experiment().pseudo == () and parse_experiment({"pseudo": ["a"]}, "x").pseudo == ("a",)


@pytest.mark.slow
def test_two_rounds_by_settings(renders: Renders, tmp_path: Path) -> None:
    """A teacher labels rows of a csv, a student trains on them, and is a teacher in its turn; it also learns from live
    outputs. A changed file of labels, other folds, and a fold without labels are refused."""
    project = demo_project(renders, tmp_path / "project")
    expect(run_script(project, "make_folds.py", "--n-folds", "2", "--force", "--no-leak-report"))
    few = ("training.epochs=1", "training.max_rows=60", "image.size=16")
    expect(run_script(project, "train.py", "small", *few, "--as", "teacher", "--fold", "0"))
    refused = run_script(project, "pseudo.py", "teacher", "--rows", str(project / "data/raw/train.csv"))
    assert "1297 rows (id 00000, " in expect(refused, 2).last_line
    extra = project / "data/raw/extra.csv"
    extra.write_text("\n".join((project / "data/raw/test.csv").read_text().splitlines()[:21]))
    first = ("pseudo.py", "teacher", "--rows", str(extra), "--name", "round1")
    assert "data/pseudo/round1.parquet" in expect(run_script(project, *first, "--soft")).stdout
    distilled = "losses=[{loss: {name: distillation, params: {teacher: teacher, temperature: 2}}}]"
    student = ("teacher", "pseudo=[round1]", distilled, "--as", "student")
    expect(run_script(project, "train.py", *student, "--fold", "0"))
    held_out = pd.read_parquet(project / "runs/student/fold_0/oof.parquet")
    assert len(held_out) == 60 and not held_out["id"].str.startswith("round1").any()
    missing = run_script(project, "train.py", "student", "--fold", "1")
    assert "'round1' have none for fold 1" in expect(missing, 2).last_line
    expect(run_script(project, "pseudo.py", "student", "--rows", str(extra), "--above", "0.01", "--name", "round2"))
    expect(run_script(project, *first))
    changed = run_script(project, "train.py", "student", "--fold", "0")
    assert "the run 'student' was made with other settings (pseudo: " in expect(changed, 2).last_line
    expect(run_script(project, "make_folds.py", "--n-folds", "2", "--seed", "1", "--name", "other", "--no-leak-report"))
    for settings in ("pseudo=[round1]", distilled):
        leaking = run_script(project, "train.py", "teacher", "folds=other", settings, "--as", "leaking")
        assert "trained on other folds, so it would leak" in expect(leaking, 2).last_line
    assert not (project / "runs/leaking").exists() and not (project / "experiments/leaking.yaml").exists()
