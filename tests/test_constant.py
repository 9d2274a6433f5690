"""What a prediction scores that never looked at an image, against scikit-learn's dummy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from pipeline.competition import Competition, Head, Metric, metric_values
from pipeline.heads.base import kind_of
from pipeline.heads.columns import Column
from pipeline.inference.evaluation import Evaluation, constant_scores, print_scores
from pipeline.inference.thresholds import Tuned, tune
from pipeline.metrics.image_level import find_metric
from pipeline.project import Project
from pipeline.settings import Settings
from pipeline.tasks import Task, task_for
from toolkit.errors import UserError

CLASSES = ("ant", "bee", "cat")
LABEL = Head("label", "multiclass", CLASSES)


def task_of(*heads: Head, metrics: Sequence[str] = ("roc_auc", "accuracy", "log_loss")) -> Task:
    """The task of these heads in a competition with these metrics."""

    def chosen(settings: Settings) -> Sequence[Metric]:
        return [find_metric(name) for name in metrics]

    return task_for(Competition(Settings.model_construct(), parts={"metric:metrics": chosen}), heads)


def rows_in_folds() -> pd.DataFrame:
    """Few ants, and folds that differ in what they hold; rows of another source train in every fold."""
    generator = np.random.default_rng(0)
    fold = np.repeat([0, 1, 2, -1], [50, 70, 90, 40])
    shares = {0: [0.2, 0.5, 0.3], 1: [0.1, 0.3, 0.6], 2: [0.1, 0.6, 0.3], -1: [0.8, 0.1, 0.1]}
    return pd.DataFrame(
        {
            "id": [f"r{row}" for row in range(len(fold))],
            "label": [generator.choice(CLASSES, p=shares[number]) for number in fold],
            "fold": fold,
        }
    )


@pytest.mark.parametrize("folds", [["0", "1", "2"], ["1"]])
def test_a_constant_scores_as_the_dummy_of_each_fold(folds: list[str]) -> None:
    rows = rows_in_folds()
    expected = []
    for number in map(int, folds):
        trains, held_out = rows[rows["fold"] != number], rows[rows["fold"] == number]
        dummy = DummyClassifier(strategy="prior").fit(np.zeros(len(trains)), trains["label"])
        empty = np.zeros(len(held_out))
        said = dummy.predict_proba(empty)
        expected.append(
            {
                "roc_auc": roc_auc_score(held_out["label"], said, multi_class="ovr", labels=CLASSES),
                "accuracy": accuracy_score(held_out["label"], dummy.predict(empty)),
                "log_loss": log_loss(held_out["label"], said, labels=CLASSES),
            }
        )
    found = constant_scores(task_of(LABEL), rows, folds)["constant"]
    assert found == pytest.approx(pd.DataFrame(expected).mean().to_dict(), abs=1e-6)
    assert found["roc_auc"] == 0.5
    assert len({row["accuracy"] for row in expected}) == len(folds), "the folds' constants differ"


def test_soft_targets_count_as_parts_of_rows() -> None:
    rows = rows_in_folds().assign(**{f"label:{name}": np.nan for name in CLASSES})
    task = task_of(LABEL)
    hard = rows["label"].value_counts().reindex(list(CLASSES))
    rows.loc[rows.index[:10], [f"label:{name}" for name in CLASSES]] = [0.5, 0.25, 0.25]
    counts = hard - rows["label"][:10].value_counts().reindex(list(CLASSES), fill_value=0) + [5, 2.5, 2.5]
    found = task.predictions.constant(rows, ["x", "y"])
    assert list(found.index) == ["x", "y"]
    np.testing.assert_allclose(found.to_numpy(), np.tile(counts / len(rows), (2, 1)), atol=1e-6)


def test_a_metric_says_which_heads_it_does_not_score() -> None:
    table = pd.DataFrame({"size": ["1"]}, index=["a"])
    with pytest.raises(UserError, match=r"'accuracy' does not score heads like 'size' \(odd\)"):
        find_metric("accuracy").function(table, table, [Head("size", "odd")])
    with pytest.raises(UserError, match=r"'accuracy' does not score heads like 'size' \(odd\)"):
        find_metric("accuracy").check_heads([Head("size", "odd")])


def test_a_constant_is_tuned_where_a_model_is() -> None:
    """Nobody is said to be sick at one half; at a threshold of the other folds everybody is, by hand."""
    sick = {0: [1, 0, 0, 0], 1: [1, 0, 0, 0, 0, 0], 2: [1, 1, 0, 0, 0]}
    rows = pd.DataFrame(
        [(fold, "ab"[one]) for fold, all_of in sick.items() for one in all_of], columns=["fold", "label"]
    )
    rows["id"] = [f"r{row}" for row in range(len(rows))]
    task = task_of(Head("label", "multiclass", ("a", "b")), metrics=("f1_macro", "roc_auc"))
    found = constant_scores(task, rows, ["0", "1", "2"])
    assert list(found) == ["constant", "constant, tuned"]
    # F1 of both classes, mean: of "a" everywhere 2 (n - p) / (2 n - p) / 2 with n rows of which p are "b"
    usual = [2 * 3 / 7 / 2, 2 * 5 / 11 / 2, 2 * 3 / 8 / 2]
    assert found["constant"]["f1_macro"] == pytest.approx(np.mean(usual))
    assert found["constant, tuned"]["f1_macro"] == pytest.approx(np.mean(usual)), "b everywhere is worse"
    assert "constant, tuned" not in constant_scores(task, rows, ["1"]), "one fold has no others"


def test_a_model_below_a_constant_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty, metric, folds = pd.DataFrame(), find_metric("f1_macro"), {"0": {"f1_macro": 0.0}, "1": {"f1_macro": 0.2}}
    tuned = Tuned(None, {"0": {"f1_macro": 0.3}, "1": {"f1_macro": 0.4}}, 0.25, True)  # type: ignore[arg-type]
    for constant, is_told in ((0.39, True), (0.34, False)):
        constants = {"constant": {"f1_macro": 0.1}, "constant, tuned": {"f1_macro": constant}}
        found = Evaluation([metric], folds, {}, constants, empty, empty, tuned)
        print_scores(Project.at(tmp_path), tmp_path / "runs/one", found)
        assert ("looks at no image scores 0.3900 in f1_macro, and 'one' 0.3500" in capsys.readouterr().out) is is_told


def test_a_tuned_constant_of_sparse_labels_by_hand() -> None:
    counts = {0: (4, 1), 1: (4, 2), 2: (10, 1)}  # rows, and those that have the label
    rows = pd.DataFrame(
        [(fold, "sick" if row < held else "") for fold, (size, held) in counts.items() for row in range(size)],
        columns=["fold", "labels"],
    )
    rows["id"] = [f"r{row}" for row in range(len(rows))]
    task = task_of(Head("labels", "multilabel", ("sick",)), metrics=("f1_micro", "roc_auc"))
    found = constant_scores(task, rows, ["0", "1", "2"])
    assert found["constant"]["f1_micro"] == 0, "no share reaches one half"
    by_hand = [2 * held / (size + held) for size, held in counts.values()]  # everybody has it
    assert found["constant, tuned"]["f1_micro"] == pytest.approx(np.mean(by_hand))
    assert found["constant, tuned"]["roc_auc"] == found["constant"]["roc_auc"] == 0.5
    assert "constant, tuned" not in constant_scores(task, rows, ["1"])


def test_pf1_is_decided_at_a_cut_that_is_tuned_on_other_folds() -> None:
    """Of calibrated probabilities, against an independent search; 0 and 1 are what is handed in."""
    head, metric = Head("label", "multiclass", ("no", "yes")), find_metric("probabilistic_f1")
    task, generator = task_of(head), np.random.default_rng(0)
    chance = generator.beta(0.3, 3.0, 4000)
    held = generator.random(4000) < chance
    ids = pd.Index([f"r{row}" for row in range(4000)])
    truth = pd.DataFrame({"label": np.where(held, "yes", "no")}, index=ids)
    said = pd.DataFrame({"label:no": 1 - chance, "label:yes": chance}, index=ids)

    def f1(cut: float) -> float:
        return float(2 * (held & (chance >= cut)).sum() / ((chance >= cut).sum() + held.sum()))

    raw = 2 * chance[held].sum() / (chance.sum() + held.sum())
    best = max(f1(cut) for cut in chance)
    folds = pd.Series(np.arange(4000) % 5, index=ids).astype(str)
    usual = {
        fold: metric_values([metric], truth[folds == fold], said[folds == fold], task.heads)
        for fold in sorted(set(folds))
    }
    tuned = tune(task, [metric], truth, said, folds, usual)
    assert tuned is not None and tuned.helps
    [cut] = tuned.heads[0].thresholds
    assert metric.function(truth, said, task.heads) == pytest.approx(raw)
    assert metric.function(truth, said, tuned.heads) == pytest.approx(f1(cut)) == pytest.approx(best, abs=0.01)
    assert best > raw + 0.05
    nested = np.mean([scores[metric.name] for scores in tuned.folds.values()])
    assert raw + 0.03 < nested <= best + 0.01

    [decided] = tuned.heads
    columns = [Column(f"p_{name}", decided, name) for name in head.classes]
    filled = kind_of(decided).columns.fill(said, columns, metric)
    np.testing.assert_array_equal(filled["p_yes"], chance >= cut)
    np.testing.assert_array_equal(filled["p_no"], chance < cut)
    for other in ("roc_auc", "log_loss"):  # what is not scored higher so stays a probability
        np.testing.assert_allclose(kind_of(decided).columns.fill(said, columns, find_metric(other))["p_yes"], chance)
    np.testing.assert_allclose(kind_of(head).columns.fill(said, columns, metric)["p_yes"], chance)

    sure = said.assign(**{"label:yes": held * 1.0, "label:no": ~held * 1.0})
    assert task.predictions.tuner(truth, sure, metric)(np.ones(4000, bool)) == (head,), "no cut is better than these"


def test_the_best_constant_of_pf1_is_certain() -> None:
    """No other constant probability scores more."""
    head, metric = Head("label", "multiclass", ("no", "yes")), find_metric("probabilistic_f1")
    rows = pd.DataFrame({"id": [f"r{row}" for row in range(100)], "label": ["yes"] * 20 + ["no"] * 80})
    truth = rows.set_index("id")[["label"]]

    def score(second: float) -> float:
        given = pd.DataFrame({"label:no": 1 - second, "label:yes": second}, index=truth.index)
        return metric.function(truth, given, [head])

    constant = kind_of(head).constant(rows, metric)
    assert score(float(constant[1])) == max(score(second) for second in np.linspace(0.05, 1, 20))
    assert score(float(constant[1])) > score(0.2) + 0.1
