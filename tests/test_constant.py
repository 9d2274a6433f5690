"""What a prediction scores that never looked at an image, against scikit-learn's dummy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from projects import Renders, imported

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[Path]:
    with imported(renders.shared({"metric": "roc_auc"})):
        yield renders.folder


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
    from competition import competition
    from pipeline.competition import Head
    from pipeline.inference.evaluation import constant_scores
    from pipeline.tasks import task_for

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
    found = constant_scores(task_for(competition, [Head("label", "multiclass", CLASSES)]), rows, folds)["constant"]
    assert found == pytest.approx(pd.DataFrame(expected).mean().to_dict(), abs=1e-6)
    assert found["roc_auc"] == 0.5
    assert len({row["accuracy"] for row in expected}) == len(folds), "the folds' constants differ"


def test_soft_targets_count_as_parts_of_rows() -> None:
    from competition import competition
    from pipeline.competition import Head
    from pipeline.tasks import task_for

    rows = rows_in_folds().assign(**{f"label:{name}": np.nan for name in CLASSES})
    task = task_for(competition, [Head("label", "multiclass", CLASSES)])
    hard = rows["label"].value_counts().reindex(list(CLASSES))
    rows.loc[rows.index[:10], [f"label:{name}" for name in CLASSES]] = [0.5, 0.25, 0.25]
    counts = hard - rows["label"][:10].value_counts().reindex(list(CLASSES), fill_value=0) + [5, 2.5, 2.5]
    found = task.constant(rows, ["x", "y"])
    assert list(found.index) == ["x", "y"]
    np.testing.assert_allclose(found.to_numpy(), np.tile(counts / len(rows), (2, 1)), atol=1e-6)


def test_a_metric_says_which_heads_it_does_not_score() -> None:
    from pipeline.competition import Head
    from pipeline.errors import UserError
    from pipeline.tasks.image_level.metrics import find_metric

    table = pd.DataFrame({"size": ["1"]}, index=["a"])
    with pytest.raises(UserError, match=r"'accuracy' does not score heads like 'size' \(odd\)"):
        find_metric("accuracy").function(table, table, [Head("size", "odd")])
    with pytest.raises(UserError, match=r"'accuracy' does not score heads like 'size' \(odd\)"):
        find_metric("accuracy").check_heads([Head("size", "odd")])


def test_the_best_constant_of_pf1_is_certain() -> None:
    """No other constant probability scores more."""
    from pipeline.competition import Head
    from pipeline.tasks.image_level.kinds import kind_of
    from pipeline.tasks.image_level.metrics import find_metric

    head, metric = Head("label", "multiclass", ("no", "yes")), find_metric("probabilistic_f1")
    rows = pd.DataFrame({"id": [f"r{row}" for row in range(100)], "label": ["yes"] * 20 + ["no"] * 80})
    truth = rows.set_index("id")[["label"]]

    def score(second: float) -> float:
        given = pd.DataFrame({"label:no": 1 - second, "label:yes": second}, index=truth.index)
        return metric.function(truth, given, [head])

    constant = kind_of(head).constant(rows, metric)
    assert score(float(constant[1])) == max(score(second) for second in np.linspace(0.05, 1, 20))
    assert score(float(constant[1])) > score(0.2) + 0.1
