"""How predictions are joined, held against libraries and sums by hand, and which method is taken."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import nnls
from scipy.special import expit, logit
from scipy.stats import gmean, rankdata
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_tables import CLASSES, members, task_of
from pipeline.competition import Competition, Head, Metric
from pipeline.inference import joining
from pipeline.inference.joining import Fitted, applicable, climb, fit, join
from pipeline.inference.method_search import MethodSearch, correlations, parts_of
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID
from pipeline.settings import Settings
from pipeline.tasks import task_for
from segmentation_tables import Planes, blob
from toolkit.errors import UserError
from toolkit.masks import maps


def fitted(method: str, kind: str) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], dict]:
    """What a method makes of the second half of the rows once it is fitted to the first, the truth of the first, both
    as arrays, with the members' predictions, and the weights."""
    rows, tables = members(kind)
    task, half = task_of(kind), np.arange(len(rows)) < 200
    truth, side = task.predictions.truth(rows), np.empty((len(rows), 0), np.float32)
    made = fit(method, task, [table[half] for table in tables], truth[half], side[half])
    joined = join(made, task, [table[~half] for table in tables], side[~half])
    assert list(joined) == list(tables[0])
    assert list(joined.index) == list(tables[0].index[~half])
    wanted = task.predictions.columns[0].targets(truth)[half]
    return joined.to_numpy(np.float64), wanted, [table.to_numpy(np.float64) for table in tables], dict(made.weights)


def test_the_mean_of_probabilities() -> None:
    joined, _, tables, _ = fitted("mean", "class")
    np.testing.assert_allclose(joined, np.mean(tables, axis=0)[200:], atol=1e-6)


def test_geometric_means_of_classes_sum_to_one() -> None:
    joined, _, tables, _ = fitted("geometric", "class")
    expected = gmean(np.stack(tables)[:, 200:], axis=0)
    np.testing.assert_allclose(joined, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
    labels, _, tables, _ = fitted("geometric", "labels")
    np.testing.assert_allclose(labels, expit(logit(np.stack(tables)).mean(axis=0))[200:], atol=1e-6)


def test_ranks_are_those_of_the_known_predictions() -> None:
    rows, tables = members("labels")
    task, side = task_of("labels"), np.empty((400, 0))
    made = fit("rank", task, tables, task.predictions.truth(rows), side)
    expected = np.mean([(rankdata(table, axis=0) - 0.5) / len(rows) for table in tables], axis=0)
    np.testing.assert_allclose(join(made, task, tables, side), expected, atol=1e-6)
    one = [table[7:8] for table in tables]  # a row by itself, as a hidden test set may have it
    np.testing.assert_allclose(join(made, task, one, side[:1]), expected[7:8], atol=1e-6)
    np.testing.assert_allclose(fitted("rank", "two")[0].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["class", "labels", "number"])
def test_least_squares_without_negative_weights(kind: str) -> None:
    joined, wanted, tables, weights = fitted("nnls", kind)
    [found] = weights.values()
    expected, _ = nnls(np.stack([table[:200].ravel() for table in tables], axis=1), wanted.ravel())
    expected /= expected.sum()
    np.testing.assert_allclose(found / found.sum(), expected, atol=1e-6)
    np.testing.assert_allclose(joined, np.tensordot(expected, np.stack(tables), 1)[200:], atol=1e-5)


def test_stacking_is_a_regression_on_all_members() -> None:
    joined, wanted, tables, _ = fitted("stack", "class")
    features = np.log(np.hstack(tables))
    made = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features[:200], wanted.argmax(axis=1))
    np.testing.assert_allclose(joined, made.predict_proba(features[200:]), atol=1e-5)
    joined, wanted, tables, _ = fitted("stack", "labels")
    features = logit(np.stack([table[:, 1] for table in tables], axis=1))
    made = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features[:200], wanted[:, 1])
    np.testing.assert_allclose(joined[:, 1], made.predict_proba(features[200:])[:, 1], atol=1e-5)
    joined, wanted, tables, _ = fitted("stack", "number")
    made = make_pipeline(StandardScaler(), Ridge()).fit(np.hstack(tables)[:200], wanted[:, 0])
    np.testing.assert_allclose(joined[:, 0], made.predict(np.hstack(tables)[200:]), atol=1e-5)


