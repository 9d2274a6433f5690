"""Suspected label errors, against planted ones."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.competition import Head
from pipeline.competition import Head as HeadOfRender
from pipeline.heads.class_probabilities import doubted_classes
from pipeline.heads.label_probabilities import LabelProbabilities
from pipeline.inference.label_errors import write_suspects
from pipeline.tasks.segmentation.label_errors import label_errors
from projects import Renders, source
from segmentation_tables import blob, tables
from toolkit.audit.label_errors import LIMIT, modified_z_scores

ROWS, FLIPS = 1300, 20


def noisy(
    generator: np.random.Generator, flips: int = FLIPS, rows: int = ROWS, classes: int = 10, sharp: float = 4
) -> tuple[np.ndarray, ...]:
    """Given classes of which some are flipped, and probabilities of a model that, of ten, is right in about 93 %."""
    true = generator.integers(0, classes, rows)
    logits = generator.normal(0, 1.2, (rows, classes))
    logits[np.arange(rows), true] += sharp
    given, flipped = true.copy(), generator.choice(rows, flips, replace=False)
    given[flipped] = (given[flipped] + generator.integers(1, classes, flips)) % classes
    shares = np.exp(logits)
    return flipped, given, shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("classes", "sharp"), [(10, 4.0), (2, 3.5), (500, 7.5)])
def test_flipped_classes_are_the_first_suspects(classes: int, sharp: float) -> None:
    for seed in range(5):
        flipped, given, probabilities = noisy(np.random.default_rng(seed), classes=classes, sharp=sharp)
        found, suggested, scores = doubted_classes(given, probabilities)
        assert len(set(found[:40]) & set(flipped)) >= 17, seed
        assert (np.diff(scores) <= 0).all() and (scores > 0).all()
        assert (suggested != given[found]).all()
        other = probabilities.copy()
        other[np.arange(ROWS), given] = -1
        assert (suggested == other[found].argmax(axis=1)).all()


def test_classes_are_never_too_few() -> None:
    one = np.array([0, 0, 0])
    found, suggested, _ = doubted_classes(one, np.array([[0.9, 0.1, 0], [0.2, 0.1, 0.7], [0.5, 0.5, 0]]))
    assert found.tolist() == [1] and suggested.tolist() == [2], "a class that no row is labelled with, but others train"
    assert len(doubted_classes(one, np.ones((3, 1)))[0]) == 0, "one class"
    assert len(doubted_classes(one + 1, np.array([[0.1, 0.9]] * 3))[0]) == 0, "only one of the classes is there"
    assert [len(part) for part in doubted_classes(one[:0], np.empty((0, 4)))] == [0, 0, 0]


def test_probabilities_need_not_sum_to_one() -> None:
    given = np.array([0, 1, 2, 0])
    probabilities = np.array([[30.0, 1, 2], [9, 1, 0], [0, 0, 0], [-0.1, 0.2, 0.3]])
    found, suggested, scores = doubted_classes(given, probabilities)
    assert found.tolist() == [3, 1] and suggested.tolist() == [2, 0], "nothing is known of the third"
    np.testing.assert_allclose(scores, [1, 0.9])


def test_a_failed_prediction_is_no_suspect(tmp_path: Path) -> None:
    """The row is left out, and the others are looked at as ever."""
    asked: list[str] = []

    def found(truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        asked.extend(predictions.index)
        assert truth.index.equals(predictions.index)
        return pd.DataFrame(columns=["id", "head", "given", "suggested", "score", "probability"])

    ids = pd.Index(["a", "b", "c"], name="id")
    truth = pd.DataFrame({"label": ["0", "1", "0"]}, index=ids)
    predictions = pd.DataFrame({"label:0": [0.2, np.nan, 1.0], "label:1": [0.8, 0.1, 0.0]}, index=ids)
    run = SimpleNamespace(folder=tmp_path, task=SimpleNamespace(figures=SimpleNamespace(label_errors=found)))
    rows = pd.DataFrame({"id": ids, "fold": 0})
    assert write_suspects(run, rows, truth, predictions, tmp_path) == "suspected label errors: none"
    assert asked == ["a", "c"] and (tmp_path / "suspects.csv").read_text().startswith("id,head,given,")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["a", "b"], "the worst first: a, b; 2 of 3 rows"),
        (["b", "a", "b", "b"], "the worst first: b, a; 4 labels in 2 of 3 rows"),
    ],
)
def test_rows_are_counted_as_rows_and_labels_as_labels(tmp_path: Path, found: list[str], said: str) -> None:
    from matplotlib.figure import Figure

    ids = pd.Index(["a", "b", "c"], name="id")
    table = pd.DataFrame({"id": found, "head": "labels", "given": "x", "suggested": "y", "score": 1.0})
    table["probability"] = 0.9
    figures = SimpleNamespace(
        label_errors=lambda truth, predictions: table.copy(), label_errors_figure=lambda *arguments: Figure()
    )
    task = SimpleNamespace(figures=figures, dataset=lambda *arguments: None)
    run = SimpleNamespace(folder=tmp_path, task=task, experiment=None, names=None)
    truth, rows = pd.DataFrame({"labels": 0}, index=ids), pd.DataFrame({"id": ids, "fold": 0})
    assert write_suspects(run, rows, truth, truth, tmp_path) == f"suspected label errors, {said}"
    assert len(pd.read_csv(tmp_path / "suspects.csv")) == len(found)


def test_labels_that_were_forgotten_or_invented(renders: Renders) -> None:
    """One label in twenty, some of them forgotten: a model that learnt from the rest seldom says more than one half."""
    counts = np.zeros(5)
    for seed in range(5):
        generator = np.random.default_rng(seed)
        true = generator.random((ROWS, 2)) < [0.06, 0.5]
        seen = generator.normal(0, 1, true.shape) + 4 * true
        odds = np.log(np.array([0.03, 0.5]) / [0.97, 0.5])
        probabilities = 1 / (1 + np.exp(-(4 * seen - 8 + odds)))
        given = true.copy()
        planted = {(row, 0) for row in generator.choice(np.flatnonzero(true[:, 0]), 15, replace=False)}
        planted |= {(row, 1) for row in generator.choice(ROWS, 5, replace=False)}
        for row, label in planted:
            given[row, label] = not given[row, label]
        head = HeadOfRender("labels", "multilabel", ("rare", "usual"))
        columns, index = ["labels:rare", "labels:usual"], pd.RangeIndex(ROWS)
        truth = pd.DataFrame(given.astype(float), index=index, columns=columns)
        found = LabelProbabilities(head).label_errors(truth, pd.DataFrame(probabilities, index=index, columns=columns))
        assert found["score"].is_monotonic_decreasing and (found["score"] > 0).all()
        is_rare = found["given"].str.contains("rare")
        places = zip(found.index, is_rare, strict=True)
        counts[seed] = sum((row, int(not rare)) in planted for row, rare in itertools.islice(places, 40))
        for row, given_word, suggested in zip(found.index, found["given"], found["suggested"], strict=True):
            label = int("usual" in given_word)
            held = given[row, label]
            assert given_word.startswith("not ") != held and suggested.startswith("not ") == held
    assert counts.min() >= 15
    seldom = pd.DataFrame({"labels:rare": np.r_[[0.3] * 6, [0.02] * 50], "labels:usual": 0.5})
    labels = pd.DataFrame({"labels:rare": np.r_[[1.0] * 5, [0.0] * 51], "labels:usual": np.arange(56) % 2.0})
    found = LabelProbabilities(head).label_errors(labels, seldom)
    assert found.index.tolist() == [5] and found["suggested"].tolist() == ["rare"], "less probable than not"
    none = pd.DataFrame(np.ones((3, 2)), columns=columns)
    assert LabelProbabilities(head).label_errors(none, none).empty, "a label that every row has"
    assert LabelProbabilities(head).label_errors(none[:0], none[:0]).empty


@pytest.mark.slow
def test_looking_for_suspects_says_nothing_and_starts_no_process() -> None:
    """And what is only needed for it is imported when it is asked for."""
    program = """if True:
        import multiprocessing, os, sys
        multiprocessing.Process.start = multiprocessing.Pool = os.fork = None
        import numpy as np
        from pipeline.heads.kinds.multiclass import Multiclass
        from pipeline.heads.class_probabilities import doubted_classes
        assert "cleanlab" not in sys.modules
        assert len(doubted_classes(np.array([0, 1]), np.array([[0.1, 0.9], [0.2, 0.8]]))[0]) == 1
        assert "cleanlab" in sys.modules
    """
    environment = {"PYTHONPATH": str(source()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_outliers_are_told_in_standard_deviations() -> None:
    values = np.random.default_rng(0).normal(3, 1, 500)
    values[[7, 400]] = 30, -20
    scores = modified_z_scores(values)
    assert np.argsort(-np.abs(scores))[:2].tolist() == [7, 400] and (np.abs(scores) > LIMIT).sum() < 6
    assert scores[7] == pytest.approx(27, rel=0.15) and scores[400] == pytest.approx(-23, rel=0.15)
    assert not modified_z_scores(np.ones(5)).any() and len(modified_z_scores(np.empty(0))) == 0
    mostly = np.zeros(100)
    mostly[3] = 1
    assert np.flatnonzero(modified_z_scores(mostly) > LIMIT).tolist() == [3], "where more than half are equal"


def masks(generator: np.random.Generator, count: int, kind: str) -> list[np.ndarray]:
    """Planes of two classes, uint8 (2, 48, 48); every fifth image is empty."""
    found = []
    for number in range(count):
        shares = generator.uniform(0.02, 0.15, 2) * (number % 5 > 0)
        planes = np.stack([blob(generator, (48, 48), share) for share in shares])
        if kind == "multiclass_mask":
            planes[1] &= ~planes[0]
        found.append(planes.astype(np.uint8))
    return found


def looked_at(generator: np.random.Generator, truth: np.ndarray, skill: float) -> np.ndarray:
    """What a model says of true planes: smooth, and the weaker, the noisier and the less sure; uint8."""
    found = []
    for plane in truth:
        seen = cv2.GaussianBlur(plane.astype(np.float32), (5, 5), 1.2)
        noise = cv2.GaussianBlur(generator.normal(0, 1, plane.shape).astype(np.float32), (11, 11), 2.5)
        logits = skill * (seen - 0.5) * 8 + noise / noise.std() - (1 - skill) * 2
        found.append(np.round(255 / (1 + np.exp(-logits))))
    return np.stack(found).astype(np.uint8)


@pytest.mark.parametrize("kind", ["mask", "multiclass_mask"])
@pytest.mark.parametrize("skill", [0.4, 0.6, 1.5])  # a Dice of about 0.5, 0.7 and 0.9
def test_wrong_masks_are_the_first_suspects(kind: str, skill: float) -> None:
    for seed in range(2):
        generator = np.random.default_rng(seed)
        true = masks(generator, 200, kind)
        maps = [looked_at(generator, planes, skill) for planes in true]
        given = [planes.copy() for planes in true]
        full = generator.choice([number for number in range(200) if number % 5], 9, replace=False)
        swapped, emptied, donors = full[:4], full[4:7], generator.choice(np.arange(1, 200, 5), 7, replace=False)
        invented = generator.choice(np.arange(0, 200, 5), 3, replace=False)
        for number, other in zip([*swapped, *invented], donors, strict=True):
            given[number] = true[other]
        for number in emptied:
            given[number] = np.zeros_like(true[number])
        planted = {f"{number:04d}" for number in [*swapped, *emptied, *invented]}
        head = Head("mask", kind, ("cell", "wall"))
        found = label_errors(*tables(head, given, maps), head)
        assert len(planted & set(found["id"][:20])) >= 8, f"{seed}: {len(found)}"
        assert len(found) <= 40, "a minority, however weak the model is"
        assert found["score"].is_monotonic_decreasing
        for row in found[found["id"].isin([f"{number:04d}" for number in emptied])].itertuples():
            assert row.given == "nothing" and "%" in row.suggested and row.probability > 0.3


def test_masks_of_which_most_are_right() -> None:
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[0, :10] = 1
    sure = np.where(truth == 1, 250, 5).astype(np.uint8)
    maps = [sure, 255 - sure, np.full_like(sure, 128), np.full_like(sure, 3), *[sure] * 20]
    head = Head("mask", "mask", ("cell",))
    given, predictions = tables(head, [truth] * len(maps), maps)
    found = label_errors(given, predictions, head)
    assert found["id"].tolist() == ["0001", "0003"], "right, and unsure, are not suspicious"
    assert found["given"].tolist() == ["cell 50%"] * 2 and found["suggested"].tolist() == ["cell 50%", "nothing"]
    np.testing.assert_allclose(found["probability"], [250 / 255, 252 / 255], atol=0.005)
    ignored = truth.copy()
    ignored[0] = 255
    assert label_errors(*tables(head, [ignored, *[truth] * 23], [maps[1], *[sure] * 23]), head).empty, "what is ignored"
    assert label_errors(given, predictions.drop(columns="mask_cell"), head).empty, "nothing is kept"
    assert label_errors(given[:0], predictions[:0], head).empty
    given.loc["0001", "mask"] = np.nan
    assert label_errors(given, predictions, head)["id"].tolist() == ["0003"], "an image without a truth"
