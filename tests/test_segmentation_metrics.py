"""Every metric of masks against scikit-learn, a slow loop after the competition's text, or a case worked by hand."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score, fbeta_score, jaccard_score

from projects import ROOT

from segmentation_tables import Planes, blob, tables  # isort: skip

from pipeline.competition import Head, Metric
from pipeline.heads.mask_decoding import decoded
from pipeline.metrics import masks as scoring
from pipeline.metrics.masks import NAMES, find_metric, per_class
from toolkit.errors import UserError

MASK = Head("mask", "mask", ("a", "b"))
ONE = Head("mask", "mask", ("ship",))
MULTI = Head("mask", "multiclass_mask", ("a", "b", "c"))
SHAPES = [(16, 20), (24, 9), (16, 20), (30, 30), (12, 12), (16, 20), (8, 8), (21, 21)]
Tables = tuple[pd.DataFrame, pd.DataFrame]


def overlapping(seed: int, ignored: float = 0.05) -> Tables:
    """Images of several sizes whose planes are full, empty or in between, with some pixels ignored."""
    generator = np.random.default_rng(seed)
    truths, maps = [], []
    for shape in SHAPES:
        shares = generator.choice([0, 0, 0.1, 0.4, 1], 4)
        planes = np.stack([blob(generator, shape, share) for share in shares])
        truth = planes[:2].astype(np.uint8)
        said = planes[:2] ^ (generator.random(truth.shape) < 0.2) if generator.random() < 0.6 else planes[2:]
        truth[generator.random(truth.shape) < ignored] = 255
        truths.append(truth)
        maps.append(np.where(said, 200, 50).astype(np.uint8))
    return tables(MASK, truths, maps)


def exclusive(seed: int) -> Tables:
    """Every pixel is background or one of three classes, or ignored."""
    generator = np.random.default_rng(seed)
    truths, maps = [], []
    for shape in SHAPES:
        label = generator.integers(0, 4, shape)
        said = np.where(generator.random(shape) < 0.5, label, generator.integers(0, 4, shape))
        truth = (label == np.arange(1, 4)[:, None, None]).astype(np.uint8)
        truth[:, generator.random(shape) < 0.1] = 255
        truths.append(truth)
        maps.append(np.where(said == np.arange(1, 4)[:, None, None], 200, 10).astype(np.uint8))
    return tables(MULTI, truths, maps)


CASES = [(MASK, overlapping(seed)) for seed in range(4)] + [(MULTI, exclusive(seed)) for seed in range(2)]


def score(name: str, head: Head, both: Tables, **params: float) -> float:
    return find_metric(name, **params).function(*both, [head])


def flat(head: Head, both: Tables) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Per image and class the known pixels of truth and prediction."""
    truth, predictions = both
    pairs = zip(truth[head.name], decoded(predictions, head), strict=True)
    return [
        [(plane[plane != 255], mask[plane != 255]) for plane, mask in zip(true.read(), masks, strict=True)]
        for true, masks in pairs
    ]


