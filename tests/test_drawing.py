"""The pictures show what the numbers say."""

import itertools
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from projects import Renders
from toolkit.plots.confusion_matrix import confusion_matrix_figure
from toolkit.plots.curves import learning_curves_figure
from toolkit.plots.figures import pixels
from toolkit.plots.images import image_grid, shortened
from toolkit.plots.samples import sample_figure, worst_and_right

pytestmark = pytest.mark.filterwarnings("error")  # a warning of matplotlib's would reach a user's terminal


@pytest.fixture(scope="module")
def draw(renders: Renders) -> Iterator[SimpleNamespace]:
    """The drawing functions."""
    from toolkit.plots import figures

    yield SimpleNamespace(
        confusion_matrix=confusion_matrix_figure,
        curves=learning_curves_figure,
        fonts=figures,
        grid=image_grid,
        pixels=pixels,
        sample=sample_figure,
        shortened=shortened,
        worst_and_right=worst_and_right,
    )


def labels(classes: int, rows: int = 600, right: float = 0.8) -> tuple[list[str], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(classes)
    names = [f"class {number}" for number in range(classes)]
    true = generator.integers(0, classes, rows)
    said = np.where(generator.random(rows) < right, true, generator.integers(0, classes, rows))
    return names, np.asarray(names, dtype=object)[true], np.asarray(names, dtype=object)[said]


def in_picture(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == np.asarray(color, dtype=np.uint8)).all(axis=2).sum())


def numbers(axes: Any, classes: int) -> np.ndarray:
    """What is written in the cells of a matrix; zeros are not."""
    found = np.zeros((classes, classes), int)
    for text in axes.texts:
        column, row = text.get_position()
        found[row, column] = int(text.get_text())
    return found


@pytest.mark.parametrize("classes", [1, 2, 10, 30])
def test_the_numbers_in_the_matrix_are_the_counts(draw: SimpleNamespace, classes: int) -> None:
    names, truth, predicted = labels(classes)
    figure = draw.confusion_matrix(truth, predicted, names)
    counts, shares, pairs = figure.axes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn finds a single class odd
        expected = confusion_matrix(truth, predicted, labels=names)
    assert (numbers(counts, classes) == expected).all()
    assert np.abs(numbers(shares, classes) - 100 * expected / expected.sum(axis=1, keepdims=True)).max() <= 0.5
    assert [text.get_text() for text in counts.get_yticklabels()] == names
    wrong = expected - np.diag(np.diag(expected))
    bars = [int(bar.get_width()) for bar in pairs.patches]
    assert bars == sorted(wrong[wrong > 0], reverse=True)[:10]
    assert f"{np.trace(expected)} of 600 right" in figure.get_suptitle()
    assert draw.pixels(figure).std() > 5


def test_a_class_without_rows_has_no_percent(draw: SimpleNamespace) -> None:
    figure = draw.confusion_matrix(["a", "a", "b"], ["a", "c", "b"], ["a", "b", "c"])
    assert numbers(figure.axes[1], 3).tolist() == [[50, 0, 50], [0, 100, 0], [0, 0, 0]]
    assert len(figure.axes[1].texts) == 3
    draw.pixels(figure)


def test_a_matrix_without_rows(draw: SimpleNamespace) -> None:
    figure = draw.confusion_matrix([], [], ["a", "b"])
    assert not figure.axes[0].texts
    draw.pixels(figure)


def test_of_many_classes_the_confused_ones_are_shown(draw: SimpleNamespace) -> None:
    names, truth, _ = labels(500, rows=3000)
    predicted = truth.copy()
    predicted[truth == "class 321"] = "class 7"
    figure = draw.confusion_matrix(truth, predicted, names)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(shown) == 100
    assert {"class 7", "class 321"} <= set(shown)
    assert [int(name.removeprefix("class ")) for name in shown] == sorted(int(name[6:]) for name in shown)
    assert "100 of 500 classes" in figure.get_suptitle()
    [pair] = [text.get_text() for text in figure.axes[2].get_yticklabels()]
    assert pair == "class 321 taken for class 7"


