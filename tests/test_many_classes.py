"""Thousands of classes: the best ones of a row are kept, and all that follows agrees with a table of all classes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk

from pipeline.competition import Head
from pipeline.heads.base import kind_of
from pipeline.heads.columns import probability_columns
from pipeline.heads.many_classes import KEPT, MANY, BestClasses
from pipeline.heads.submission_columns import rules_of, submission_table
from pipeline.inference.aggregates import generalized_mean, maximum, mean
from pipeline.inference.predict import read_predictions, write_predictions
from pipeline.metrics.image_level import find_metric
from pipeline.submission.build import as_text
from test_constant import task_of
from toolkit.errors import UserError

CLASSES, ROWS = 5_000, 400
HEAD = Head("label", "multiclass", tuple(f"k{number}" for number in range(CLASSES)))
IDS = [f"r{row:04d}" for row in range(ROWS)]


def logits_of(seed: int, rows: int = ROWS) -> np.ndarray:
    """Float32 (rows, classes), right in a half of the rows."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (rows, CLASSES)).astype(np.float32)
    logits[np.arange(rows), numbers_of(rows)] += generator.normal(5, 3, rows)
    return logits


def numbers_of(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 300, rows)


def tables(seed: int, head: Head = HEAD) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Truth, predictions, and the probabilities of all classes, float64 (rows, classes)."""
    logits = logits_of(seed)
    predictions = task_of(head).predictions.decode(IDS, {head.output_key: torch.from_numpy(logits)})
    truth = pd.DataFrame({"label": np.array(head.classes, object)[numbers_of()]}, index=predictions.index)
    return truth, predictions, softmax(logits.astype(np.float64), axis=1)


def columns_of(head: Head = HEAD) -> BestClasses:
    columns = kind_of(head).columns
    assert isinstance(columns, BestClasses)
    return columns


def score(name: str, truth: pd.DataFrame, predictions: pd.DataFrame) -> float:
    return float(find_metric(name).function(truth, predictions, [HEAD]))


def test_the_best_classes_of_a_row_are_kept_and_read_back(tmp_path: Path) -> None:
    _, predictions, whole = tables(0)
    write_predictions(tmp_path / "test.parquet", predictions)
    assert (tmp_path / "test.parquet").stat().st_size < whole.astype(np.float32).nbytes / 10
    found = columns_of().dense(read_predictions(tmp_path / "test.parquet"))
    order = np.argsort(-whole, axis=1)
    best, rest = order[:, :KEPT], order[:, KEPT:]
    np.testing.assert_allclose(np.take_along_axis(found, best, 1), np.take_along_axis(whole, best, 1), rtol=1e-6)
    spread = np.take_along_axis(found, rest, 1)
    assert np.allclose(found.sum(axis=1), 1) and (np.ptp(spread, axis=1) == 0).all()
    np.testing.assert_allclose(spread.sum(axis=1), np.take_along_axis(whole, rest, 1).sum(axis=1), atol=1e-6)
    assert isinstance(kind_of(Head("label", "multiclass", HEAD.classes[:MANY])).columns, BestClasses) is False


def test_equal_ones_stand_in_class_order() -> None:
    values = np.zeros((2, CLASSES), np.float32)
    values[1, [4_000, 17]] = 0.5
    found = columns_of().table(values)
    assert [found["label:class_1"][1], found["label:class_2"][1]] == ["k17", "k4000"]
    nothing = columns_of().table(values[:0])
    assert all(len(cells) == 0 for cells in nothing.values()) and list(task_of(HEAD).predictions.empty()) == list(
        nothing
    )


def test_scores_are_those_of_all_classes() -> None:
    truth, predictions, whole = tables(1)
    numbers, said = numbers_of(), whole.argmax(axis=1)
    assert 0.3 < score("accuracy", truth, predictions) == sk.accuracy_score(numbers, said) < 0.9
    for average in ("macro", "weighted", "micro"):
        expected = sk.f1_score(numbers, said, average=average, zero_division=0)
        assert score(f"f1_{average}", truth, predictions) == pytest.approx(expected)
    recall = sk.recall_score(numbers, said, labels=np.unique(numbers), average="macro")
    assert score("balanced_accuracy", truth, predictions) == pytest.approx(recall)
    rank = 1 + (whole > whole[np.arange(ROWS), numbers][:, None]).sum(axis=1)
    for most in (3, 5):
        expected = np.where(rank <= most, 1 / rank, 0).mean()
        assert score(f"map_at_{most}", truth, predictions) == pytest.approx(expected)


def test_log_loss_spreads_what_is_left() -> None:
    truth, predictions, whole = tables(2)
    numbers, dense = numbers_of(), columns_of().dense(predictions)
    rank = (whole > whole[np.arange(ROWS), numbers][:, None]).sum(axis=1)
    assert 0 < (rank >= KEPT).sum() < ROWS, "some of the truth is not kept"
    expected = -np.log(dense[np.arange(ROWS), numbers]).mean()
    assert score("log_loss", truth, predictions) == pytest.approx(expected, rel=1e-9)
    kept = rank < KEPT
    exact = sk.log_loss(numbers[kept], whole[kept], labels=np.arange(CLASSES))
    assert score("log_loss", truth[kept], predictions[kept]) == pytest.approx(exact, rel=1e-6)


def test_models_are_averaged_as_if_all_classes_were_there() -> None:
    task, found = task_of(HEAD), [tables(seed) for seed in (3, 4, 5)]
    average = task.predictions.average([predictions for _, predictions, _ in found])
    whole = np.mean([columns_of().dense(predictions) for _, predictions, _ in found], axis=0)
    numbers, given, other = columns_of().listed(average)
    np.testing.assert_allclose(given, -np.sort(-whole, axis=1)[:, :KEPT], rtol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(whole, numbers, 1), given, rtol=1e-6)
    assert np.allclose(given.sum(axis=1) + other * (CLASSES - KEPT), 1)
    exact = np.mean([each for _, _, each in found], axis=0)
    assert (numbers[:, 0] == exact.argmax(axis=1)).mean() > 0.98
    assert task.predictions.average([average]) is not None and list(average.index) == IDS


@pytest.mark.parametrize("function", [mean, maximum, generalized_mean])
def test_several_images_become_one(function) -> None:  # type: ignore[no-untyped-def]
    _, predictions, _ = tables(6)
    ids = np.array([f"p{row % 270}" for row in range(ROWS)], object)
    made = columns_of().aggregate(predictions, ids, function)
    dense = pd.DataFrame(columns_of().dense(predictions), columns=probability_columns(HEAD))
    expected = function(dense, ids)
    expected = expected.div(expected.sum(axis=1), axis=0)
    assert list(made.index) == list(pd.unique(ids)) == list(expected.index)
    _, given, _ = columns_of().listed(made)
    np.testing.assert_allclose(given, -np.sort(-expected.to_numpy(), axis=1)[:, :KEPT], rtol=1e-5)


@pytest.mark.parametrize(("metric", "most"), [("accuracy", 1), ("map_at_5", 5)])
def test_submissions_list_the_best(metric: str, most: int) -> None:
    _, predictions, whole = tables(8)
    sample = pd.DataFrame({"id": IDS, "label": "k1"})
    table = submission_table(sample, predictions, [HEAD], find_metric(metric), "id")
    best = np.array(HEAD.classes, object)[np.argsort(-whole, axis=1, kind="stable")[:, :most]]
    assert table["label"].tolist() == [" ".join(row) for row in best]
    rules = rules_of(sample, "id", [HEAD], find_metric(metric), IDS)
    assert rules.problems(as_text(table)) == []
    [problem] = rules.problems(as_text(table).replace({"label": {table["label"][0]: "k5000"}}))
    assert problem.kind == "label" and "k5000" in problem.text


def test_a_sample_may_ask_for_columns_of_classes() -> None:
    _, predictions, _ = tables(9)
    sample = pd.DataFrame({"id": IDS, "k4000": "0", "k7": "0"}, dtype="str")
    table = submission_table(sample, predictions, [HEAD], find_metric("accuracy"), "id")
    np.testing.assert_allclose(table[["k4000", "k7"]], columns_of().dense(predictions)[:, [4000, 7]], rtol=1e-6)


def test_pictures_shares_and_label_errors() -> None:
    truth, predictions, whole = tables(10)
    true, said, sure = columns_of().read_out(truth, predictions)
    np.testing.assert_allclose(sure, whole.max(axis=1), rtol=1e-6)
    assert list(columns_of().figures(truth, predictions)) == ["calibration/label"]
    assert columns_of().shares(predictions).sum() == pytest.approx(1) and columns_of().ranked(truth, predictions) == {}
    found = columns_of().label_errors(truth, predictions)
    assert len(found) == (true != said).sum() and found["score"].is_monotonic_decreasing
    own = 1 - columns_of().dense(predictions)[[IDS.index(row) for row in found.index], :]
    given = [HEAD.classes.index(name) for name in found["given"]]
    np.testing.assert_allclose(found["score"], own[np.arange(len(found)), given])


def test_what_needs_all_classes_says_so() -> None:
    for name in (
        "roc_auc",
        "pr_auc",
        "matthews_corrcoef",
        "quadratic_weighted_kappa",
        "kl_divergence",
        "probabilistic_f1",
    ):
        with pytest.raises(UserError, match=r"'label' has 5000 classes, and the best 50 .* choose accuracy"):
            find_metric(name).check_heads([HEAD])
    for name in ("accuracy", "f1_macro", "log_loss", "map_at_5"):
        find_metric(name).check_heads([HEAD])


def test_predictions_of_other_classes_are_refused() -> None:
    truth, predictions, _ = tables(11)
    other = Head("label", "multiclass", tuple(f"c{number}" for number in range(CLASSES)))
    with pytest.raises(UserError, match=r"the predictions name 'k.*', no class of 'label'; predict again"):
        find_metric("map_at_5").function(
            truth.replace({"label": dict(zip(HEAD.classes, other.classes, strict=True))}), predictions, [other]
        )


def test_the_most_frequent_classes_are_the_constant() -> None:
    rows = pd.DataFrame({"id": IDS, "label": np.array(HEAD.classes, object)[numbers_of()]})
    found = task_of(HEAD).predictions.constant(rows, ["x", "y"])
    counts = rows["label"].value_counts()
    assert counts[found["label:class_1"]].tolist() == [counts.max()] * 2
    assert found["label:probability_1"].tolist() == pytest.approx([counts.max() / ROWS] * 2)


def test_memory_stays_small() -> None:
    """Two models are averaged, scored and handed in within less than one table of all classes."""
    rows, task = 600, task_of(HEAD)
    ids = [f"r{row:04d}" for row in range(rows)]
    truth = pd.DataFrame({"label": np.array(HEAD.classes, object)[numbers_of(rows)]}, index=ids)
    outputs = [{HEAD.output_key: torch.from_numpy(logits_of(seed, rows))} for seed in (0, 1)]
    found = [task.predictions.decode(ids, each) for each in outputs]
    tracemalloc.start()
    try:
        predictions = task.predictions.average(found)
        assert all(np.isfinite(score(name, truth, predictions)) for name in ("f1_macro", "log_loss", "map_at_5"))
        sample = pd.DataFrame({"id": ids, "label": "k1"})
        assert len(submission_table(sample, predictions, [HEAD], find_metric("map_at_5"), "id")) == rows
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows * CLASSES * 8, "in float64"
