"""Several images for one prediction: aggregates, truth, folds, scores and submission go by prediction id."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gmean, pmean

from multi_view import multi_view_project, set_answer
from pipeline.competition import Competition, Head
from pipeline.data.check_images import image_count_faults
from pipeline.data.folders import rows_of_all_images
from pipeline.heads.base import kind_of
from pipeline.inference.aggregates import maximum, mean
from pipeline.registry import Registry, Spec
from pipeline.rows import by_prediction, with_predictions
from pipeline.settings import Settings
from pipeline.tasks import task_for
from projects import Renders, imported, run_script
from toolkit.errors import UserError
from training import expect, register


def make_task(*classes: str) -> Any:
    return task_for(Competition(Settings.model_construct()), [Head("cancer", "multiclass", classes)])


def bound(name: str, **params: Any) -> Any:
    return Registry(make_task("0", "1").NAMES).bind("aggregate", Spec(name=name, params=params))


def rows_of(*ids: str) -> pd.DataFrame:
    names = [f"i{number}" for number in range(len(ids))]
    return pd.DataFrame({"id": names, "image": "x.png", "prediction_id": ids, "cancer": "0"}, dtype="str")


@pytest.mark.parametrize(
    ("name", "params", "oracle"),
    [
        ("mean", {}, lambda values: values.mean(axis=0)),
        ("max", {}, lambda values: values.max(axis=0)),
        ("generalized_mean", {"power": 4.0}, lambda values: pmean(values, 4, axis=0)),
        ("generalized_mean", {"power": -2.0}, lambda values: pmean(values, -2, axis=0)),
        ("generalized_mean", {"power": 0.0}, lambda values: gmean(values, axis=0)),
    ],
)
def test_aggregates_against_scipy(name: str, params: dict[str, float], oracle: Any) -> None:
    random = np.random.default_rng(0)
    predictions = pd.DataFrame(random.random((50, 3)), columns=list("abc"))
    ids = random.permutation(np.repeat([f"p{number}" for number in range(20)], 3)[:50]).astype(object)
    found = bound(name, **params)(predictions, ids)
    assert list(found.index) == list(dict.fromkeys(ids))
    for one in found.index:
        np.testing.assert_allclose(found.loc[one], oracle(predictions[ids == one].to_numpy()), rtol=1e-12)


def test_a_generalized_mean_of_zeros_is_zero_and_of_negative_numbers_refused() -> None:
    ids = np.array(["a", "a"], object)
    for power in (0.0, -1.0, 3.0):
        found = bound("generalized_mean", power=power)(pd.DataFrame({"x": [0.0, 0.0]}), ids)
        assert found["x"].tolist() == [0.0]
    with pytest.raises(UserError, match="0 or more"):
        bound("generalized_mean")(pd.DataFrame({"x": [0.5, -0.1]}), ids)


def test_probabilities_stay_probabilities() -> None:
    rows = rows_of("b", "a", "b")
    two, three = make_task("0", "1"), make_task("x", "y", "z")
    given = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]], np.float32)
    predictions = pd.DataFrame(given, index=rows["id"], columns=["cancer:0", "cancer:1"])
    found = two.predictions.per_prediction(rows, predictions, bound("max"))
    assert list(found.index) == ["b", "a"] and (found.dtypes == np.float32).all()
    np.testing.assert_allclose(found.to_numpy(), [[0.3, 0.7], [0.5, 0.5]], atol=1e-7)
    given = np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6]], np.float32)
    columns = ["cancer:x", "cancer:y", "cancer:z"]
    predictions = pd.DataFrame(given, index=rows["id"], columns=columns)
    found = three.predictions.per_prediction(rows, predictions, bound("max"))
    np.testing.assert_allclose(found.loc["b"], np.array([0.8, 0.3, 0.6]) / 1.7, rtol=1e-6)
    broken = predictions.drop(index="i2").reindex(predictions.index)
    found = three.predictions.per_prediction(rows, broken, bound("mean"))
    assert found.loc["b"].isna().all() and found.loc["a"].notna().all()
    none = three.predictions.per_prediction(rows.iloc[:0], predictions.iloc[:0], bound("mean"))
    assert none.shape == (0, 3) and none.index.name == "id"
    plain = rows.drop(columns="prediction_id")
    pd.testing.assert_frame_equal(three.predictions.per_prediction(plain, predictions, bound("max")), predictions)


def test_an_own_aggregate_that_loses_ids_is_refused() -> None:
    rows = rows_of("b", "a", "b")
    predictions = pd.DataFrame(0.5, index=rows["id"], columns=["cancer:0", "cancer:1"])
    with pytest.raises(UserError, match=r"returned 1 rows .* one for each of 2 prediction ids"):
        make_task("0", "1").predictions.per_prediction(rows, predictions, lambda table, ids: table.iloc[:1])


def test_ranked_labels_are_aggregated_label_by_label() -> None:
    """Worked by hand: an image that does not list a label gives it the score of its last one."""
    kind = kind_of(Head("whale", "embedding", ("u", "v", "w")))
    said = [["u", "v", "w", 0.9, 0.5, 0.1], ["w", "v", "u", 0.6, 0.2, 0.0], ["v", "u", "", 0.7, 0.6, -1.0]]
    predictions = pd.DataFrame(said, index=["i0", "i1", "i2"], columns=kind.columns.names)
    found = kind.columns.aggregate(predictions, np.array(["b", "a", "b"], object), mean)
    highest = kind.columns.aggregate(predictions, np.array(["b", "a", "b"], object), maximum)
    assert list(found.index) == ["b", "a"] and list(found) == kind.columns.names
    assert found.loc["b"].tolist()[:3] == ["u", "v", "w"] and found.loc["a"].tolist()[:3] == ["w", "v", "u"]
    np.testing.assert_allclose(found.loc["b"].tolist()[3:], [0.75, 0.6, -0.45], atol=1e-6)
    np.testing.assert_allclose(found.loc["a"].tolist()[3:], [0.6, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(highest.loc["b"].tolist()[3:], [0.9, 0.7, 0.1], atol=1e-6)


def test_rows_that_only_train_stand_for_themselves_and_ids_are_groups() -> None:
    rows = rows_of("a", "a", "b").assign(source="competition")
    outside = pd.DataFrame({"id": ["x", "y"], "cancer": ["1", "0"], "source": "outside", "prediction_id": ["a", None]})
    found = with_predictions(pd.concat([outside, rows], ignore_index=True), ["cancer"])
    assert found["prediction_id"].tolist() == ["x", "y", "a", "a", "b"]
    assert found["group"].tolist() == ["a", "y", "a", "a", "b"]
    first = by_prediction(found)
    assert first["id"].tolist() == ["x", "y", "a", "b"] and list(first.index) == [0, 1, 2, 4]
    pd.testing.assert_frame_equal(by_prediction(first), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cancer": ["0", "1", "0"]}, r"1 prediction ids \(a\) differ in 'cancer' \('a': 0, 1\)"),
        ({"cancer": ["0", None, "0"]}, r"1 prediction ids \(a\) differ in 'cancer'"),
        ({"group": ["g", "h", "h"]}, r"1 prediction ids \(a\) differ in 'group' \('a': g, h\)"),
        ({"prediction_id": ["a", "a", None]}, r"1 rows \(id i2\) have an empty 'prediction_id'"),
    ],
)
def test_ids_that_do_not_agree_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_predictions(rows_of("a", "a", "b").assign(**change), ["cancer"])


def test_a_table_with_a_line_for_several_images(tmp_path: Path) -> None:
    for name in ("7/a.png", "7/b.jpg", "12/a.png", "99/a.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    settings = Settings.model_construct(id_column="patient_id", target_columns=("cancer",), group_column="patient_id")
    table = pd.DataFrame({"patient_id": ["12", "7"], "cancer": ["1", "0"], "age": ["50", None]}, dtype="str")
    rows = rows_of_all_images(table, settings, "train/{patient_id}/*", tmp_path)
    assert rows["id"].tolist() == ["12/a.png", "7/a.png", "7/b.jpg"]
    assert rows["image"].tolist() == ["train/12/a.png", "train/7/a.png", "train/7/b.jpg"]
    assert rows["prediction_id"].tolist() == rows["group"].tolist() == ["12", "7", "7"]
    assert rows["cancer"].tolist() == ["1", "0", "0"]
    with pytest.raises(UserError, match=r"1 ids of the table have no image .*\(13\)"):
        rows_of_all_images(table.assign(patient_id=["12", "13"]), settings, "train/{patient_id}/*", tmp_path)


def pf1(truth: np.ndarray, probability: np.ndarray) -> float:
    """The competition's definition, written out."""
    hit, wrong = probability[truth == 1].sum(), probability[truth == 0].sum()
    precision, recall = hit / (hit + wrong), hit / (truth == 1).sum()
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.slow
def test_the_whole_path(renders: Renders, tmp_path: Path) -> None:
    project = multi_view_project(renders, tmp_path / "project", epochs=4)
    (project / "src/competition/aggregates.py").write_text(
        "def highest(predictions, ids):\n    return predictions.groupby(ids, sort=False).max()\n"
    )
    register(project, "aggregate", {"highest": "competition.aggregates:highest"})
    with (project / "experiments/small.yaml").open("a") as file:
        file.write("aggregate: highest\n")
    expect(run_script(project, "check_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
        result = expect(run_script(project, script, "small"))
        assert "left out" not in result.stderr
    run, data = project / "runs/small", project / "data/raw"
    train = pd.read_csv(data / "train.csv", dtype=str).assign(
        breast=lambda table: table["patient_id"] + "_" + table["laterality"]
    )
    folds = pd.read_csv(project / "folds/folds.csv", dtype=str).set_index("id")["fold"]
    assert (folds.groupby(train.set_index("image_id")["patient_id"]).nunique() == 1).all()
    oof = pd.read_parquet(run / "oof.parquet").set_index("id")["cancer:1"]
    assert sorted(oof.index) == sorted(train["breast"].unique())
    truth = train.drop_duplicates("breast").set_index("breast")["cancer"].astype(int)
    score = json.loads((run / "cv.json").read_text())
    assert score["rows"] == len(truth) < len(train)
    assert score["score"] == pytest.approx(pf1(truth[oof.index].to_numpy(), oof.to_numpy()), abs=1e-6)
    per_epoch = pd.read_csv(run / "fold_0/metrics.csv")
    ended = json.loads((run / "fold_0/fold.json").read_text())
    column = next(name for name in per_epoch if name.startswith("valid") and name.endswith("probabilistic_f1"))
    assert per_epoch[column].max() == pytest.approx(ended["watched"]["probabilistic_f1"], abs=1e-6)  # at a tuned cut
    per_image = by_image(project, run)
    pd.testing.assert_series_equal(
        pd.read_parquet(run / "test.parquet").set_index("id")["cancer:1"].sort_index(),
        per_image.groupby(per_image.index.str.replace(r"([LR])\d$", r"_\1", regex=True)).max(),
        check_names=False,
        check_index_type=False,
        atol=1e-6,
    )
    sample = pd.read_csv(data / "sample_submission.csv", dtype=str)
    written = pd.read_csv(project / "submissions/small.csv", dtype=str)
    assert list(written) == list(sample) and written["prediction_id"].tolist() == sample["prediction_id"].tolist()
    assert (run / "fold_0/figures").is_dir()
    result = expect(run_script(project, "submit.py", "--check", str(project / "submissions/small.csv")))
    assert "passes" in result.stdout


def by_image(project: Path, run: Path) -> pd.Series:
    """The probability that the run's models give each test image, by image id."""
    with imported(project):
        from competition import competition
        from pipeline.inference.predict import TrainedRun, predict_rows

        trained = TrainedRun.open(run, competition)
        rows = competition.test_rows(project / "data/raw").drop(columns="prediction_id")
        models = [model for fold in ("0", "1") for model in trained.load(fold)]
        found = predict_rows(
            trained.task, models, rows, project / "data/raw", trained.experiment, trained.names, "test", ""
        )
        return found["cancer:1"]


def test_faults_are_one_line(renders: Renders, tmp_path: Path) -> None:
    project = multi_view_project(renders, tmp_path / "project", patients=12)
    data = project / "data/raw"
    set_answer(project, "prediction_column: prediction_id", 'prediction_column: ""')
    said = " ".join(expect(run_script(project, "check_data.py")).stdout.replace("│", " ").split())
    assert "where 'prediction_id' stands for several images, name it as prediction_column in competition.yaml" in said
    set_answer(project, 'prediction_column: ""', "prediction_column: breast")
    said = expect(run_script(project, "check_data.py"), 2).stdout.replace("│", " ")
    assert "made in src/competition/tables.py before image_rows" in " ".join(said.split())
    set_answer(project, "prediction_column: breast", "prediction_column: prediction_id")
    test, sample = pd.read_csv(data / "test.csv", dtype=str), pd.read_csv(data / "sample_submission.csv", dtype=str)
    lost = (test["patient_id"] + "_" + test["laterality"]) == sample["prediction_id"].iloc[0]
    test[~lost].to_csv(data / "test.csv", index=False)
    result = expect(run_script(project, "check_data.py"), 2)
    name = sample["prediction_id"].iloc[0]
    assert f"a fault in the data (sample submission): {name}: it asks for this id" in result.last_line
    assert "no such test row" in result.last_line and "mend it" in result.last_line
    train = pd.read_csv(data / "train.csv", dtype=str)
    twice = train["patient_id"].map(train["patient_id"].value_counts()) > 2
    train.loc[train.index[twice][:1], "cancer"] = "1"
    several = train.groupby(["patient_id", "laterality"])["image_id"].transform("size") > 1
    first = train.index[several][0]
    train.loc[first, "cancer"] = str(1 - int(train.loc[train.index[several][1], "cancer"]))
    train.to_csv(data / "train.csv", index=False)
    result = expect(run_script(project, "make_folds.py"), 2)
    name = f"{train.loc[first, 'patient_id']}_{train.loc[first, 'laterality']}"
    assert name in result.last_line and "differ in 'cancer'" in result.last_line
    assert "prediction ids" in expect(run_script(project, "check_data.py"), 2).last_line
    set_answer(project, "prediction_column: prediction_id", "prediction_column: predictionid")
    result = expect(run_script(project, "make_folds.py"), 2)
    assert "did you mean 'prediction_id'" in result.last_line


def test_far_more_images_in_one_table_are_a_note() -> None:
    [note] = image_count_faults(rows_of("a", "b"), rows_of("c", "c", "c", "d"))
    assert not note.fatal and "1.0 images in training and 2.0 in the test table" in note.detail
    assert list(image_count_faults(rows_of("a", "b", "b"), rows_of("c", "c", "d"))) == []
