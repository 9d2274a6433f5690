"""Numbers of an image: truth, units, limits, folds, scores and submissions, each against an independent oracle."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import cohen_kappa_score, r2_score
from torch.nn import functional
from torchmetrics.functional import classification, regression

from pipeline.competition import Competition, Head
from pipeline.data.folds import make_folds
from pipeline.heads.base import kind_of
from pipeline.heads.numbers import NumberLabels
from pipeline.heads.submission_columns import submission_table
from pipeline.inference.evaluation import constant_scores
from pipeline.metrics.image_level import find_metric
from pipeline.metrics.regression import SCORES
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.submission.build import as_text
from pipeline.tasks import task_for
from pipeline.tasks.image_level.task import ImageLevelTask
from projects import ROOT, Renders, metric_choices, run_script
from toolkit.errors import UserError
from training import expect

ANSWERS = {"task": "regression", "trackers": []}
GRADES = ("0", "1", "2", "3", "4")
NAMES = ("rmse", "mae", "rmsle", "r2", "quadratic_weighted_kappa")
EXPERIMENT = """extends: demo
image: {size: 24}
training: {epochs: 4}
machine: {workers: 0}
watch: {figure_epochs: 0}
"""


def make_head(name: str = "age", **settings: Any) -> Any:
    return Head(name, "regression", **settings)


def make_task(*heads: Any) -> Any:
    return task_for(Competition(Settings.model_construct()), heads or [make_head()])


def score(
    name: str, truth: Sequence[float] | np.ndarray, given: Sequence[float] | np.ndarray, **settings: Any
) -> float:
    tables = [pd.DataFrame({"age": np.asarray(values, float)}) for values in (truth, given)]
    return float(find_metric(name).function(*tables, [make_head(**settings)]))


def make_loss(name: str, **params: Any) -> Any:
    return Registry(ImageLevelTask.NAMES).bind("loss", Spec(name=name, params=params))(make_head())


def random_rows(count: int = 200, groups: int = 0, columns: Sequence[str] = ("age",)) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({column: generator.lognormal(3, 1, count).astype(str) for column in columns})
    rows.insert(0, "id", [f"r{row}" for row in range(count)])
    if groups:
        rows["group"] = [f"g{number}" for number in generator.integers(0, groups, count)]
    return rows


def test_every_metric_against_torchmetrics() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 5, 300).astype(float)
    given = np.round(truth + generator.normal(0, 0.8, 300).clip(-0.9), 2)
    said, true = torch.from_numpy(given), torch.from_numpy(truth)
    grades = torch.from_numpy(np.digitize(given, [0.5, 1.5, 2.5, 3.5]))
    assert (given * 2 % 2 == 1).any(), "some stand exactly on a cut point"
    expected = {
        "rmse": regression.mean_squared_error(said, true, squared=False),
        "mae": regression.mean_absolute_error(said, true),
        "rmsle": regression.mean_squared_log_error(said, true).sqrt(),
        "r2": regression.r2_score(said, true),
        "quadratic_weighted_kappa": classification.multiclass_cohen_kappa(grades, true.long(), 5, weights="quadratic"),
    }
    assert tuple(expected) == NAMES
    for name, value in expected.items():
        assert score(name, truth, given, classes=GRADES) == pytest.approx(float(value), abs=1e-6), name


def test_rmse_of_several_columns_is_mcrmse() -> None:
    generator = np.random.default_rng(2)
    truth, given = (pd.DataFrame(generator.normal(0, [1, 9], (50, 2)), columns=["a", "b"]) for _ in range(2))
    expected = np.sqrt(((truth - given) ** 2).mean(axis=0)).mean()
    found = find_metric("rmse").function(truth, given, [make_head("a"), make_head("b")])
    assert found == pytest.approx(expected)


def test_copier_asks_for_every_metric_with_its_meaning() -> None:
    choices = metric_choices("regression")
    assert [meaning.split(": ")[0] for meaning in choices] == list(choices.values()) == list(NAMES)
    assert [one.name for one in SCORES] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_perfect_and_direction(name: str) -> None:
    truth = [0.0, 1.0, 3.0, 4.0]
    perfect, worse = (score(name, truth, given, classes=GRADES) for given in (truth, truth[::-1]))
    assert perfect == (1 if name in ("r2", "quadratic_weighted_kappa") else 0)
    assert find_metric(name).better(perfect, worse)


@pytest.mark.parametrize(
    ("name", "truth", "given", "reason"),
    [
        ("r2", [2.0], [2.0], "two different numbers"),
        ("r2", [2.0, 2.0], [2.0, 3.0], "two different numbers"),
        ("rmsle", [2.0, 3.0], [2.0, -1.0], "numbers above -1"),
        ("rmsle", [-3.0, 3.0], [2.0, 1.0], "numbers above -1"),
        ("quadratic_weighted_kappa", [2.0], [2.0], "two grades"),
        ("rmse", [2.0, 3.0], [2.0, math.nan], "1 rows of the predictions are not finite"),
        ("mae", [2.0, 3.0], [2.0, math.inf], "1 rows of the predictions are not finite"),
        ("mae", [math.nan], [2.0], "no row has a truth"),
        ("rmse", [], [], "no row has a truth"),
    ],
)
def test_what_is_not_defined_is_nan_with_a_reason(
    name: str, truth: list[float], given: list[float], reason: str
) -> None:
    with pytest.warns(UndefinedMetricWarning, match=f"head 'age': .*{reason}"):
        assert math.isnan(score(name, truth, given, classes=GRADES))


def test_rows_without_a_truth_are_left_out_and_limits_hold() -> None:
    assert score("mae", [1.0, math.nan, 4.0], [2.0, 9.0, 6.0]) == pytest.approx(1.5)
    assert score("mae", [1.0, 4.0], [-7.0, 60.0], limits=(0, 5)) == pytest.approx(1.0)
    assert score("rmsle", [0.0, 4.0], [-7.0, 4.0], limits=(0, math.inf)) == 0


def test_kappa_cuts_where_the_head_says() -> None:
    truth, given = [0, 1, 1, 3, 3], [0.2, 0.4, 0.9, 2.0, 9.0]
    grades = ("0", "1", "3")
    assert score("quadratic_weighted_kappa", truth, given, classes=grades) == pytest.approx(
        cohen_kappa_score(truth, [0, 0, 1, 3, 3], labels=[0, 1, 2, 3], weights="quadratic")
    )
    assert score("quadratic_weighted_kappa", truth, given, classes=grades, thresholds=(0.3, 2.5)) == pytest.approx(
        cohen_kappa_score(truth, [0, 1, 1, 1, 3], labels=[0, 1, 2, 3], weights="quadratic")
    )


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "needs the grades of 'age'"),
        (("0", "2"), "1 is not one of the grades"),
        (("mild", "severe"), "are no rising numbers"),
        (("1", "0"), "are no rising numbers"),
    ],
)
def test_grades_that_cannot_be_are_refused(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score("quadratic_weighted_kappa", [0.0, 1.0], [0.0, 1.0], classes=classes)


def test_cut_points_are_tuned_out_of_fold() -> None:
    """Predictions that regress to the mean: the best cut points lie closer together than the middles."""
    generator = np.random.default_rng(3)
    true = generator.integers(0, 5, 600)
    index = [f"r{row}" for row in range(600)]
    given = 2 + 0.5 * (true - 2) + generator.normal(0, 0.15, 600)
    truth, said = (pd.DataFrame({"age": values}, index=index) for values in (true.astype(float), given))
    task, metric = make_task(make_head(classes=GRADES)), find_metric("quadratic_weighted_kappa")
    tuned = task.predictions.tuner(truth, said, metric)(np.ones(len(truth), bool))
    usual, better = (metric.function(truth, said, heads) for heads in (task.heads, tuned))
    best = cohen_kappa_score(true, np.digitize(given, [1.25, 1.75, 2.25, 2.75]), weights="quadratic")
    assert usual < best - 0.1 and better >= best - 0.005
    assert make_task().predictions.tuner(truth, said, find_metric("rmse")) is None, "numbers are no decisions"


def test_targets_are_numbers_and_an_empty_cell_is_nan() -> None:
    rows = pd.DataFrame({"id": ["x", "y", "z"], "age": ["1.5", None, "-2e3"]})
    found = kind_of(make_head()).targets(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1.5], [np.nan], [-2000]])
    truth = make_task().predictions.truth(rows)
    assert list(truth.index) == ["x", "y", "z"]
    np.testing.assert_array_equal(truth["age"], [1.5, np.nan, -2000])


@pytest.mark.parametrize("cell", ["old", "1,5", "inf"])
def test_a_cell_that_is_no_number_names_its_row(cell: str) -> None:
    rows = random_rows()
    rows.loc[7, "age"] = cell
    for reads in (kind_of(make_head()).targets, lambda table: make_folds(table, NumberLabels(("age",)))):
        with pytest.raises(UserError, match=rf"column 'age': 1 rows \(id r7\) hold '{cell}', and a number is expected"):
            reads(rows)


@pytest.mark.parametrize(
    ("name", "params", "formula"),
    [
        ("mse", {}, lambda e: e**2),
        ("mae", {}, lambda e: abs(e)),
        ("huber", {"delta": 0.5}, lambda e: e**2 / 2 if abs(e) <= 0.5 else 0.5 * (abs(e) - 0.25)),
        ("smooth_l1", {"beta": 2.0}, lambda e: e**2 / 4 if abs(e) < 2 else abs(e) - 1),
    ],
)
def test_losses_by_hand_in_standard_deviations(name: str, params: dict[str, float], formula: Any) -> None:
    truth = np.array([[10.0], [30.0], [math.nan], [50.0]], np.float32)
    given = torch.tensor([[12.0], [-90.0], [0.0], [50.0]])
    loss = make_loss(name, **params)
    loss.fit(truth)
    deviation = np.std([10, 30, 50])
    expected = [formula((x - y) / deviation) for x, y in ((12, 10), (-90, 30), (50, 50))]
    rows = torch.tensor([0, 1, 3])
    found = loss(given[rows], torch.from_numpy(truth)[rows])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    extreme = torch.tensor([[65504.0], [-65504.0]], requires_grad=True)
    loss(extreme, torch.zeros(2, 1)).sum().backward()
    assert extreme.grad is not None and torch.isfinite(extreme.grad).all()


def test_a_loss_refuses_what_it_cannot_mean() -> None:
    for name, params in (("huber", {"delta": 0.0}), ("smooth_l1", {"beta": -1.0})):
        with pytest.raises(UserError, match=f"loss '{name}': .* must be"):
            make_loss(name, **params)


def test_learning_does_not_depend_on_the_unit() -> None:
    """The same network, shown the target in another unit: the same gradients, the same predictions in that unit."""
    features, truth = torch.randn(40, 8), np.random.default_rng(0).normal(0, 1, 40)
    gradients, answers = [], []
    for factor, shift in ((1.0, 0.0), (1e5, 3e6)):
        rows = pd.DataFrame({"id": map(str, range(40)), "age": (factor * truth + shift).astype(str)})
        torch.manual_seed(0)
        kind, loss = kind_of(make_head()), make_loss("mse")
        layer = kind.layer(8)
        kind.fit_statistics(torch.nn.Sequential(layer), rows)
        target = kind.targets(rows)
        loss.fit(target)
        output = layer(features)
        loss(output, torch.from_numpy(target)).mean().backward()
        gradients.append(next(layer.parameters()).grad)
        answers.append((output.detach().double() - shift) / factor)
        assert {"mean", "deviation"} <= set(layer.state_dict()), "saved with the weights"
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-4)


def test_folds_have_small_and_large_numbers_equally_often() -> None:
    folds = make_folds(random_rows(403), NumberLabels(("age",)), 5)
    assert folds.splitter == "stratified" and not folds.warnings
    assert max(folds.sizes()) - min(folds.sizes()) <= 1
    tenths = pd.qcut(folds.rows["age"].astype(float), 10, labels=False)
    per_fold = pd.crosstab(tenths, folds.rows["fold"])
    assert (per_fold.max(axis=1) - per_fold.min(axis=1)).max() <= 3, per_fold


def test_folds_of_several_columns_and_of_groups() -> None:
    rows, columns = random_rows(1000, columns=("age", "size")), ["age", "size"]
    spreads: dict[str, list[float]] = {"stratified": [], "plain": []}
    for splitter, seed in itertools.product(spreads, range(5)):
        folds = make_folds(rows, NumberLabels(columns), 5, seed=seed, splitter=splitter).rows
        means = np.log(folds[columns].astype(float)).groupby(folds["fold"]).mean()
        spreads[splitter].append(float(means.std().mean()))
    assert np.mean(spreads["stratified"]) < 0.5 * np.mean(spreads["plain"]), spreads
    grouped = make_folds(random_rows(600, groups=90), NumberLabels(("age",)), 5)
    assert grouped.splitter == "stratified_group"
    assert (grouped.rows.groupby("group")["fold"].nunique() == 1).all()
    means = grouped.rows["age"].astype(float).apply(np.log).groupby(grouped.rows["fold"]).mean()
    assert np.ptp(means) < 0.3


def test_grades_are_strata_of_their_own() -> None:
    rows = random_rows(200).assign(age=np.repeat(["0", "1", "2", "3"], [120, 50, 20, 10]))
    found = make_folds(rows, NumberLabels(("age",), graded=True), 5).rows
    assert (pd.crosstab(found["age"], found["fold"]).nunique(axis=1) == 1).all()
    assert NumberLabels(("age",)).named == () and NumberLabels(("age",), graded=True).named == ("age",)


@pytest.mark.parametrize("metric", ["rmse", "mae", "rmsle"])
def test_a_constant_is_the_best_for_the_metric(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Competition, "metrics", lambda self: (find_metric(metric),))
    rows = random_rows().assign(fold=np.arange(200) % 3)
    trains, held_out = (rows[mask]["age"].astype(float) for mask in (rows["fold"] != 1, rows["fold"] == 1))
    if metric == "rmsle":
        best = minimize_scalar(lambda y: score(metric, trains, np.full(len(trains), y)), (1, 50)).x
    else:
        dummy = DummyRegressor(strategy="mean" if metric == "rmse" else "median").fit(trains, trains)
        best = dummy.predict(trains[:1])[0]
    found = make_task().predictions.constant(rows[rows["fold"] != 1], ["x", "y"])
    np.testing.assert_allclose(found["age"], [best] * 2, rtol=1e-4)
    expected = score(metric, held_out, np.full(len(held_out), best))
    assert constant_scores(make_task(), rows, ["1"])["constant"][metric] == pytest.approx(expected, rel=1e-4)


def submitted(columns: tuple[str, ...], metric: str, **settings: Any) -> tuple[pd.DataFrame, Any]:
    """A submission of three rows, and the task."""
    head = make_head(**settings)
    predictions = pd.DataFrame({"age": np.array([-3.25, 1.5, 44.0078125], np.float32)}, index=["x", "y", "z"])
    sample = pd.DataFrame({name: [""] for name in ("image_id", *columns)})
    return submission_table(sample, predictions, [head], find_metric(metric), "image_id"), make_task(head)


@pytest.mark.parametrize(
    ("column", "metric", "settings", "expected"),
    [
        ("age", "rmse", {}, ["-3.25", "1.5", "44.0078125"]),
        ("Predicted", "rmse", {}, ["-3.25", "1.5", "44.0078125"]),
        ("age", "rmse", {"limits": (0, 40.5)}, ["0", "1.5", "40.5"]),
        ("age", "mae", {"limits": (0, 100), "decimals": 2}, ["0", "1.5", "44.01"]),
        ("age", "mae", {"decimals": 0}, ["-3", "2", "44"]),
        ("age", "mae", {"decimals": -1}, ["0", "0", "40"]),
        ("age", "rmse", {"classes": GRADES}, ["-3.25", "1.5", "44.0078125"]),
        ("age", "quadratic_weighted_kappa", {"classes": GRADES}, ["0", "2", "4"]),
        ("age", "quadratic_weighted_kappa", {"classes": GRADES, "thresholds": (0, 1.6, 1.7, 50)}, ["0", "1", "3"]),
    ],
)
def test_a_submission_is_a_column_of_numbers_or_grades(
    column: str, metric: str, settings: dict[str, Any], expected: list[str]
) -> None:
    table, task = submitted((column,), metric, **settings)
    written = as_text(table)
    assert written[column].tolist() == expected
    rules = task.submission.rules(written, find_metric(metric))
    assert len(rules.described()) == 1 and rules.problems(written) == []
    back = task.submission.read(table.set_index("image_id"), rules, find_metric(metric))
    again = submission_table(written[:0], back, task.heads, find_metric(metric), "image_id")
    assert as_text(again)[column].tolist() == expected, "the way back and forth again"


@pytest.mark.parametrize(
    ("metric", "settings", "cell", "kind", "text"),
    [
        ("rmse", {}, "old", "dtype", "text where a number is expected"),
        ("rmse", {}, "", "blank", "are blank"),
        ("rmse", {}, "inf", "finite", "are infinite"),
        ("rmse", {}, "1,5", "dtype", "decimal comma"),
        ("rmse", {"limits": (0, 50)}, "50.1", "range", "outside the limits (50.1); the limits in src/competition"),
        ("quadratic_weighted_kappa", {"classes": GRADES}, "1.5", "dtype", "not whole numbers"),
        ("quadratic_weighted_kappa", {"classes": GRADES}, "5", "label", "none of the classes"),
    ],
)
def test_a_bad_cell_is_one_problem(metric: str, settings: dict[str, Any], cell: str, kind: str, text: str) -> None:
    table, task = submitted(("age",), metric, **settings)
    told = table.astype(str).set_index("image_id", drop=False)
    rules = task.submission.rules(told, find_metric(metric))
    told.loc["y", "age"] = cell
    [problem] = rules.problems(told)
    assert problem.kind == kind and text in problem.text, problem
    assert problem.warning == (kind == "range"), "no grader knows the limits"


def test_a_sample_of_grades_as_columns_is_not_taken_for_numbers() -> None:
    with pytest.raises(UserError, match="the sample submission has the columns"):
        submitted(("0", "1"), "rmse", classes=GRADES)


def test_decoding_keeps_the_limits() -> None:
    found = make_task(make_head(limits=(0, 9))).predictions.decode(
        ["a", "b", "c"], {"output_age": torch.tensor([[-1.0], [3], [99]])}
    )
    assert found["age"].tolist() == [0, 3, 9] and found["age"].dtype == np.float32


def test_shares_are_quartiles_or_grades() -> None:
    predictions = pd.DataFrame({"age": [0.0, 1.0, 2.0, 3.0, 10.0]})
    assert make_task().submission.shares(predictions)["age"].tolist() == [0, 1, 2, 3, 10]
    graded = make_task(make_head(classes=GRADES)).submission.shares(predictions)["age"]
    assert graded.to_dict() == dict.fromkeys(GRADES, 0.2)


def test_the_worst_samples_come_first() -> None:
    images = [np.full((32, 48, 3), 20 * number, np.uint8) for number in range(6)]
    ids = [f"id{number}" for number in range(6)]
    rows = pd.DataFrame({"id": ids, "age": ["1", "2", "3", None, "5", "6"]})
    predictions = pd.DataFrame({"age": [1.0, 2.5, 0.0, 9.0, 5.1, 7.0]}, index=ids)
    [draw] = make_task().figures.examples(rows, images, predictions).values()
    [axes] = draw().axes
    titles, shown = ([text.get_text() for text in axes.texts[start::2]] for start in (0, 1))
    assert shown == ["id2", "id5", "id1", "id4", "id0"]
    assert titles[0] == "0 (-3)\ntrue: 3"
    assert (np.asarray(axes.images[1].get_array()) == images[5]).all()


def test_the_scatter_shows_every_row_and_its_residual() -> None:
    truth = pd.DataFrame({"age": [1.0, 2.0, np.nan, 4.0]})
    predictions = pd.DataFrame({"age": [1.5, 2.0, 3.0, 2.0]})
    figure = make_task().figures.overview(truth, predictions)["scatter/age"]()
    left, middle, right = figure.axes
    np.testing.assert_allclose(left.collections[0].get_offsets(), [[1, 1.5], [2, 2], [4, 2]])
    np.testing.assert_allclose(middle.collections[0].get_offsets(), [[1.5, 0.5], [2, 0], [2, -2]])
    assert sum(bar.get_height() for bar in right.patches) == 3
    assert f"error {np.sqrt(4.25 / 3):.4g}" in figure.get_suptitle()


def test_the_commented_example_of_an_own_metric_works() -> None:
    text = (ROOT / "variants/regression/competition/metric.py").read_text()
    start = text.index("# def within_a_tenth")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text[start:].splitlines())
    namespace: dict[str, Any] = {"pd": pd, "Sequence": Sequence, "Head": Head}
    exec(f"{text[:start]}\n{example}", namespace)
    own = namespace["metrics"](namespace["Settings"].model_construct(metric="rmse"))
    truth, said = pd.DataFrame({"age": [10.0, -10.0, 0.0]}), pd.DataFrame({"age": [10.9, -11.5, 0.0]})
    assert [metric.name for metric in own] == ["within_a_tenth", "rmse", "mae", "r2"]
    assert own[0].function(truth, said, [make_head()]) == pytest.approx(2 / 3)


def test_check_data_finds_text_and_numbers_outside_the_limits(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", ANSWERS)
    targets = project / "src/competition/targets.py"
    targets.write_text(targets.read_text().replace("tuple(classes.get(column, ()))", "limits=(0, 100)"))
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    table = pd.read_csv(project / "data/raw/train.csv", dtype=str)
    table.loc[[3, 5], "ink"] = ["100.5", "much"]
    table.to_csv(project / "data/raw/train.csv", index=False)
    done = expect(run_script(project, "check_data.py"), status=2)
    assert "2 faults in the data (1 x no number, 1 x outside the limits)" in done.last_line
    assert "100.5 of 'ink' is outside its limits, 0 to 100" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("metric", [pytest.param("rmse", marks=pytest.mark.full), "quadratic_weighted_kappa"])
def test_the_whole_path(metric: str, renders: Renders, tmp_path: Path) -> None:
    """Two columns of numbers, or of grades: learnt, scored, submitted in the shape of the sample."""
    columns = ["ink", "slant"]
    project = renders.copy(tmp_path / "project", {**ANSWERS, "target_columns": "ink, slant", "metric": metric})
    (project / "experiments/short.yaml").write_text(EXPERIMENT)
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "short"))
    oof = pd.read_parquet(project / "runs/short/oof.parquet").set_index("id")
    truth = pd.read_csv(project / "data/raw/train.csv", dtype={"image_id": str}).set_index("image_id").loc[oof.index]
    answers = pd.read_csv(project / "data/raw/.answers.csv", dtype={"image_id": str}).set_index("image_id")
    written = pd.read_csv(project / "submissions/short.csv", dtype={"image_id": str}).set_index("image_id")
    assert len(oof) == 1297 and list(written) == columns
    for column in columns:
        assert r2_score(truth[column], oof[column]) > 0.5
        assert (project / f"runs/short/figures/scatter/{column}.png").stat().st_size > 5000
        graded = metric == "quadratic_weighted_kappa"
        assert (written[column].dtype == np.int64) == graded
        given, asked = written[column], answers[column].loc[written.index]
        assert (cohen_kappa_score(asked, given, weights="quadratic") if graded else r2_score(asked, given)) > 0.5


def test_functional_is_what_the_loss_says() -> None:
    """With `beta` equal to `delta`, the two robust losses are the same but for that factor."""
    given, truth = torch.randn(20, 1), torch.randn(20, 1)
    expected = functional.huber_loss(given, truth, reduction="none", delta=0.7)[:, 0]
    torch.testing.assert_close(make_loss("smooth_l1", beta=0.7)(given, truth) * 0.7, expected)
