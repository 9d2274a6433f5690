"""Thresholds: tuned where that helps, on other folds than the one that is scored."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from pipeline.competition import Metric, metric_values
from pipeline.heads.label_probabilities import decided
from pipeline.heads.thresholds import coordinate_ascent, quick_ascent, values_to_try
from pipeline.inference.thresholds import tune
from pipeline.metrics.image_level import find_metric
from pipeline.tasks import with_thresholds
from pipeline.training.validation import Monitor, Validation
from test_multilabel import HEAD, LABELS, make_task
from toolkit.errors import UserError


def tables(power: float, rows: int = 600, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth, and probabilities that are calibrated when `power` is 1 and too low when it is larger."""
    generator = np.random.default_rng(seed)
    chance = generator.beta(0.4, 0.6, (rows, len(LABELS)))
    columns = [f"labels:{name}" for name in LABELS]
    truth = pd.DataFrame((generator.random(chance.shape) < chance).astype(int), columns=columns)
    return truth, pd.DataFrame(chance**power, columns=columns)


def tuned_by(truth: pd.DataFrame, predictions: pd.DataFrame, name: str | Metric = "f1_macro") -> Any:
    task, metrics = make_task(), [find_metric(name) if isinstance(name, str) else name]
    folds = pd.Series(np.arange(len(truth)) % 5, index=truth.index).astype(str)
    usual = {
        fold: metric_values(metrics, truth[folds == fold], predictions[folds == fold], task.heads)
        for fold in sorted(set(folds))
    }
    return tune(task, metrics, truth, predictions, folds, usual)


def test_the_ascent_finds_what_an_exhaustive_search_finds() -> None:
    truth, predictions = (table.to_numpy() for table in tables(power=3, rows=200))
    grid = np.linspace(0.02, 0.9, 12)

    def score(thresholds: tuple[float, ...]) -> float:
        return float(f1_score(truth, predictions >= np.array(thresholds), average="macro", zero_division=0))

    best = max(score(each) for each in itertools.product(grid, repeat=3))
    found = coordinate_ascent(score, (0.5,) * 3, [grid] * 3)
    assert score(found) == pytest.approx(best) and best > score((0.5,) * 3) + 0.05


def test_of_equal_thresholds_the_middle_one_is_taken_and_nan_is_never_best() -> None:
    plateau = coordinate_ascent(lambda at: float(0.2 <= at[0] <= 0.6), (0.9,), [np.linspace(0, 1, 11)])
    assert plateau == (pytest.approx(0.4),)
    assert coordinate_ascent(lambda at: float("nan") if at[0] != 0.5 else 0.1, (0.5,), [np.linspace(0, 1, 9)]) == (0.5,)


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_samples"])
def test_probabilities_that_are_too_low_are_decided_lower(name: str) -> None:
    truth, predictions = tables(power=3)
    tuned = tuned_by(truth, predictions, name)
    assert tuned.helps and tuned.gain > 0.03
    [head] = tuned.heads
    assert max(head.thresholds) < 0.4
    usual, better = (find_metric(name).function(truth, predictions, [given]) for given in (HEAD, head))
    assert better > usual + 0.03
    # What the metric says of a head with thresholds is what scikit-learn says of those decisions.
    said = predictions.to_numpy() >= np.array(head.thresholds)
    if name == "f1_macro":
        assert better == pytest.approx(f1_score(truth, said, average="macro"))


def test_the_score_of_a_fold_knows_nothing_of_its_truth() -> None:
    """Another truth in a fold changes its score, but not the thresholds that it is scored with."""
    truth, predictions = tables(power=3)
    first = np.arange(len(truth)) % 5 == 0
    others = make_task().predictions.tuner(truth, predictions, find_metric("f1_macro"))(~first)
    tuned = tuned_by(truth, predictions)
    expected = find_metric("f1_macro").function(truth[first], predictions[first], others)
    assert tuned.folds["0"]["f1_macro"] == expected
    changed = truth.mask(pd.Series(first, index=truth.index), 1 - truth)
    assert tuned_by(changed, predictions).folds["0"]["f1_macro"] != expected
    assert make_task().predictions.tuner(changed, predictions, find_metric("f1_macro"))(~first) == others


