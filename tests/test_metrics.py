"""Every metric against another library or a case worked by hand."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import UndefinedMetricWarning

from pipeline.competition import Head, Metric
from pipeline.metrics.image_level import find_metric, over_heads
from pipeline.metrics.multiclass import SCORES
from pipeline.settings import Settings
from projects import source
from toolkit.errors import UserError

SCORED = {one.name: over_heads(one.name, {"multiclass": one}) for one in SCORES}
NAMES = sorted(SCORED)
DISTANCES = {"log_loss", "kl_divergence"}
OF_PROBABILITIES = DISTANCES | {"roc_auc", "pr_auc", "probabilistic_f1", "map_at_3", "map_at_5"}


def head(*classes: str, name: str = "label") -> Head:
    return Head(name, "multiclass", classes)


def tables(of: Head, truth: list[str], probabilities: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = pd.Index([f"{row:05d}" for row in range(len(truth))], name="id")
    columns = [f"{of.name}:{name}" for name in of.classes]
    given = np.asarray(probabilities, dtype=np.float32).reshape(len(truth), len(of.classes))
    return pd.DataFrame({of.name: truth}, index=ids), pd.DataFrame(given, index=ids, columns=columns)


def score(name: str, of: Head, truth: list[str], probabilities: object) -> float:
    return float(SCORED[name].function(*tables(of, truth, probabilities), [of]))


def decided(of: Head, labels: list[str]) -> np.ndarray:
    """Probabilities that decide for these labels."""
    return np.eye(len(of.classes))[[of.classes.index(label) for label in labels]] * 0.8 + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_perfect_and_direction(name: str) -> None:
    of = head("a", "b", "c")
    truth = ["a", "b", "c", "b", "a", "c"]
    metric = SCORED[name]
    perfect = score(name, of, truth, np.eye(3)[[of.classes.index(label) for label in truth]])
    worse = score(name, of, truth, decided(of, ["b", "c", "a", "b", "a", "c"]) / 1.1)
    assert perfect == pytest.approx(0.0 if name in DISTANCES else 1.0, abs=1e-9)
    assert metric.better(perfect, worse) and not metric.better(worse, perfect)
    assert metric.greater_is_better == (name not in DISTANCES)
    assert metric.needs == ("probabilities" if name in OF_PROBABILITIES else "labels")


def test_worked_by_hand() -> None:
    of = head("0", "1", "2")
    truth, said = ["0", "0", "1", "2"], ["0", "1", "1", "0"]
    guess = decided(of, said)
    assert score("accuracy", of, truth, guess) == 0.5
    assert score("balanced_accuracy", of, truth, guess) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert score("f1_macro", of, truth, guess) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    # Squared distances 0, 1, 0, 4; chance: 4 * (var truth + var said + squared difference of their means).
    chance = 4 * (np.var([0, 0, 1, 2]) + np.var([0, 1, 1, 0]) + (0.75 - 0.5) ** 2)
    assert score("quadratic_weighted_kappa", of, truth, guess) == pytest.approx(1 - 5 / chance)
    sure = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]
    assert score("log_loss", of, truth, sure) == pytest.approx((2 * math.log(2) + 2 * math.log(4)) / 4)


def test_roc_auc_of_ties_is_half_and_the_second_class_is_positive() -> None:
    of = head("no", "yes")
    truth = ["no", "yes", "no", "yes"]
    assert score("roc_auc", of, truth, [[0.5, 0.5]] * 4) == 0.5
    assert score("roc_auc", of, truth, [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]]) == 1.0
    assert score("roc_auc", of, truth, [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]]) == 0.875  # one tie of four


def test_roc_auc_of_one_class_only_is_nan_with_a_reason() -> None:
    of = head("no", "yes")
    with pytest.warns(UndefinedMetricWarning, match=r"head 'label'.*all rows are 'yes'"):
        assert math.isnan(score("roc_auc", of, ["yes"] * 3, [[0.5, 0.5]] * 3))


def test_a_class_missing_in_the_truth() -> None:
    of = head("a", "b", "c")
    truth, guess = ["a", "b", "a", "b"], [[0.6, 0.2, 0.2], [0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("balanced_accuracy", of, truth, guess) == 0.5
        assert score("f1_macro", of, truth, guess) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
        # 'a' against the rest: 0.6, 0.2 over 0.5, 0.1: 3 of 4 pairs. 'b': 0.3, 0.8 over 0.2, 0.1: all. 'c': undefined.
        assert score("roc_auc", of, truth, guess) == pytest.approx((0.75 + 1.0) / 2)
        assert math.isfinite(score("log_loss", of, truth, guess))
        assert math.isfinite(score("quadratic_weighted_kappa", of, truth, guess))
        assert math.isfinite(score("matthews_corrcoef", of, truth, guess))


def test_kappa_measures_the_distance_of_grades() -> None:
    gap = head("0", "1", "10")
    positions = head("none", "mild", "severe")
    guess = decided(gap, ["0", "1", "1", "10"])
    near = 1 - 81 / (4 * (np.var([0, 1, 10, 10]) + np.var([0, 1, 1, 10]) + (5.25 - 3) ** 2))
    assert score("quadratic_weighted_kappa", gap, ["0", "1", "10", "10"], guess) == pytest.approx(near)
    plain = 1 - 1 / (4 * (np.var([0, 1, 2, 2]) + np.var([0, 1, 1, 2]) + 0.25**2))
    truth = ["none", "mild", "severe", "severe"]
    assert score("quadratic_weighted_kappa", positions, truth, guess) == pytest.approx(plain)
    codes = head("1", "40000000", "900000000")  # no grades: their range would not fit into memory
    assert score("quadratic_weighted_kappa", codes, ["1", "40000000", "900000000"], np.eye(3)) == pytest.approx(1.0)


def test_kappa_of_a_single_grade_is_nan_with_a_reason() -> None:
    of = head("0", "1")
    with pytest.warns(UndefinedMetricWarning, match="two grades"):
        assert math.isnan(score("quadratic_weighted_kappa", of, ["1", "1"], decided(of, ["1", "1"])))


@pytest.mark.parametrize("name", NAMES)
def test_several_heads_are_averaged(name: str) -> None:
    one, other = head("a", "b", "c"), head("x", "y", name="other")
    first, second = ["a", "b", "c", "b"] * 25, ["x", "x", "y"] * 33 + ["y"]
    generator = np.random.default_rng(0)
    guess, chance = generator.dirichlet(np.ones(3), size=100), generator.random((100, 1))
    pairs = [tables(one, first, guess), tables(other, second, np.hstack([chance, 1 - chance]))]
    both = [pd.concat(parts, axis=1) for parts in zip(*pairs, strict=True)]
    metric = SCORED[name]
    single = [metric.function(*pair, [of]) for pair, of in zip(pairs, (one, other), strict=True)]
    assert metric.function(both[0], both[1], [one, other]) == pytest.approx(np.mean(single))


@pytest.mark.parametrize("name", NAMES)
def test_predictions_that_are_not_finite_have_no_score(name: str) -> None:
    of = head("a", "b")
    with pytest.warns(UndefinedMetricWarning, match=r"1 rows of the predictions are not finite \(00001\)"):
        assert math.isnan(score(name, of, ["a", "b"], [[0.5, 0.5], [math.nan, 0.5]]))
    with pytest.warns(UndefinedMetricWarning, match="2 rows of the predictions are not finite"):
        assert math.isnan(score(name, of, ["a", "b"], np.full((2, 2), math.nan)))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_have_no_score(name: str) -> None:
    with pytest.warns(UndefinedMetricWarning, match="no row has a truth"):
        assert math.isnan(score(name, head("a", "b"), [], np.zeros((0, 2))))


def test_log_loss_survives_a_certain_error() -> None:
    value = score("log_loss", head("a", "b"), ["a"], [[0.0, 1.0]])
    assert math.isfinite(value) and value > 30


def test_what_is_refused() -> None:
    of = head("cat", "dog")
    truth, predictions = tables(of, ["cat", "dog"], [[0.6, 0.4], [0.2, 0.8]])
    function = find_metric("accuracy").function
    with pytest.raises(UserError, match="same order"):
        function(truth.iloc[::-1], predictions, [of])
    with pytest.raises(UserError, match=r"'dgo', which is not in folds/classes\.json; did you mean 'dog'"):
        function(truth.replace("dog", "dgo"), predictions, [of])
    with pytest.warns(UndefinedMetricWarning, match="no row has a truth"):  # none with a truth
        assert math.isnan(function(truth.assign(label=math.nan), predictions, [of]))
    with pytest.raises(UserError, match="predictions have no column 'label:dog'"):
        function(truth, predictions.drop(columns="label:dog"), [of])
    with pytest.raises(UserError, match="truth has no column 'label'"):
        function(truth.rename(columns={"label": "target"}), predictions, [of])
    with pytest.raises(UserError, match="did you mean 'accuracy'") as caught:
        find_metric("acuracy")
    assert "src/competition/metric.py" in str(caught.value)


def settings(metric: str) -> Settings:
    return Settings(
        competition="x",
        task="classification",
        metric=metric,
        target_columns=("label",),
        train_images="",
        test_images="",
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_leaderboards_metric_is_first_and_none_stands_twice(name: str) -> None:
    namespace: dict[str, object] = {}
    exec((source() / "competition/metric.py").read_text(), namespace)
    metrics = namespace["metrics"](settings(name))  # type: ignore[operator]
    assert metrics[0].name == name
    assert len({metric.name for metric in metrics}) == len(metrics) >= 2


def test_the_commented_example_of_an_own_metric_works() -> None:
    text = (source() / "competition/metric.py").read_text()
    start = text.index("# def top_two")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text[start:].splitlines())
    namespace: dict[str, object] = {"pd": pd, "Sequence": Sequence, "Head": Head}
    exec(f"{text[:start]}\n{example}", namespace)
    own: Metric = namespace["metrics"](settings("accuracy"))[0]  # type: ignore[operator]
    of = head("a", "b", "c")
    guess = [[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]
    assert own.function(*tables(of, ["a", "b", "c"], guess), [of]) == pytest.approx(2 / 3)
