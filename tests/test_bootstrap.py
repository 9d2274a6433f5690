"""What a score is worth, against planted truth: intervals, differences, and the optimism of thresholds."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline import report
from pipeline.competition import Metric, metric_values
from pipeline.inference import bootstrap
from pipeline.inference.bootstrap import FEWEST, INSIDE, Interval, groups_of, resampled, score_of
from pipeline.inference.thresholds import tune
from pipeline.metrics.image_level import find_metric
from pipeline.metrics.masks import find_metric as find_mask_metric
from pipeline.project import Project
from segmentation_tables import tables as mask_tables
from test_multilabel import HEAD, make_task
from test_thresholds import tables
from toolkit.errors import UserError

FEWEST_COVERED = 43  # of 50 that are covered with 95 %: fewer come about once in 500 times


def auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Mann and Whitney's."""
    ranks, count = stats.rankdata(scores), positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (~positive).sum()))


def test_the_interval_covers_the_hidden_score_as_often_as_it_says() -> None:
    """50 holdouts of 300 rows: AUC of scores whose true AUC is known."""
    generator, hidden = np.random.default_rng(0), float(stats.norm.cdf(1 / math.sqrt(2)))
    intervals, scores = [], []
    for _ in range(50):
        positive = generator.random(300) < 0.3
        said = generator.normal(positive.astype(float), 1)
        drawn = resampled(lambda rows, y=positive, p=said: [auc(y[rows], p[rows])], np.arange(300), most=300)
        intervals.append(Interval.of(drawn[:, 0], np.arange(300)))
        scores.append(auc(positive, said))
    covered = sum(interval.low <= hidden <= interval.high for interval in intervals if interval is not None)
    assert covered >= FEWEST_COVERED
    width = np.mean([interval.high - interval.low for interval in intervals if interval is not None])
    assert width == pytest.approx(2 * stats.norm.ppf((1 + INSIDE) / 2) * np.std(scores), rel=0.3), "and is no wider"


def test_rows_of_a_group_are_drawn_together() -> None:
    """30 groups of 20 rows, in each all are right or half of them: one by one they look more certain than they are."""
    generator, covered = np.random.default_rng(0), {"group": 0, "row": 0}
    groups = np.repeat(np.arange(30), 20)
    for _ in range(50):
        hits = (np.repeat(generator.random(30) < 0.5, 20) | (generator.random(600) < 0.5)).astype(float)
        for what, drawn_by in (("group", generator.permutation(30)[groups]), ("row", np.arange(600))):
            drawn = resampled(lambda rows, hits=hits: [hits[rows].mean()], drawn_by, most=300)[:, 0]
            interval = Interval.of(drawn, drawn_by)
            assert interval is not None and interval.units == {"group": "30 groups", "row": "600 rows"}[what]
            covered[what] += interval.low <= 0.75 <= interval.high
    assert covered["group"] >= FEWEST_COVERED > 30 > covered["row"]


def test_a_resample_holds_whole_groups_as_often_as_they_are_drawn() -> None:
    groups, seen = np.array([2, 0, 1, 2, 0, 2]), []
    resampled(lambda rows: seen.append(rows) or [0.0], groups, most=200)
    times = np.array([np.bincount(rows, minlength=6) for rows in seen])
    for number in range(3):
        members = times[:, groups == number]
        assert (members == members[:, :1]).all()
    each = np.stack([times[:, list(groups).index(number)] for number in range(3)], axis=1)
    assert (each.sum(axis=1) == 3).all() and each.mean() == pytest.approx(1) and (each == 0).any()
    rows = pd.DataFrame({"id": list("abcd"), "group": ["x", None, "x", None]})
    assert list(groups_of(rows, pd.Index(list("dcba")))) == [0, 1, 2, 1], "a row without a group stands for itself"


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).gamma(2, 1, 200)
    drawn = resampled(lambda rows: [values[rows].mean(), np.median(values[rows])], np.arange(200), most=4000)
    for number, statistic in enumerate((np.mean, np.median)):
        expected = stats.bootstrap((values,), statistic, method="percentile", n_resamples=4000, rng=0)
        found = Interval.of(drawn[:, number], np.arange(200))
        assert found is not None
        bounds = expected.confidence_interval
        assert [found.low, found.high] == pytest.approx(
            [bounds.low, bounds.high], abs=0.1 * expected.standard_error * 2
        )


def test_resamples_with_one_class_only_are_left_out_and_too_few_say_nothing() -> None:
    ids = pd.Index([f"r{row}" for row in range(40)], name="id")
    columns = [f"labels:{name}" for name in HEAD.classes]
    said = pd.DataFrame(np.random.default_rng(0).random((40, 3)), index=ids, columns=columns)
    truth = pd.DataFrame(0, index=ids, columns=columns)
    truth.iloc[:2] = 1
    by_auc = find_metric("roc_auc")
    drawn = resampled(lambda rows: [score_of(by_auc, truth, said, [HEAD], rows)], np.arange(40), most=100)
    assert FEWEST < len(drawn) < 95 and np.isfinite(drawn).all(), "each draws neither of the two in one of seven"
    strict = Metric("strict", lambda *tables: [][0])  # raises
    assert (
        Interval.of(
            resampled(lambda rows: [score_of(strict, truth, said, [HEAD], rows)], np.arange(40)).T[0], np.arange(40)
        )
        is None
    )
    late = resampled(lambda rows: [1.0], np.arange(40), seconds=-1)
    assert len(late) == 1 and Interval.of(late[:, 0], np.arange(40)) is None
    slow = resampled(lambda rows: time.sleep(0.02) or [1.0], np.arange(40), seconds=0.5)
    assert len(slow) <= 3, "a score that takes too long for an interval is not waited for"


