"""Thresholds: tuned where that helps, on other folds than the one that is scored."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from projects import Renders, imported
from test_multilabel import ANSWERS, LABELS, make_head, make_task


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[Path]:
    with imported(renders.shared(ANSWERS)):
        yield renders.folder


def tables(power: float, rows: int = 600, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth, and probabilities that are calibrated when `power` is 1 and too low when it is larger."""
    generator = np.random.default_rng(seed)
    chance = generator.beta(0.4, 0.6, (rows, len(LABELS)))
    columns = [f"labels:{name}" for name in LABELS]
    truth = pd.DataFrame((generator.random(chance.shape) < chance).astype(int), columns=columns)
    return truth, pd.DataFrame(chance**power, columns=columns)


def find(name: str) -> Any:
    from pipeline.tasks.image_level.metrics import find_metric

    return find_metric(name)


def tune(truth: pd.DataFrame, predictions: pd.DataFrame, name: Any = "f1_macro") -> Any:
    from pipeline.competition import metric_values
    from pipeline.inference.thresholds import tune

    task, metrics = make_task(), [find(name) if isinstance(name, str) else name]
    folds = pd.Series(np.arange(len(truth)) % 5, index=truth.index).astype(str)
    usual = {
        fold: metric_values(metrics, truth[folds == fold], predictions[folds == fold], task.heads)
        for fold in sorted(set(folds))
    }
    return tune(task, metrics, truth, predictions, folds, usual)


def test_the_ascent_finds_what_an_exhaustive_search_finds() -> None:
    from pipeline.tasks.image_level.thresholds import coordinate_ascent

    truth, predictions = (table.to_numpy() for table in tables(power=3, rows=200))
    grid = np.linspace(0.02, 0.9, 12)

    def score(thresholds: tuple[float, ...]) -> float:
        return float(f1_score(truth, predictions >= np.array(thresholds), average="macro", zero_division=0))

    best = max(score(each) for each in itertools.product(grid, repeat=3))
    found = coordinate_ascent(score, (0.5,) * 3, [grid] * 3)
    assert score(found) == pytest.approx(best) and best > score((0.5,) * 3) + 0.05


def test_of_equal_thresholds_the_middle_one_is_taken_and_nan_is_never_best() -> None:
    from pipeline.tasks.image_level.thresholds import coordinate_ascent

    plateau = coordinate_ascent(lambda at: float(0.2 <= at[0] <= 0.6), (0.9,), [np.linspace(0, 1, 11)])
    assert plateau == (pytest.approx(0.4),)
    assert coordinate_ascent(lambda at: float("nan") if at[0] != 0.5 else 0.1, (0.5,), [np.linspace(0, 1, 9)]) == (0.5,)


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_samples"])
def test_probabilities_that_are_too_low_are_decided_lower(name: str) -> None:
    truth, predictions = tables(power=3)
    tuned = tune(truth, predictions, name)
    assert tuned.helps and tuned.gain > 0.03
    [head] = tuned.task.heads
    assert max(head.thresholds) < 0.4
    usual, better = (find(name).function(truth, predictions, [given]) for given in (make_head(), head))
    assert better > usual + 0.03
    # What the metric says of a head with thresholds is what scikit-learn says of those decisions.
    said = predictions.to_numpy() >= np.array(head.thresholds)
    if name == "f1_macro":
        assert better == pytest.approx(f1_score(truth, said, average="macro"))


def test_the_score_of_a_fold_knows_nothing_of_its_truth() -> None:
    """Another truth in a fold changes its score, but not the thresholds that it is scored with."""
    truth, predictions = tables(power=3)
    first = np.arange(len(truth)) % 5 == 0
    others = make_task().tuner(truth, predictions, find("f1_macro"))(~first)
    tuned = tune(truth, predictions)
    expected = find("f1_macro").function(truth[first], predictions[first], others.heads)
    assert tuned.folds["0"]["f1_macro"] == expected
    changed = truth.mask(pd.Series(first, index=truth.index), 1 - truth)
    assert tune(changed, predictions).folds["0"]["f1_macro"] != expected
    assert make_task().tuner(changed, predictions, find("f1_macro"))(~first).heads == others.heads


def test_noise_is_not_taken_for_a_gain() -> None:
    """Calibrated probabilities have their best accuracy at one half; tuning only follows the noise."""
    from pipeline.competition import Metric

    def right(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Any) -> float:
        from pipeline.tasks.image_level.kinds.multilabel.decisions import decided

        return float((decided(predictions.to_numpy(), heads[0]) == truth.to_numpy()).mean())

    metric = Metric("right", right)
    gains = [tune(*tables(power=1, rows=300, seed=seed), metric) for seed in range(12)]
    assert sum(tuned.helps for tuned in gains) <= 3 and np.mean([tuned.gain for tuned in gains]) < 0.005


def test_what_needs_no_decision_is_not_tuned() -> None:
    truth, predictions = tables(power=3)
    assert tune(truth, predictions, "roc_auc") is None


def test_thresholds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from pipeline.errors import UserError

    task = make_task()
    for wrong in ({"labels": [0.5]}, {"other": [0.5, 0.5, 0.5]}):
        with pytest.raises(UserError, match="thresholds for the head"):
            task.with_thresholds(wrong)
    [head] = task.with_thresholds({"labels": [0.1, 0.2, 0.3]}).heads
    assert head == replace(make_head(), thresholds=(0.1, 0.2, 0.3))