def test_noise_is_not_taken_for_a_gain() -> None:
    """Calibrated probabilities have their best accuracy at one half; tuning only follows the noise."""

    def right(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Any) -> float:
        return float((decided(predictions.to_numpy(), heads[0]) == truth.to_numpy()).mean())

    metric = Metric("right", right)
    gains = [tuned_by(*tables(power=1, rows=300, seed=seed), metric) for seed in range(12)]
    assert sum(tuned.helps for tuned in gains) <= 3 and np.mean([tuned.gain for tuned in gains]) < 0.005


def best_f1(truth: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of one label at the best of all thresholds."""
    said = predictions >= np.unique(predictions)[:, None]
    return float((2 * (said & truth).sum(axis=1) / (said.sum(axis=1) + truth.sum())).max())


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro"])
def test_the_best_epoch_is_that_of_tuned_decisions(name: str) -> None:
    """No label ever reaches one half, so all epochs score 0 there; the third one ranks best."""
    generator, task, metrics = np.random.default_rng(0), make_task(), [find_metric(name), find_metric("roc_auc")]
    columns = [f"labels:{label}" for label in LABELS]
    ids = [f"r{row}" for row in range(400)]
    held = generator.random((400, len(LABELS))) < [0.02, 0.05, 0.1]
    rows = pd.DataFrame({"id": ids, "labels": [" ".join(np.array(LABELS)[row]) for row in held]})
    expected, watched, monitor = [], [], Monitor(metrics, "metric")
    for epoch, signal in enumerate([0.0, 1.0, 4.0, 2.0]):
        noise = generator.normal(0, 1, held.shape) + signal * held
        said = pd.DataFrame(0.45 / (1 + np.exp(2 - noise)), index=pd.Index(ids, name="id"), columns=columns)
        assert find_metric(name).function(task.predictions.truth(rows), said, task.heads) == 0
        seen = Validation(task, metrics, rows, lambda batch, outputs, said=said: said, lambda rows, found: found)
        seen.among = False
        loss = torch.tensor(1.0 - epoch)  # says another epoch
        seen.add({"input_id": ids}, {"loss": loss, "losses": {}, "outputs": {}})  # type: ignore[typeddict-item]
        watched.append(seen.result(epoch))
        if name == "f1_macro":
            each = [best_f1(held[:, place], said.to_numpy()[:, place]) for place in range(len(LABELS))]
            expected.append(float(np.mean(each)))
            assert watched[-1].metrics[name] == pytest.approx(expected[-1], abs=0.06)
            assert watched[-1].metrics[name] <= expected[-1] + 1e-9
        assert watched[-1].metrics["roc_auc"] == find_metric("roc_auc").function(
            task.predictions.truth(rows), said, task.heads
        )
    best = watched[0]
    for result in watched[1:]:
        best = result if monitor.is_better(result, best) else best
    assert best.epoch == 2 and best.metrics[name] > 0.5


@pytest.mark.parametrize("labels", [1, 3, 200])
def test_a_quick_ascent_calls_the_metric_a_few_times_only(labels: int) -> None:
    calls = []

    def score(at: tuple[float, ...]) -> float:
        calls.append(at)
        return -sum((value - 0.3) ** 2 for value in at)

    tried = values_to_try(np.linspace(0.01, 0.9, 500))
    for most in (20, 400):
        calls.clear()
        found = quick_ascent(score, (0.5,) * labels, [tried] * labels, most)
        assert len(calls) <= most + 2 and len(found) == labels
        assert max(abs(value - 0.3) for value in found) < (0.2 if most == 20 and labels == 3 else 0.05)


def test_what_needs_no_decision_is_not_tuned() -> None:
    truth, predictions = tables(power=3)
    assert tuned_by(truth, predictions, "roc_auc") is None


def test_thresholds_that_do_not_fit_are_refused() -> None:
    task = make_task()
    for wrong in ({"labels": [0.5]}, {"other": [0.5, 0.5, 0.5]}):
        with pytest.raises(UserError, match="thresholds for the head"):
            with_thresholds(task, wrong)
    [head] = with_thresholds(task, {"labels": [0.1, 0.2, 0.3]}).heads
    assert head == replace(HEAD, thresholds=(0.1, 0.2, 0.3))