def test_the_labels_of_a_hundred_classes_stay_apart(draw: SimpleNamespace) -> None:
    names, truth, predicted = labels(100, rows=3000)
    figure = draw.confusion_matrix(truth, predicted, names)
    draw.pixels(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    assert boxes[0].height > 6


def test_long_names_with_signs_of_mathematics(draw: SimpleNamespace) -> None:
    names = ["costs $5 & up_to $6, or even more than that", r"\frac{a}{"]
    figure = draw.confusion_matrix(names, names[::-1], names)
    draw.pixels(figure)
    first = figure.axes[0].get_yticklabels()[0].get_text()
    assert len(first) == 24
    assert first.startswith("costs $5")
    assert first.endswith("than that")
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    draw.pixels(draw.sample([image, image], names, names, names[::-1], [0.5, 0.5])())


def test_a_sample_shows_the_images_themselves(draw: SimpleNamespace) -> None:
    colors = [(17 * number + 3, 255 - 20 * number, 90) for number in range(6)]
    images = [np.full((32, 48, 3), color, dtype=np.uint8) for color in colors]
    truth, predicted = list("aabbab"), list("abbbbb")
    probabilities = [0.9, 0.6, 0.7, 0.8, 0.95, 0.99]
    figure = draw.sample(images, [f"id{number}" for number in range(6)], truth, predicted, probabilities)()
    [axes] = figure.axes
    titles, ids = ([text.get_text() for text in axes.texts[start::2]] for start in (0, 1))
    assert ids == ["id4", "id1", "id2", "id3", "id0", "id5"]
    assert titles[:3] == ["b (95%)\ntrue: a", "b (60%)\ntrue: a", "b (70%)"]
    for image, number in zip(axes.images, [4, 1, 2, 3, 0, 5], strict=True):
        assert (np.asarray(image.get_array()) == images[number]).all()
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(32 / 48)
    picture = draw.pixels(figure)
    assert min(in_picture(picture, color) for color in colors) > 10_000
    assert "2 of 6 wrong" in figure.get_suptitle()


class Counted(list[np.ndarray]):
    """Images that remember which of them were looked at."""

    def __init__(self, count: int) -> None:
        super().__init__([np.zeros((8, 8, 3), dtype=np.uint8)] * count)
        self.seen: list[Any] = []

    def __getitem__(self, number: Any) -> Any:
        self.seen.append(number)
        return super().__getitem__(number)


def test_of_many_images_only_the_shown_ones_are_read(draw: SimpleNamespace) -> None:
    images = Counted(1000)
    names = [str(number) for number in range(1000)]
    draw.sample(images, names, ["a"] * 1000, ["a"] * 990 + ["b"] * 10, np.linspace(0.5, 0.9, 1000))
    assert images.seen[:8] == list(range(999, 991, -1))
    assert images.seen[8:] == [0, 330, 659, 989]


@pytest.mark.parametrize(("wrong", "right"), [(0, 20), (20, 0), (3, 20), (20, 2), (1, 0), (0, 0)])
def test_a_sample_is_as_full_as_it_can_be(draw: SimpleNamespace, wrong: int, right: int) -> None:
    truth, predicted = ["a"] * (wrong + right), ["b"] * wrong + ["a"] * right
    chosen = draw.worst_and_right(truth, predicted, [0.5] * (wrong + right), 12)
    assert len(set(chosen)) == len(chosen) == min(12, wrong + right)
    assert sum(number < wrong for number in chosen) >= min(wrong, 8)
    assert all(number < wrong for number in chosen[: min(wrong, 8)])


def metrics_frame(epochs: int) -> pd.DataFrame:
    ends = np.arange(1.0, epochs + 1)
    means = pd.DataFrame(
        {"epoch": ends, "train/loss": 2 / ends, "valid/loss": 2.2 / ends, "valid/accuracy": 1 - 0.5 / ends}
    )
    batches = pd.DataFrame({"epoch": np.arange(0, epochs, 0.25), "batch/loss": 2.0})
    batches.loc[0, "batch/loss"] = 1e6
    return pd.concat([batches, means]).sort_values("epoch", kind="stable").reset_index(drop=True)


def test_learning_curves(draw: SimpleNamespace) -> None:
    figure = draw.curves(metrics_frame(10), ["accuracy", "never_logged"], best_epoch=7)
    losses, accuracy = figure.axes
    lines = {line.get_label(): line for line in losses.get_lines()}
    assert list(lines["train"].get_xdata()) == list(range(1, 11))
    assert np.asarray(lines["valid"].get_ydata()) == pytest.approx(2.2 / np.arange(1, 11))
    assert losses.get_ylim()[1] < 100, "one wild batch does not press the curves flat"
    [best] = [line for line in accuracy.get_lines() if str(line.get_label()).startswith("best epoch")]
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (7, pytest.approx(1 - 0.5 / 7))
    assert draw.pixels(figure).std() > 5


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [1.0]])
def test_learning_curves_of_little(draw: SimpleNamespace, values: list[float]) -> None:
    frame = pd.DataFrame({"step": [1], "epoch": [1.0], "batch/loss": values, "train/loss": values})
    assert len(draw.curves(frame, ["accuracy"]).axes) == 1
    draw.pixels(draw.curves(frame, ["accuracy"], 1))
    draw.pixels(draw.curves(pd.DataFrame({"step": []}), ["accuracy"]))