def whole(head: Head, both: Tables) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per class the known pixels of all images."""
    by_class = zip(*flat(head, both), strict=True)
    return [(np.concatenate([t for t, _ in each]), np.concatenate([p for _, p in each])) for each in by_class]


@pytest.mark.parametrize(("head", "both"), CASES)
def test_pixel_scores_agree_with_scikit_learn(head: Head, both: Tables) -> None:
    single = [pair for pairs in flat(head, both) for pair in pairs]
    present = [pair for pair in single if pair[0].any()]
    pooled = whole(head, both)

    def mean(function: object, pairs: list[tuple[np.ndarray, np.ndarray]], **more: float) -> float:
        return float(np.mean([function(*pair, zero_division=1, **more) for pair in pairs]))  # type: ignore[operator]

    assert score("dice", head, both) == pytest.approx(mean(f1_score, single), abs=1e-12)
    assert score("iou", head, both) == pytest.approx(mean(jaccard_score, single), abs=1e-12)
    assert score("dice_present", head, both) == pytest.approx(mean(f1_score, present), abs=1e-12)
    assert score("dice_global", head, both) == pytest.approx(mean(f1_score, pooled), abs=1e-12)
    assert score("iou_global", head, both) == pytest.approx(mean(jaccard_score, pooled), abs=1e-12)
    assert score("fbeta_pixels", head, both) == pytest.approx(mean(f1_score, pooled), abs=1e-12)
    for beta in (0.5, 2.0):
        expected = mean(fbeta_score, pooled, beta=beta)
        assert score("fbeta_pixels", head, both, beta=beta) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("head", "both"), CASES)
def test_pixel_accuracy_agrees_with_scikit_learn(head: Head, both: Tables) -> None:
    if head.kind == "mask":
        true, said = (np.concatenate([pair[side] for pair in whole(head, both)]) for side in (0, 1))
    else:
        by_class = whole(head, both)  # one label per pixel: all planes ignore the same pixels
        true, said = (sum((number + 1) * pair[side] for number, pair in enumerate(by_class)) for side in (0, 1))
    assert score("pixel_accuracy", head, both) == pytest.approx(accuracy_score(true, said), abs=1e-12)


@pytest.mark.parametrize(("head", "both"), CASES)
def test_map_iou_follows_the_text_of_tgs(head: Head, both: Tables) -> None:
    values = []
    for true, said in (pair for pairs in flat(head, both) for pair in pairs):
        if not true.any() or not said.any():
            values.append(float(true.any() == said.any()))
            continue
        iou = jaccard_score(true, said)
        values.append(np.mean([iou > threshold / 100 for threshold in range(50, 100, 5)]))
    assert score("map_iou", head, both) == pytest.approx(np.mean(values), abs=1e-12)


def airbus(true: list[np.ndarray], said: list[np.ndarray]) -> float:
    """F2 of one image after https://www.kaggle.com/c/airbus-ship-detection/overview/evaluation, pair by pair."""
    if not true or not said:
        return float(not true and not said)
    values = []
    for threshold in range(50, 100, 5):
        hit_true, hit_said = set(), set()
        for one, mine in enumerate(true):
            for other, yours in enumerate(said):
                if (mine & yours).sum() / (mine | yours).sum() > threshold / 100:
                    hit_true.add(one)
                    hit_said.add(other)
        tp, fn, fp = len(hit_true), len(true) - len(hit_true), len(said) - len(hit_said)
        values.append(5 * tp / (5 * tp + 4 * fn + fp))
    return float(np.mean(values))


def test_f2_of_objects_follows_the_text_of_airbus() -> None:
    generator = np.random.default_rng(7)
    truths, maps = [], []
    for share in (0, 0, 0.05, 0.1, 0.1, 0.2, 0.3, 0.3):
        mask = blob(generator, (48, 48), share)
        said = mask if generator.random() < 0.3 else np.roll(mask, 1, axis=generator.integers(2))
        if share == 0 and len(truths):
            said = blob(generator, (48, 48), 0.1)
        truths.append(mask[None].astype(np.uint8))
        maps.append(said[None] * np.uint8(255))
    both = tables(ONE, truths, maps)
    expected = []
    for true, masks in zip(both[0]["mask"], decoded(both[1], ONE), strict=True):
        labels, count = ndimage.label(masks[0], np.ones((3, 3)))
        expected.append(airbus(list(true.instances(0)), [labels == label for label in range(1, count + 1)]))
    assert len(set(expected)) > 4
    assert score("f2_objects", ONE, both) == pytest.approx(np.mean(expected), abs=1e-12)


def test_touching_ships_are_two_where_the_truth_says_so() -> None:
    left, right = np.zeros((2, 10, 20), bool)
    left[:, :10], right[:, 10:] = True, True
    whole = (left | right)[None].astype(np.uint8)
    truth, predictions = tables(ONE, [whole], [whole * np.uint8(255)])
    truth["mask"] = [Planes(whole, ((left, right),))]
    assert score("f2_objects", ONE, (truth, predictions)) == 0  # one object of twice the size: IoU 0.5 is not more


