"""What a submission scores at a grader that knows nothing of the pipeline is what the pipeline's metric says."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from house_prices import House, make_house, refused
from projects import Renders, imported

IDS = [f"id-{number:02d}" for number in range(40)]
TEXT, WHOLE, TRUTH_VALUES = ["b c", "Dog", "cat"], ["-1", "0", "2", "10"], ["False", "True"]


def build(renders: Renders, tmp_path: Path, metric: str, classes: Sequence[str], columns: Sequence[str]) -> House:
    return make_house(renders, tmp_path / "project", metric, {"label": classes}, ("image_id", *columns), IDS)


def truth_of(classes: Sequence[str]) -> list[str]:
    return [str(name) for name in np.random.default_rng(5).choice(list(classes), size=len(IDS))]


def own_score(house: House, truth: Sequence[str], predictions: pd.DataFrame) -> float:
    """What the project's own metric says of the predictions."""
    with imported(house.root):
        from competition import competition

        table = pd.DataFrame({"label": truth}, index=predictions.index)
        return float(competition.metrics()[0].function(table, predictions, competition.heads(house.classes)))


def submitted(house: House) -> pd.DataFrame:
    """The submission with the types that pandas sees in it, as a grader reads it."""
    result = house.submit("one")
    assert result.status == 0, result
    return pd.read_csv(house.root / "submissions" / "one.csv").set_index("image_id").loc[IDS]


def typed(values: Sequence[str], like: pd.Series) -> list[object]:
    """Labels in the type of the submission's column."""
    if like.dtype == bool:
        return [value == "True" for value in values]
    return [int(value) for value in values] if like.dtype == np.int64 else list(values)


@pytest.mark.parametrize(
    ("metric", "classes", "dtype", "grader"),
    [
        ("f1_weighted", TEXT, "str", lambda true, said: sk.f1_score(true, said, average="weighted")),
        ("f1_micro", WHOLE, "int64", lambda true, said: sk.f1_score(true, said, average="micro")),
        ("accuracy", TRUTH_VALUES, "bool", sk.accuracy_score),
    ],
)
def test_labels(
    metric: str,
    classes: list[str],
    dtype: str,
    grader: Callable[[list[object], pd.Series], float],
    renders: Renders,
    tmp_path: Path,
) -> None:
    house = build(renders, tmp_path, metric, classes, ["label"])
    truth, predictions = truth_of(classes), house.predict(IDS)
    column = submitted(house)["label"]
    assert column.dtype == dtype
    assert grader(typed(truth, column), column) == pytest.approx(own_score(house, truth, predictions))


@pytest.mark.parametrize(
    ("metric", "classes", "grader"),
    [("pr_auc", TRUTH_VALUES, sk.average_precision_score), ("roc_auc", ["0", "1"], sk.roc_auc_score)],
)
def test_the_probability_of_the_second_class(
    metric: str,
    classes: list[str],
    grader: Callable[[list[bool], pd.Series], float],
    renders: Renders,
    tmp_path: Path,
) -> None:
    house = build(renders, tmp_path, metric, classes, ["prediction"])
    truth, predictions = truth_of(classes), house.predict(IDS)
    column = submitted(house)["prediction"]
    assert column.dtype == np.float64
    expected = own_score(house, truth, predictions)
    assert grader([value == classes[1] for value in truth], column) == pytest.approx(expected, abs=1e-7)


def test_probabilistic_f1_of_labels_true_and_false(renders: Renders, tmp_path: Path) -> None:
    house = build(renders, tmp_path, "probabilistic_f1", TRUTH_VALUES, ["cancer"])
    truth, predictions = truth_of(TRUTH_VALUES), house.predict(IDS)
    column = submitted(house)["cancer"]
    true = np.array(truth) == "True"
    precision, recall = column[true].sum() / column.sum(), column[true].sum() / true.sum()
    expected = 2 * precision * recall / (precision + recall)
    assert own_score(house, truth, predictions) == pytest.approx(expected, abs=1e-7)
    refused(house.check("image_id,cancer\n" + "\n".join(f"{name},True" for name in IDS) + "\n"), "are booleans")


@pytest.mark.parametrize("asked", [["Dog", "b c", "cat"], ["cat", "Dog"]])
def test_log_loss_to_the_last_digit(asked: list[str], renders: Renders, tmp_path: Path) -> None:
    """Probabilities down to 1e-15, and a class that the sample does not ask for and that takes nearly everything.

    scikit-learn warns when a row misses 1 by more than 1.5e-8.
    """
    house = build(renders, tmp_path, "log_loss", TEXT, asked)
    predictions = house.predict(IDS)
    predictions.loc[IDS[:10], ["label:Dog", "label:cat"]] = np.float32([1e-15, 3e-15])
    predictions.loc[IDS[10:20], ["label:b c", "label:Dog"]] = np.float32([1e-12, 1e-15])
    predictions.to_parquet(house.run / "test.parquet")
    table = submitted(house)[sorted(asked)]
    truth = truth_of(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graded = sk.log_loss(truth, table.to_numpy(), labels=sorted(asked))
    exact = predictions[[f"label:{name}" for name in sorted(asked)]].to_numpy(np.longdouble)
    exact = exact / exact.sum(axis=1, keepdims=True)
    true = exact[np.arange(len(IDS)), [sorted(asked).index(name) for name in truth]]
    expected = -np.log(np.maximum(true, np.finfo(float).eps)).mean()
    assert graded == pytest.approx(float(expected), rel=1e-8)
    assert true.min() < 1e-14
    if len(asked) == len(TEXT):
        assert own_score(house, truth, predictions) == pytest.approx(float(expected), rel=1e-12)