def test_a_figure_is_drawn_once(draw: SimpleNamespace) -> None:
    figure = draw.curves(metrics_frame(2))
    first = draw.pixels(figure)
    canvas = figure.canvas
    canvas.draw = None
    assert (draw.pixels(figure) == first).all()
    assert first.dtype == np.uint8
    assert first.shape[2] == 3


@pytest.fixture
def fonts(draw: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with the fonts that matplotlib brings and no others."""
    from matplotlib import font_manager

    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(draw.fonts, "findSystemFonts", list)
    monkeypatch.setattr(draw.fonts, "FOUND", {})
    return draw.fonts


def test_characters_that_no_font_has_are_escaped_and_told_once(
    fonts: Any, draw: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ticks, titles, legends, ids; tabs as well, which no font has."""
    for names in (["猫 größe", "犬"], ["\N{DOG FACE}", "a\tb"]):
        figure = draw.confusion_matrix([names[0]], [names[1]], names)
        draw.pixels(figure)
        axes = next(one for one in figure.axes if len(one.get_yticklabels()) == 2)
        shown = [label.get_text() for label in axes.get_yticklabels()]
        expected = [name.translate({ord(one): escape for one, escape in ESCAPES.items()}) for name in names]
        assert shown == expected
    grid = draw.grid([np.zeros((8, 8, 3), np.uint8)], ["猫"], ["犬"], ["#000000"], "鳥")
    draw.pixels(grid)
    assert {text.get_text() for text in grid.axes[0].texts} == {"\\u732b", "\\u72ac"}
    assert capsys.readouterr().err.count("note: no installed font has") == 1


ESCAPES = {"猫": "\\u732b", "犬": "\\u72ac", "\N{DOG FACE}": "\\U0001f436", "\t": "\\t"}


def test_another_font_that_has_the_characters_is_taken(
    fonts: Any, draw: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.font_manager import fontManager, get_font

    has = {entry.name: set(get_font(entry.fname).get_charmap()) for entry in fontManager.ttflist}
    character = chr(min(has["STIXGeneral"] - has["DejaVu Sans"] - {32}))
    figure = draw.confusion_matrix(["a"], [character], ["a", character])
    draw.pixels(figure)
    assert fonts.FOUND[character] is not None and "Last Resort" not in fonts.FOUND[character]
    assert character in [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert not capsys.readouterr().err


def test_no_global_state_of_matplotlib(draw: SimpleNamespace) -> None:
    import matplotlib._pylab_helpers as managers

    before = len(managers.Gcf.figs)
    draw.pixels(draw.confusion_matrix(["a"], ["b"], ["a", "b"]))
    assert len(managers.Gcf.figs) == before