@pytest.mark.parametrize("name", NAMES)
def test_empty_full_and_ignored(name: str) -> None:
    empty, full, ignored = (np.full((1, 8, 8), value, np.uint8) for value in (0, 1, 255))
    nothing, everything = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)

    def of(truths: list[np.ndarray], maps: list[np.ndarray]) -> float:
        return score(name, ONE, tables(ONE, truths, maps))

    assert of([full], [everything]) == 1
    assert of([full], [nothing]) == 0
    assert of([full, ignored], [everything, everything]) == 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert math.isnan(of([ignored], [everything]))
        assert math.isnan(of([], []))
        assert (of([empty], [nothing]) == 1) == (name != "dice_present")
    assert {each.category for each in told} == {UndefinedMetricWarning}
    assert len(told) == (3 if name == "dice_present" else 2)
    if name != "dice_present":
        assert of([empty], [everything]) == 0


def test_scores_of_each_class_have_the_mean_of_the_metric() -> None:
    both = overlapping(3, ignored=0)
    table = per_class(*both, MASK)
    assert list(table.index) == ["a", "b"]
    for name in ("dice", "iou", "dice_global", "iou_global"):
        assert table[name].mean() == pytest.approx(score(name, MASK, both))
    assert table["images"].tolist() == [sum(true.read()[number].any() for true in both[0]["mask"]) for number in (0, 1)]
    assert table["decided"].tolist() == [sum(m[number].any() for m in decoded(both[1], MASK)) for number in (0, 1)]


def test_one_pass_serves_every_metric_and_thresholds_make_another(monkeypatch: pytest.MonkeyPatch) -> None:
    both, passes = overlapping(0), []
    original = scoring.decoded
    monkeypatch.setattr(scoring, "decoded", lambda *arguments: passes.append(1) or original(*arguments))
    for name in set(NAMES) - {"f2_objects"}:
        score(name, MASK, both)
    assert len(passes) == 1
    strict = Head("mask", "mask", ("a", "b"), thresholds=(0.9, 0, 0.5) * 2)
    assert score("dice", strict, both) != score("dice", MASK, both)
    assert len(passes) == 2
    other = (both[0].copy(), both[1].copy())
    assert score("dice", MASK, other) == score("dice", MASK, both)
    assert len(passes) == 3


def test_what_cannot_be_scored_is_said() -> None:
    both = overlapping(0)
    with pytest.raises(UserError, match="did you mean 'dice_global'"):
        find_metric("dice_globl")
    with pytest.raises(UserError, match="no parameter 'beta'"):
        find_metric("dice", beta=2)
    with pytest.raises(UserError, match="same order"):
        score("dice", MASK, (both[0][::-1], both[1]))
    with pytest.raises(UserError, match="no column 'mask'"):
        score("dice", MASK, (both[0].rename(columns={"mask": "other"}), both[1]))
    with pytest.raises(UserError, match="no head"):
        find_metric("dice").check_heads([Head("x", "number")])
    shifted = (both[0].iloc[[0, 1]].set_index(both[0].index[:2]), both[1].iloc[[1, 0]].set_index(both[1].index[:2]))
    with pytest.raises(UserError, match="0000: the truth is 16 x 20 pixels, the prediction 24 x 9"):
        score("dice", MASK, shifted)


def test_the_commented_example_of_an_own_metric_works() -> None:
    """Right in the first and in the last of three images: the second has a class too many."""
    text = (ROOT / "variants/segmentation/competition/metric.py").read_text()
    start = text.index("# def classes_right")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text[start:].splitlines())
    known = {"pd": pd, "np": np, "Sequence": Sequence, "Head": Head, "Metric": Metric, "decoded": decoded}
    namespace: dict[str, object] = known
    exec(f"{text[:start]}\n{example}", namespace)
    own: Metric = namespace["metrics"](None)[0]  # type: ignore[operator]
    there, nothing = np.ones((1, 6, 7), np.uint8), np.zeros((1, 6, 7), np.uint8)
    truths = [np.concatenate(each) for each in ((there, nothing), (nothing, there), (nothing, nothing))]
    maps = [200 * truths[0], 200 * np.ones_like(truths[1]), 200 * truths[2]]
    assert own.function(*tables(MASK, truths, maps), [MASK]) == pytest.approx(2 / 3)
