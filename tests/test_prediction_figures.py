"""The pictures of predictions show scikit-learn's numbers, whatever classes there are."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from sklearn.metrics import classification_report as report

from pipeline.competition import Head
from pipeline.heads.base import kind_of
from projects import Renders
from toolkit.plots.figures import pixels
from toolkit.plots.numbers import by_truth_figure, errors_by_truth, scatter_figure

pytestmark = pytest.mark.filterwarnings("error")  # a warning of matplotlib's would reach a user's terminal
BY_TRUTH = {"a/x": scatter_figure, "b/x": by_truth_figure}
PARTS = {"confusion_matrix", "calibration", "curves", "probabilities", "classes"}
LONG = tuple(f"_{number}_costs ${number} or $x^ and_more_{'very ' * 12}long {number}" for number in range(6))


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[None]:
    yield


def multiclass(truth: np.ndarray, given: np.ndarray, names: tuple[str, ...], **more: Any) -> dict[str, Figure]:
    """The figures of class numbers (N,) and probabilities, by the first part of their name."""
    columns = kind_of(Head("a", "multiclass", names, **more)).columns
    texts = np.array(names, dtype=object)[truth]
    return drawn(columns.figures(pd.DataFrame({"a": texts}), pd.DataFrame(given, columns=columns.names)))


def multilabel(truth: np.ndarray, given: np.ndarray, names: tuple[str, ...], **more: Any) -> dict[str, Figure]:
    columns = kind_of(Head("a", "multilabel", names, **more)).columns
    return drawn(columns.figures(*(pd.DataFrame(table, columns=columns.names) for table in (truth, given))))


def drawn(drawings: dict[str, Callable[[], Figure]]) -> dict[str, Figure]:
    assert len(drawings) <= 6
    figures = {name: draw() for name, draw in drawings.items()}
    assert all(pixels(figure).std() > 5 for figure in figures.values())
    return {name.split("/")[0]: figure for name, figure in figures.items()}


def sample(classes: int, rows: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers and probabilities that often agree with them."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + 2 * np.eye(classes)[truth]
    return truth, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def names_of(classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(classes))


def legend(figure: Figure) -> dict[str, tuple[float, float]]:
    """ROC AUC and PR AUC by name."""
    lines = [text.get_text().split(maxsplit=2) for text in figure.legends[0].get_texts()]
    return {name: (float(roc), float(pr)) for roc, pr, name in lines}


def cells(figure: Figure) -> pd.DataFrame:
    """The table in the picture, as text."""
    [axes] = figure.axes
    columns = [label.get_text() for label in axes.get_xticklabels()]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    texts = np.array([text.get_text() for text in axes.texts], dtype=object)
    return pd.DataFrame(texts.reshape(len(rows), len(columns)), rows, columns)


def points(line: Any) -> np.ndarray:
    return np.column_stack([line.get_xdata(), line.get_ydata()])


def areas(held: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    return float(roc_auc_score(held, given)), float(average_precision_score(held, given))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_curves_and_areas_are_scikit_learns(classes: int) -> None:
    truth, given = sample(classes)
    names = names_of(classes)
    figures = multiclass(truth, given, names)
    assert set(figures) == PARTS
    shown = [1] if classes == 2 else range(classes)
    expected = {names[place]: areas(truth == place, given[:, place]) for place in shown}
    told = legend(figures["curves"])
    if classes > 2:
        assert told.pop(f"mean of {classes} classes") == pytest.approx(
            np.mean(list(expected.values()), axis=0), abs=6e-4
        )
    worst = sorted(expected, key=lambda name: expected[name][0])
    assert list(told) == (worst[:5] if classes == 10 else list(expected))
    assert all(pair == pytest.approx(expected[name], abs=6e-4) for name, pair in told.items())
    place = names.index(worst[0])
    false_positives, true_positives, _ = roc_curve(truth == place, given[:, place])
    precision, recall, _ = precision_recall_curve(truth == place, given[:, place], drop_intermediate=True)
    for axes, curve in zip(
        figures["curves"].axes, [(false_positives, true_positives), (recall, precision)], strict=True
    ):
        lines = [points(line) for line in axes.get_lines()]
        assert any(line.shape == (len(curve[0]), 2) and np.allclose(line, np.column_stack(curve)) for line in lines)


def test_the_mean_curves_enclose_the_mean_areas() -> None:
    truth, given = sample(4)
    figure = multiclass(truth, given, names_of(4))["curves"]
    expected = np.mean([areas(truth == place, given[:, place]) for place in range(4)], axis=0)
    for axes, area in zip(figure.axes, expected, strict=True):
        mean = max(axes.get_lines(), key=lambda line: line.get_linewidth())
        assert np.trapezoid(mean.get_ydata(), mean.get_xdata()) == pytest.approx(area, abs=0.01)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_the_table_is_scikit_learns_worst_first(kind: str) -> None:
    truth, given = sample(5)
    if kind == "multiclass":
        held, said = np.eye(5, dtype=int)[truth], np.eye(5, dtype=int)[given.argmax(axis=1)]
        table = cells(multiclass(truth, given, names_of(5))["classes"])
    else:
        held, said = (np.random.default_rng(1).random((600, 5)) < given) * 1, (given >= 0.3) * 1
        table = cells(multilabel(held.astype(float), given, names_of(5), thresholds=(0.3,) * 5)["classes"])
    expected = report(held, said, target_names=names_of(5), output_dict=True, zero_division=0)
    scores = [expected[name]["f1-score"] for name in table.index]
    assert scores == sorted(scores) and len(scores) == 5
    for place, name in enumerate(names_of(5)):
        row, right = table.loc[name], expected[name]
        assert [float(row[column]) for column in ("precision", "recall", "F1", "rows")] == pytest.approx(
            [right[column] for column in ("precision", "recall", "f1-score", "support")], abs=6e-4
        )
        pair = areas(held[:, place], given[:, place])
        assert (float(row["ROC AUC"]), float(row["PR AUC"])) == pytest.approx(pair, abs=6e-4)
        assert float(row["ECE"]) == pytest.approx(ece(held[:, place], given[:, place]), abs=6e-4)


def ece(held: np.ndarray, given: np.ndarray) -> float:
    """Expected calibration error of ten bins, one after the other."""
    error, edges = 0.0, np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        inside = (given > low) & (given <= high) | (low == 0) & (given == 0)
        if inside.any():
            error += inside.mean() * abs(held[inside].mean() - given[inside].mean())
    return float(error)


def test_calibration() -> None:
    truth, given = sample(3)
    sure, right = given.max(axis=1), given.argmax(axis=1) == truth
    figure = multiclass(truth, given, names_of(3))["calibration"]
    assert f"{ece(right, sure):.4f}, 600 prob" in figure.get_suptitle()
    upper, lower = figure.axes
    curve = points(upper.get_lines()[1])
    last = sure > 0.9
    assert curve[-1] == pytest.approx([sure[last].mean(), right[last].mean()])
    assert sum(lower.patches[0].get_data().values) == 600
    texts = [text.get_text() for text in upper.get_legend().get_texts()]
    assert texts == [f"said on average {sure.mean():.3f}", f"so on average {right.mean():.3f}"]


def test_a_class_without_rows_is_told_and_never_a_half() -> None:
    truth, given = sample(4)
    truth[truth == 2] = 3
    figures = multiclass(truth, given, names_of(4))
    assert "no positives: class 2" in figures["curves"].get_suptitle()
    assert "class 2" not in legend(figures["curves"]) and "mean of 3 classes" in legend(figures["curves"])
    row = cells(figures["classes"]).loc["class 2"]
    assert row[["rows", "recall", "ROC AUC", "PR AUC"]].tolist() == ["0", "-", "-", "-"]
    assert cells(figures["classes"]).index[-1] == "class 2"
    assert figures["probabilities"].axes[2].get_title("right") == "no positives"


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_single_class(kind: str) -> None:
    if kind == "multiclass":
        figures = multiclass(np.zeros(20, int), np.ones((20, 1), np.float32), ("only",))
    else:
        figures = multilabel(np.ones((20, 1)), np.full((20, 1), 0.7), ("only",))
    assert "no negatives: only" in figures["curves"].get_suptitle()
    assert cells(figures["classes"]).loc["only", ["F1", "ROC AUC"]].tolist() == ["1.000", "-"]


def test_five_hundred_classes() -> None:
    truth, given = sample(500, 500)
    figures = multiclass(truth, given, names_of(500))
    assert len(legend(figures["curves"])) == 6 and "the 5 with the smallest" in figures["curves"].get_suptitle()
    assert "12 of 500" in figures["probabilities"].get_suptitle()
    assert "40 of 500" in figures["classes"].get_suptitle() and len(cells(figures["classes"])) == 40
    held = np.random.default_rng(0).random((500, 50)) < 0.05
    figures = multilabel(held.astype(float), given[:, :50], names_of(50))
    assert "40 of 50 labels" in figures["labels"].axes[0].get_title("left")


def test_long_names_with_signs_of_mathematics() -> None:
    truth, given = sample(6)
    figures = multiclass(truth, given, LONG) | multilabel(np.eye(6)[truth], given, LONG)
    assert len(legend(figures["curves"])) == 7
    assert len({text.get_text() for text in figures["labels"].axes[0].get_yticklabels()}) == 6
    truth, given = sample(2)
    two = multiclass(truth, given, LONG[:2])
    assert all(not axes.xaxis.label.get_parse_math() for axes in two["calibration"].axes[1:])
    for figure in [*figures.values(), *two.values()]:
        box, inside = figure.get_tightbbox(), figure.bbox_inches
        assert box.x0 > inside.x0 - 0.05 and box.x1 < inside.x1 + 0.05, "a label is cut off"


def test_thresholds_are_marked() -> None:
    truth, given = sample(2)
    [axes] = multiclass(truth, given, ("no", "yes"), thresholds=(0.3,))["probabilities"].axes
    current, best = (line.get_xdata()[0] for line in axes.get_lines())
    assert current == 0.3
    tried = np.unique(given[:, 1])
    f1 = [2 * (truth * (given[:, 1] >= limit)).sum() / (truth.sum() + (given[:, 1] >= limit).sum()) for limit in tried]
    assert best == pytest.approx(tried[int(np.argmax(f1))])
    found, both = (axes.patches[number].get_data().values.sum() for number in (0, 1))
    assert found == pytest.approx((given[truth == 1, 1] >= 0.3).mean())
    assert both == pytest.approx(1), "all of its rows are found or missed"


def test_gaps_and_predictions_that_failed_are_left_out() -> None:
    _, given = sample(3)
    held = (np.random.default_rng(0).random((600, 3)) < given).astype(float)
    held[:100, 0], given[100:130, 1] = np.nan, np.nan
    figures = multilabel(held, given, names_of(3))
    table, told = cells(figures["classes"]), legend(figures["curves"])
    for place, rows in enumerate([slice(100, 600), np.r_[0:100, 130:600], slice(None)]):
        pair = areas(held[rows, place], given[rows, place])
        assert told[f"class {place}"] == pytest.approx(pair, abs=6e-4)
        assert float(table.loc[f"class {place}", "rows"]) == held[rows, place].sum()
    assert "1,670 prob" in figures["calibration"].get_suptitle()
    truth, given = sample(3)
    given[:50] = np.nan
    assert "550 prob" in multiclass(truth, given, names_of(3))["calibration"].get_suptitle()


def test_labels_that_are_missed_for_others() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], dtype=float)
    given = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=float)
    left, right = multilabel(truth, given, ("a", "b", "c"))["labels"].axes
    pairs = [text.get_text() for text in right.get_yticklabels()]
    assert pairs == ["a missed, b said", "a missed, c said"]
    assert [bar.get_width() for bar in right.patches] == [2, 1]
    rows = [text.get_text() for text in left.get_yticklabels()]
    widths = np.array([bar.get_width() for bar in left.patches]).reshape(3, 3)
    assert {name: widths[:, place].tolist() for place, name in enumerate(rows)} == {
        "a": [1, 2, 0],
        "b": [2, 0, 2],
        "c": [1, 1, 1],
    }


def test_errors_of_numbers_by_truth() -> None:
    truth = np.random.default_rng(0).permutation(np.arange(100.0))
    table = errors_by_truth(truth, truth * 0.5)
    assert table["rows"].tolist() == [10] * 10 and table["first"].tolist() == list(range(0, 100, 10))
    assert table["mean"].tolist() == pytest.approx([-0.5 * (10 * part + 4.5) for part in range(10)])
    assert (table["absolute"] == -table["mean"]).all()
    gaps = np.where(truth == 3, np.nan, truth)
    figures = drawn({name: partial(draw, gaps, truth * 0.5, "$x_") for name, draw in BY_TRUTH.items()})
    kept = truth[truth != 3]
    r2 = 1 - ((0.5 * kept) ** 2).sum() / ((kept - kept.mean()) ** 2).sum()
    assert f"99 rows, root mean squared error {0.5 * np.sqrt((kept**2).mean()):.4g}" in figures["a"].get_suptitle()
    assert f"R² {r2:.3f}" in figures["a"].get_suptitle()
    np.testing.assert_allclose(figures["b"].axes[0].collections[0].get_offsets()[:, 1], -0.5 * gaps[~np.isnan(gaps)])


@pytest.mark.parametrize("truth", [[], [np.nan], [3.0], [2.0, 2.0, 2.0]])
def test_numbers_of_which_there_are_few(truth: list[float]) -> None:
    values = np.array(truth, dtype=float)
    drawn({name: partial(draw, values, values + 1, "ink") for name, draw in BY_TRUTH.items()})


def test_the_nearest_right_and_wrong_neighbours() -> None:
    head = Head("who", "embedding", ("a", "b", "c"), unknown="new")
    labels = np.array([["a", "b", "c"], ["b", "a", "c"], ["c", "", ""], ["a", "b", "c"]], dtype=object)
    scores = np.array([[0.9, 0.4, 0.1], [0.8, 0.7, 0.1], [0.6, -1, -1], [0.5, 0.4, 0.3]])
    truth = pd.DataFrame({"who": ["a", "a", "a", "new"]})
    columns = kind_of(head).columns
    predictions = pd.DataFrame(columns.table(np.hstack([labels, scores.astype(object)])))
    figures = drawn(columns.figures(truth, predictions))
    left, right = figures["neighbours"].axes
    assert [text.get_text() for text in figures["neighbours"].legends[0].get_texts()] == [
        "its own label (2)",
        "the nearest wrong one (3)",
    ]
    middles = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in right.patches if bar.get_height()]
    assert sorted(place for place, _ in middles) == pytest.approx([-0.1, 0.5], abs=0.03)
    assert "1 rows do not list it" in right.get_title("left") and left.get_title("left") == "cosine"