@pytest.mark.parametrize("kind", ["class", "two", "labels", "number"])
def test_a_linear_model_of_plain_numbers_is_the_library_s(kind: str) -> None:
    rows, tables = members(kind)
    task, values = task_of(kind), np.stack([table.to_numpy(np.float64) for table in tables])
    columns = task.predictions.columns[0]
    wanted = columns.targets(task.predictions.truth(rows))
    features = joining._features("stack", columns, values, np.empty((len(rows), 0)))
    models = [joining._model("stack", columns.answers, x, wanted, number) for number, x in enumerate(features)]
    made = joining._predicted(columns, models, features)
    for number, x in enumerate(features):
        one = wanted.argmax(axis=1) if columns.answers == "class" else wanted[:, number]
        model = make_pipeline(StandardScaler(), Ridge() if kind == "number" else LogisticRegression(max_iter=1000))
        expected = model.fit(x, one).predict(x)[:, None] if kind == "number" else model.fit(x, one).predict_proba(x)
        expected = expected[:, 1:] if kind == "labels" else expected
        np.testing.assert_allclose(made[:, [number]] if kind == "labels" else made, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", joining.METHODS)
def test_what_was_fitted_is_the_same_as_json(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "lightgbm":
        pytest.importorskip("lightgbm")
    monkeypatch.setattr(joining, "STEPS", 3)
    for kind in ("class", "two", "labels", "number"):
        rows, tables = members(kind)
        task = task_of(kind, metric="rmse" if kind == "number" else "log_loss")
        if method not in applicable(task):
            continue
        side = np.zeros((len(rows), 1), np.float32)
        made = fit(method, task, tables, task.predictions.truth(rows), side)
        again = Fitted(**json.loads(json.dumps(vars(made), default=np.ndarray.tolist)))
        pd.testing.assert_frame_equal(join(again, task, tables, side), join(made, task, tables, side), check_exact=True)


def test_a_class_that_was_not_there_to_be_fitted_gets_no_probability() -> None:
    rows, tables = members("class")
    task, side = task_of("class"), np.empty((len(rows), 0), np.float32)
    truth, known = task.predictions.truth(rows), (rows["animal"] != "owl").to_numpy()
    made = fit("stack", task, [table[known] for table in tables], truth[known], side[known])
    joined = join(made, task, tables, side)
    assert (joined["animal:owl"] == 0).all()
    np.testing.assert_allclose(joined.sum(axis=1), 1, atol=1e-6)


def test_a_climb_takes_members_again() -> None:
    """Of three quarters a quarter; the least squares of one that is away from it are found by counting."""
    target = np.array([0.75, 0.25])
    counts = climb(lambda taken: -float(np.abs(taken / taken.sum() - target).sum()), 2)
    np.testing.assert_allclose(counts / counts.sum(), target)
    assert list(climb(lambda taken: float("-inf"), 2)) == [1, 1]  # nothing can be scored: all alike
    assert list(climb(lambda taken: float(taken[1] == taken.sum()), 2)) == [0, 1]


def test_hill_climbing_is_as_good_as_the_best_member_on_what_it_was_fitted_to() -> None:
    rows, tables = members("class")
    task, side = task_of("class"), np.empty((len(rows), 0), np.float32)
    truth = task.predictions.truth(rows)
    joined = join(fit("hill", task, tables, truth, side), task, tables, side)
    scores = [log_loss(truth["animal"], table, labels=list(CLASSES)) for table in (joined, *tables)]
    assert scores[0] <= min(scores[1:])


@pytest.mark.parametrize(("kind", "metric"), [("class", "log_loss"), ("labels", "roc_auc"), ("number", "rmse")])
def test_the_nested_score_is_above_the_best_of_independent_members(
    kind: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "STEPS", 6)
    rows, tables = members(kind)
    task = task_of(kind, metric=metric)
    found = MethodSearch(task, ["a", "b", "c"], tables, rows, np.empty((len(rows), 0), np.float32), "best")
    scores = found.as_json()["scores"]
    assert scores["gain"] > 0.01
    assert set(found.nested) == set(applicable(task)) - {"lightgbm"}
    assert all(gains.mean() > 0 for gains in found.gains.values())
    assert found.lead(found.fitted["stack"], found.nested["stack"]).mean() > 0  # the optimism
    fitted_lead = found.lead(found.fitted[found.method], found.nested[found.method]).mean()
    assert scores["optimism"] >= fitted_lead - 1e-12  # the choice adds to it


def test_the_nested_score_of_a_fold_knows_nothing_of_its_truth() -> None:
    rows, tables = members("class")
    changed = rows.assign(animal=np.where(rows[ROW_FOLD] == 2, "cat", rows["animal"]))
    side, task = np.empty((len(rows), 0), np.float32), task_of("class")
    one, other = (MethodSearch(task, ["a", "b", "c"], tables, each, side, "stack") for each in (rows, changed))
    here = (rows[ROW_FOLD] == 2).to_numpy()
    pd.testing.assert_frame_equal(one.table[here], other.table[here])
    assert not one.table[~here].equals(other.table[~here])


def test_a_single_split_is_divided_without_tearing_groups() -> None:
    groups = np.repeat([f"g{number}" for number in range(20)], 3)
    rows = pd.DataFrame({ROW_ID: np.arange(60).astype(str), ROW_FOLD: 0, ROW_GROUP: groups})
    parts = parts_of(rows)
    assert len(set(parts)) == 5
    assert (pd.Series(parts).groupby(groups).nunique() == 1).all()
    assert list(parts_of(rows.assign(**{ROW_FOLD: np.arange(60) % 2}))) == [0, 1] * 30


def test_several_heads_are_joined_each_in_its_way() -> None:
    both = [members("class"), members("number")]
    rows = both[0][0].assign(age=both[1][0]["age"].where(both[1][0].index % 3 > 0), animal=both[0][0]["animal"])
    tables = [pd.concat(pair, axis=1) for pair in zip(both[0][1], both[1][1], strict=True)]
    task = task_of("class", "number", metric=Metric("right", lambda truth, found, heads: float(found["age"].mean())))
    assert applicable(task) == ["mean", "hill", "nnls", "stack", "lightgbm"]
    side = np.empty((len(rows), 0), np.float32)
    made = fit("nnls", task, tables, task.predictions.truth(rows), side)
    assert not np.allclose(made.weights["animal"], made.weights["age"])
    assert list(join(made, task, tables, side)) == list(tables[0])
    with pytest.raises(
        UserError, match=r"'geometric' cannot join what 'age' \(regression\) predicts; choose of mean, hill"
    ):
        MethodSearch(task, ["a", "b", "c"], tables, rows, side, "geometric")


def test_rankings_are_averaged_and_nothing_else() -> None:
    task = task_of("identity", metric=Metric("first", lambda truth, found, heads: 0.0))
    assert applicable(task) == ["mean", "hill"]
    labels = [["cat", "dog", "owl"], ["dog", "cat", "owl"]]
    values = [np.array([[*names, 0.9, 0.4, 0.1]], dtype=object) for names in labels]
    one = [pd.DataFrame(task.predictions.columns[0].table(each), index=["x"]) for each in values]
    made = join(fit("mean", task, one, one[0], np.empty((1, 0))), task, one, np.empty((1, 0)))
    assert made["who:score_1"].iloc[0] == pytest.approx(0.65)
    assert set(made.loc["x", ["who:label_1", "who:label_2"]]) == {"cat", "dog"}


def test_maps_are_averaged_and_masks_vote() -> None:
    head = Head("wound", "mask", ("skin",))
    score = Metric("none", lambda truth, found, heads: 0.0, needs="probabilities")
    task = task_for(Competition(Settings.model_construct(), parts={"metric:metrics": lambda s: [score]}), [head])
    generator = np.random.default_rng(0)
    planes = [[blob(generator, (24, 32), 0.3) for _ in range(3)] for _ in range(2)]  # images, members
    index = pd.Index(["x", "y"], name=ROW_ID, dtype="str")
    tables = [
        pd.DataFrame({"wound_skin": [maps.encode_mask(image[k]) for image in planes]}, index=index, dtype=object)
        for k in range(3)
    ]
    truths = [Planes(image[0][None].astype(np.uint8)) for image in planes]
    rows = pd.DataFrame({ROW_ID: ["x", "y"], ROW_FOLD: [0, 1], "wound": pd.Series(truths, dtype=object)})
    found = MethodSearch(task, ["a", "b", "c"], tables, rows, np.empty((2, 0), np.float32), "best")
    assert found.method == "mean"
    for image, cell in zip(planes, found.table["wound_skin"], strict=True):
        np.testing.assert_array_equal(maps.probability(cell) > 127, np.sum(image, axis=0) >= 2)
    found = MethodSearch(task, ["a", "b", "c"], tables, rows, np.empty((2, 0), np.float32), "hill")
    assert set(found.figures()) == {"correlation", "gains"}
    with pytest.raises(UserError, match=r"'stack' cannot join what 'wound' \(mask\) predicts; choose of mean, hill"):
        MethodSearch(task, ["a", "b", "c"], tables, rows, np.empty((2, 0), np.float32), "stack")


def test_correlations_are_of_what_differs_between_rows() -> None:
    generator = np.random.default_rng(0)
    one = generator.normal((100, 0), size=(500, 2))
    found = correlations([one, one * 2 + 5, generator.normal((100, 0), size=(500, 2))])
    assert found[0, 1] == pytest.approx(1)
    assert abs(found[0, 2]) < 0.15


def test_trees_read_side_columns() -> None:
    pytest.importorskip("lightgbm")
    rows, tables = members("number")
    task, side = task_of("number"), np.arange(len(rows), dtype=np.float32)[:, None]
    rows = rows.assign(age=rows["age"] + 3 * (side[:, 0] > 200))
    joined = join(fit("lightgbm", task, tables, task.predictions.truth(rows), side), task, tables, side)[
        "age"
    ].to_numpy()
    assert joined[side[:, 0] > 200].mean() - joined[side[:, 0] <= 200].mean() == pytest.approx(3, abs=0.5)


def test_trees_that_are_not_installed_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(UserError, match="uv pip install lightgbm"):
        fitted("lightgbm", "class")
