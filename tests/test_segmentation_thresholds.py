"""Tuned decisions: what is planted is found, and the counts of a candidate are those of a decision with it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segmentation_tables import blob, tables  # isort: skip

from pipeline.competition import Competition, Head, Metric
from pipeline.metrics.masks import find_metric
from pipeline.tasks.segmentation import thresholds as module
from pipeline.tasks.segmentation.task import SegmentationTask
from pipeline.tasks.segmentation.thresholds import Tuning
from pipeline.training.validation import quickly_tuned

ONE = Head("mask", "mask", ("a",))
TWO = Head("mask", "mask", ("a", "b"))
MULTI = Head("mask", "multiclass_mask", ("a", "b"))
DICE = find_metric("dice")
Tables = tuple[pd.DataFrame, pd.DataFrame]


def tuned(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, metric: Metric) -> tuple[float, ...]:
    return Tuning(truth, predictions, head, metric).best(np.ones(len(truth), bool))


def planted(images: int = 24, cut: int = 128, specks: int = 0, lying: bool = False, classes: int = 1) -> Tables:
    """Half of the images are empty. Probabilities are right above `cut`; there may be specks of 3 x 3 pixels, and
    empty images with a blob that only the presence gives away."""
    generator = np.random.default_rng(0)
    truths, maps = [], []
    for number in range(images):
        shares = [0.15 * (number % 2)] * classes
        planes = np.stack([blob(generator, (64, 64), share) for share in shares])
        said = planes.copy()
        if lying and number % 4 == 0:
            said[0] |= blob(generator, (64, 64), 0.1)
        for row, column in generator.integers(0, 61, (specks, 2)):
            said[:, row : row + 3, column : column + 3] = True
        high, low = (
            generator.integers(cut, min(cut + 60, 256), said.shape),
            generator.integers(cut - 60, cut, said.shape),
        )
        truths.append(planes.astype(np.uint8))
        maps.append(np.where(said, high, low).clip(0, 255).astype(np.uint8))
    presence = np.array([[0.2 if number % 4 == 0 else 0.35 + 0.1 * (number % 2)] * classes for number in range(images)])
    head = Head("mask", "mask", ("a", "b")[:classes])
    return tables(head, truths, maps, presence if lying else None)


def score(both: Tables, head: Head, thresholds: tuple[float, ...], metric: Metric = DICE) -> float:
    return metric.function(*both, [replace(head, thresholds=thresholds)])


def test_a_shifted_threshold_is_found_for_each_class() -> None:
    truths, maps = planted(cut=80), planted(cut=170)
    both = planted(classes=2)
    both[0]["mask"] = truths[0]["mask"].map(lambda true: replace(true, planes=np.repeat(true.planes, 2, axis=0)))
    both[1]["mask_a"], both[1]["mask_b"] = maps[1]["mask_a"], truths[1]["mask_a"]
    first, _, _, second, _, _ = found = tuned(*both, TWO, DICE)
    assert first == pytest.approx(0.65, abs=0.06) and second == pytest.approx(0.3, abs=0.06)
    assert score(both, TWO, found) > score(both, TWO, ()) + 0.1


def test_specks_are_dropped_by_their_area() -> None:
    both = planted(specks=2)
    threshold, area, presence = tuned(*both, ONE, DICE)
    assert threshold == 0.5 and area >= 10 and presence == 0.5
    assert score(both, ONE, (threshold, area, presence)) > score(both, ONE, ()) + 0.3


def test_empty_images_are_known_by_their_presence() -> None:
    both = planted(lying=True)
    found = tuned(*both, ONE, DICE)
    assert 0.2 < found[2] <= 0.4
    usual = score(both, ONE, ())
    assert score(both, ONE, found) == 1 and usual <= 0.5  # the usual presence threshold empties every image


@pytest.mark.parametrize("name", ["dice", "dice_global", "map_iou", "f2_objects", "pixel_accuracy", "iou"])
@pytest.mark.parametrize("head", [TWO, MULTI], ids=lambda head: head.kind)
def test_no_other_candidate_scores_better(name: str, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "THRESHOLDS", (0.2, 0.5, 0.6))
    monkeypatch.setattr(module, "AREA_SHARES", (0.0, 0.03))
    generator = np.random.default_rng(3)
    truths, maps = [], []
    for _ in range(6):
        planes = np.stack([blob(generator, (20, 20), share) for share in (0.3, 0.2)])
        planes[1] &= ~planes[0]
        noise = generator.random(planes.shape) * 0.6 + 0.4 * planes
        noise /= noise.sum(axis=0).clip(1) if head is MULTI else 1
        truths.append(planes.astype(np.uint8))
        maps.append((255 * noise).astype(np.uint8))
    both = tables(head, truths, maps, generator.random((6, 2)))
    metric = find_metric(name)
    reached = score(both, head, found := tuned(*both, head, metric), metric)
    for place, values in ((0, (0.2, 0.5, 0.6)), (1, (0.0, 12.0)), (2, (0.0, 0.2, 0.5, 0.6))):
        for value in values:
            for at in (place, place + 3):
                changed = (*found[:at], value, *found[at + 1 :])
                assert score(both, head, changed, metric) <= reached + 1e-12
    assert reached >= score(both, head, (), metric)


def test_any_subset_of_the_rows_is_tuned_from_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    easy, specks = planted(), planted(specks=2)
    both = (pd.concat([easy[0], specks[0].add_prefix("", axis=0)]), pd.concat([easy[1], specks[1]]))
    ids = [f"{number:04d}" for number in range(len(both[0]))]
    both[0].index, both[1].index = pd.Index(ids, name="id"), pd.Index(ids, name="id")
    tuning = Tuning(*both, ONE, DICE)
    reads: list[int] = []
    monkeypatch.setattr(module, "above", lambda *arguments: reads.append(1))
    first = np.arange(len(ids)) < len(easy[0])
    assert tuning.best(first) == (0.5, 0, 0.5)  # nothing is better than the usual ones
    assert tuning.best(~first)[1] >= 10
    assert tuning.best(np.zeros(len(ids), bool)) == (0.5, 0, 0.5)
    assert not reads


def test_in_every_epoch_thresholds_alone_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reaches one half in these maps, and a model is not to be judged by that."""
    both, task = planted(cut=60), SegmentationTask(Competition(None), [ONE])
    [head] = quickly_tuned(task, DICE, *both)
    assert head.thresholds[0] == pytest.approx(0.3, abs=0.06) and head.thresholds[1:] == (0, 0.5)
    assert score(both, ONE, head.thresholds) > score(both, ONE, ())
    monkeypatch.setattr(module, "QUICK_PIXELS", 64 * 64 * 5)
    assert quickly_tuned(task, DICE, *both)[0].thresholds in ((), (0.5, 0, 0.5)), "too few to go by"
    monkeypatch.setattr(module, "QUICK_PIXELS", 64 * 64 * 12)
    [head] = quickly_tuned(task, DICE, *both)
    assert score(both, ONE, head.thresholds) >= score(both, ONE, ())
    own = Metric("own", DICE.function.__call__)
    assert quickly_tuned(task, own, *both) is task.heads, "it may be slow"


def test_a_metric_of_ones_own_is_tuned_as_well() -> None:
    both, calls = planted(cut=160, specks=2), []

    def own(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        calls.append(len(truth))
        return 1 - DICE.function(truth, predictions, heads)

    found = tuned(*both, ONE, Metric("own", own, greater_is_better=False))
    assert found[0] == pytest.approx(0.65, abs=0.06) and found[1] >= 10
    assert score(both, ONE, found) > score(both, ONE, ()) + 0.5
    assert len(calls) < 20


def test_of_many_images_a_fixed_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IMAGES", 10)
    monkeypatch.setattr(module, "FEWEST_IMAGES", 2)
    both = planted(cut=170)
    tuning = Tuning(*both, ONE, DICE)
    assert len(tuning.sample) == len(set(tuning.sample)) == 10
    assert np.array_equal(tuning.sample, Tuning(*both, ONE, DICE).sample)
    assert tuning.best(np.ones(24, bool))[0] == pytest.approx(0.65, abs=0.06)
    monkeypatch.setattr(module, "MOST_PIXELS", 64 * 64 * 3)
    assert len(Tuning(*both, ONE, DICE).sample) == 3
