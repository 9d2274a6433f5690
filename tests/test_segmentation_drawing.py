"""The pictures of masks show what the numbers say, for any number of classes and any size."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from segmentation_tables import blob, tables  # isort: skip

from pipeline.competition import Head
from pipeline.heads.mask_decoding import decoded
from pipeline.metrics.masks import per_class
from pipeline.tasks.segmentation.figures import figures, probability_counts, worst_and_best
from toolkit.plots.masks import (
    IGNORED_COLOR,
    MISSED,
    RIGHT,
    WRONG,
    class_colors,
    overlay,
    sample_figure,
    shrunk,
)

pytestmark = pytest.mark.filterwarnings("error")  # a warning of matplotlib's would reach a user's terminal
LONG = ("_a very long name of a class that starts hidden and costs $5 or $6", "b" * 80)


def saved(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def case(classes: Sequence[str], images: int = 6, empty: bool = False) -> tuple[Head, pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(len(classes))
    truths, maps = [], []
    for _ in range(images):
        shape = tuple(generator.integers(20, 40, 2).tolist())
        planes = np.stack([blob(generator, shape, 0 if empty else generator.choice([0, 0.1, 0.3])) for _ in classes])
        noise = generator.integers(0, 100, planes.shape)
        truths.append(planes.astype(np.uint8))
        maps.append((noise + 150 * planes).astype(np.uint8))
    head = Head("mask", "mask", tuple(classes))
    return head, *tables(head, truths, maps)


@pytest.mark.parametrize("kind", ["one", "two", "many", "empty"])
def test_every_figure_is_drawn(kind: str) -> None:
    sizes = {"one": 1, "many": 32}
    names = [f"class {number}" for number in range(sizes[kind])] if kind in sizes else list(LONG)
    head, truth, predictions = case(names, empty=kind == "empty")
    drawn = figures(truth, predictions, head)
    assert set(drawn) == {"mask_iou", "mask_size", "mask_classes", "mask_probabilities"}
    for draw in drawn.values():
        figure = draw()
        assert len(saved(figure)) > 5000
        assert max(figure.get_size_inches()) < 20
    masks = list(decoded(predictions, head))
    truths = [each.read() for each in truth["mask"]]
    images = [np.full((*planes.shape[1:], 3), 90, np.uint8) for planes in truths]
    figure = sample_figure(
        images, list(truth.index), truths, masks, [255 * each.astype(np.uint8) for each in masks], names
    )
    assert len(saved(figure)) > 5000
    if kind == "empty":
        assert [text.get_text() for text in figure.legends[0].texts][3:] == []


def test_without_rows_there_is_nothing_to_draw() -> None:
    head, truth, predictions = case(["a"])
    assert figures(truth[:0], predictions[:0], head) == {}
    assert saved(sample_figure([], [], [], [], []))


def test_the_overlay_has_its_colours_where_they_belong() -> None:
    truth = np.zeros((2, 6, 6), np.uint8)
    masks = np.zeros((2, 6, 6), bool)
    truth[0, 0, :2], masks[0, 0, 1:3] = 1, True  # missed, right, wrong
    truth[1, 2, 2], masks[0, 2, 2] = 1, True  # another class: missed before wrong
    truth[:, 4], masks[0, 4] = 255, True
    drawn = overlay(np.zeros((6, 6, 3), np.uint8), truth, masks)
    for place, color in (((0, 0), MISSED), ((0, 1), RIGHT), ((0, 2), WRONG), ((2, 2), MISSED)):
        assert drawn[place] == pytest.approx(0.75 * np.array(to_rgb(color)), abs=1e-5)
    assert drawn[4] == pytest.approx(np.tile(to_rgb(IGNORED_COLOR), (6, 1)), abs=1e-5)
    assert not drawn[5].any()


def test_classes_are_told_apart_from_each_other_and_from_the_overlay() -> None:
    for count in (1, 2, 8, 30):
        colors = class_colors(count)
        assert len(set(colors)) == count
    fixed = [np.array(to_rgb(color)) for color in (RIGHT, MISSED, WRONG)]
    assert min(np.abs(color - other).max() for color in class_colors(8) for other in fixed) > 0.2


def test_small_things_of_huge_images_stay_visible_and_images_are_asked_for_one_by_one() -> None:
    plane = np.zeros((1, 3001, 2000), bool)
    plane[0, 2999, 1999] = True
    small = shrunk(plane, 300)
    assert max(small.shape) <= 300 and small.sum() == 1 and small[0, -1, -1]
    assert shrunk(plane[:, :300, :300], 300).shape == (1, 300, 300)

    asked = []

    class Lazy(list[int]):
        def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
            asked.append(number)
            return np.zeros((3001, 2000, 1), np.uint8)

    ids = [f"{number}" for number in range(9)]
    planes = [plane] * 9
    truths, maps = [plane.view(np.uint8)] * 9, [np.zeros((1, 30, 20), np.uint8)] * 9
    figure = sample_figure(Lazy(), ids, truths, planes, maps, most=2)
    assert asked == [0, 1]
    assert max(image.get_array().shape[0] for axes in figure.axes for image in axes.images) <= 320


@pytest.mark.parametrize(("rows", "scale"), [((3, 4, 5), "linear"), ((1, 40, 100), "log")])
def test_sizes_are_plain_numbers_on_a_scale_that_spans_them(rows: tuple[int, ...], scale: str) -> None:
    head = Head("mask", "mask", ("a",))
    truths = [(np.arange(100) < count).repeat(10).reshape(1, 100, 10).astype(np.uint8) for count in rows]
    figure = figures(*tables(head, truths, [truth * 255 for truth in truths]), head)["mask_size"]()
    saved(figure)
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels and all(float(label) >= 0 for label in labels)


def test_the_probabilities_are_counted_in_and_outside_of_the_truth() -> None:
    head, truth, predictions = case(["a", "b"])
    found = probability_counts(truth, predictions, head)
    planes = [each.read() for each in truth["mask"]]
    for number in (0, 1):
        for side in (0, 1):
            assert found[number, side].sum() == sum((each[number] == side).sum() for each in planes)
    assert found[:, 0, 100:].sum() == 0 and found[:, 1, :150].sum() == 0


def test_the_worst_images_come_first_and_then_the_best() -> None:
    truth = np.zeros((1, 10, 10), np.uint8)
    truth[0, :5] = 1
    maps = [np.zeros((1, 10, 10), np.uint8) for _ in range(5)]
    for number, rows in enumerate((3, 0, 5, 4)):
        maps[number][0, :rows] = 255
    head = Head("mask", "mask", ("a",))
    both = tables(head, [truth] * 4 + [truth * 0], maps)
    assert worst_and_best(*both, head, 3) == [1, 0, 2]
    assert worst_and_best(*both, head, 9)[-1] == 4
    assert per_class(*both, head).loc["a", "images"] == 4