def test_masks_are_counted_once_for_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.competition import Head

    generator, head = np.random.default_rng(0), Head("mask", "mask", ("a", "b"))
    truths = [generator.integers(0, 2, (2, 8, 8), dtype=np.uint8) for _ in range(6)]
    maps = [generator.integers(0, 256, (2, 8, 8), dtype=np.uint8) for _ in range(6)]
    truth, said = mask_tables(head, truths, maps)
    rows, read = np.array([4, 4, 0, 2, 5, 5]), []
    original = type(truth["mask"].iloc[0]).read
    monkeypatch.setattr(type(truth["mask"].iloc[0]), "read", lambda self, *a: read.append(1) or original(self, *a))
    for name in ("dice", "iou_global", "f2_objects"):
        metric = find_mask_metric(name)
        drawn = mask_tables(head, [truths[row] for row in rows], [maps[row] for row in rows])
        expected = metric.function(*drawn, [head])
        read.clear()
        for _ in range(3):
            assert score_of(metric, truth, said, [head], rows) == pytest.approx(expected)
        assert len(read) == (0 if name == "iou_global" else 6), "the pixels that dice has counted"


def f1(truth: pd.DataFrame, said: pd.DataFrame, heads: Any) -> float:
    """F1 of all labels together, fast."""
    true, hit = truth.to_numpy() == 1, said.to_numpy() >= np.array(heads[0].thresholds or (0.5, 0.5, 0.5))
    return float(2 * (true & hit).sum() / (true.sum() + hit.sum()))


def test_the_optimism_of_thresholds_is_what_a_fresh_holdout_loses() -> None:
    """120 rows tune three thresholds, 20,000 fresh ones say what these are worth; ten times."""
    task, metric = make_task(), Metric("f1", f1)
    fresh, printed, lost = tables(power=2, rows=20_000, seed=99), [], []
    for seed in range(10):
        truth, said = tables(power=2, rows=120, seed=seed)
        folds = pd.Series(np.arange(120) % 5, index=truth.index).astype(str)
        each = {fold: (truth[folds == fold], said[folds == fold]) for fold in sorted(set(folds))}
        usual = {fold: metric_values([metric], *rows, task.heads) for fold, rows in each.items()}
        tuned = tune(task, [metric], truth, said, folds, usual)
        assert tuned is not None
        printed.append(tuned.optimism)
        lost.append(np.mean([f1(*rows, tuned.heads) for rows in each.values()]) - f1(*fresh, tuned.heads))
    spread = np.std(np.subtract(printed, lost), ddof=1)
    assert abs(np.mean(printed) - np.mean(lost)) < 2 * spread / math.sqrt(10)
    assert np.mean(printed) > 0.005 and np.mean(lost) > 0


@pytest.mark.parametrize("greater", [True, False])
def test_two_experiments_are_compared_on_the_rows_both_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], greater: bool
) -> None:
    """Errors of two models on rows of other folds, in another order; by hand, on the rows both have."""
    generator, sign = np.random.default_rng(0), 1 if greater else -1
    metric = Metric("m", lambda truth, said, heads: float(sign * -np.abs(truth["y"] - said["y"]).mean()), greater)
    rows = pd.DataFrame({"id": [f"r{row}" for row in range(300)]})
    truth = pd.DataFrame({"y": np.zeros(300)}, index=pd.Index(rows["id"]))
    first = truth + generator.normal(0, 1, (300, 1))
    second = (truth * 0 + first["y"].to_numpy()[:, None] * 0.97).iloc[::-1][:200]  # each row a little better
    third = first.copy()
    found = {"a": first[:250], "b": second, "c": third, "d": first[:250].set_axis([f"x{n}" for n in range(250)])}
    monkeypatch.setattr(
        report,
        "_held_out",
        lambda _, run: (metric, (), rows, truth[: 250 if run.name == "a" else 300], found[run.name]),
    )
    report.print_differences(Project.at(Path()), [Path("a"), Path("b"), Path("c")])
    said = capsys.readouterr().out
    assert "differences from a (m)" in said
    line = next(line for line in said.splitlines() if line.startswith("│ b"))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    before, now = first["y"].iloc[100:250].abs().mean(), 0.97 * first["y"].iloc[100:250].abs().mean()
    assert cells[1] == "150" and [float(cell) for cell in cells[2:5]] == pytest.approx(
        [sign * -before, sign * -now, before - now], abs=1e-4
    )
    assert float(cells[5]) > 0 and "b is better than a in 100% of 500 resamples of 150 rows\n" in said
    assert "c is better than a in 0% of 500 resamples of 250 rows, and equal in 100%" in said
    with pytest.raises(UserError, match="'d' has no row in common with 'a'"):
        report.print_differences(Project.at(Path()), [Path("a"), Path("d")])
    monkeypatch.setattr(bootstrap, "FEWEST", 501)
    with pytest.raises(UserError, match="takes too long"):
        report.print_differences(Project.at(Path()), [Path("a"), Path("b")])
