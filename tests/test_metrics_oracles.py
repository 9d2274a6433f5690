"""The metrics against torchmetrics and scikit-learn, and in cases worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import UndefinedMetricWarning

from pipeline.metrics.image_level import METRICS
from pipeline.metrics.multiclass import SCORES, mean_average_precision_at_k
from projects import metric_choices
from test_metrics import head, score


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_torchmetrics(classes: int, seed: int) -> None:
    import torch
    from torchmetrics.functional import classification as oracle
    from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

    generator = np.random.default_rng(seed)
    true = np.concatenate([np.arange(classes), generator.choice(classes, size=300)])
    logits = generator.normal(size=(len(true), classes)) + 1.2 * np.eye(classes)[true]
    given = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = np.round(given, 2).astype(np.float32).astype(np.float64)  # ties
    exact = torch.from_numpy(given / given.sum(axis=1, keepdims=True))
    target, labels = torch.from_numpy(true), exact.argmax(dim=1)
    several = {"target": target, "num_classes": classes}
    expected = {
        "accuracy": oracle.multiclass_accuracy(labels, average="micro", **several),
        "balanced_accuracy": oracle.multiclass_accuracy(labels, average="macro", **several),
        "f1_macro": oracle.multiclass_f1_score(labels, average="macro", **several),
        "f1_micro": oracle.multiclass_f1_score(labels, average="micro", **several),
        "f1_weighted": oracle.multiclass_f1_score(labels, average="weighted", **several),
        "quadratic_weighted_kappa": oracle.multiclass_cohen_kappa(labels, weights="quadratic", **several),
        "matthews_corrcoef": oracle.multiclass_matthews_corrcoef(labels, **several),
        "roc_auc": oracle.multiclass_auroc(exact, average="macro", **several),
        "pr_auc": oracle.multiclass_average_precision(exact, average="macro", **several),
    }
    if classes == 2:
        expected["roc_auc"] = oracle.binary_auroc(exact[:, 1], target)
        expected["pr_auc"] = oracle.binary_average_precision(exact[:, 1], target)
    apart = torch.from_numpy(np.rint(100 * given) * 10) - torch.arange(classes)  # torch ranks ties in any order
    for k in (3, 5):
        ranks = [
            retrieval_reciprocal_rank(row, torch.arange(classes) == t, top_k=k)
            for row, t in zip(apart, target, strict=True)
        ]
        expected[f"map_at_{k}"] = torch.stack(ranks).mean()
    of = head(*"edcba"[:classes])
    truth = [of.classes[number] for number in true]
    for name, value in expected.items():
        assert score(name, of, truth, given) == pytest.approx(float(value), abs=2e-6), name


@pytest.mark.parametrize("seed", range(5))
def test_probabilistic_f1_of_certain_predictions_is_f1(seed: int) -> None:
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(seed)
    true, said = generator.integers(0, 2, 50), generator.integers(0, 2, 50)
    of = head("no", "yes")
    value = score("probabilistic_f1", of, [of.classes[number] for number in true], np.eye(2)[said])
    assert value == pytest.approx(f1_score(true, said))


def test_worked_by_hand() -> None:
    two = head("no", "yes")
    truth, guess = ["no", "yes", "no", "yes"], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]]
    # 0.8 is a hit (1/1), 0.6 none, 0.5 the second hit (2/3).
    assert score("pr_auc", two, truth, guess) == pytest.approx((1 + 2 / 3) / 2)
    # pTP 1.3; precision 1.3 / 2, recall 1.3 / 2.
    assert score("probabilistic_f1", two, truth, guess) == pytest.approx(0.65)
    assert score("probabilistic_f1", two, truth, [[1.0, 0.0]] * 4) == 0.0
    four = head("a", "b", "c", "d")
    ranks = [[0.4, 0.3, 0.2, 0.1]] * 4
    assert score("map_at_3", four, ["a", "b", "c", "d"], ranks) == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert score("map_at_5", four, ["a", "b", "c", "d"], ranks) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert score("map_at_3", four, ["a", "d"], [[0.25] * 4] * 2) == 0.5  # ties stand in class order
    said = [[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]
    assert score("f1_micro", four, ["a", "b", "b"], said) == pytest.approx(2 / 3)
    assert score("f1_weighted", four, ["a", "b", "b"], said) == pytest.approx((2 / 3 + 2 * 2 / 3) / 3)


def test_any_k() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2]] * 3)
    score_at_2 = mean_average_precision_at_k(np.arange(3), probabilities, head("a", "b", "c"), k=2)
    assert score_at_2 == pytest.approx((1 + 1 / 2) / 3)


@pytest.mark.parametrize(("name", "only"), [("pr_auc", "yes"), ("pr_auc", "no"), ("probabilistic_f1", "no")])
def test_one_class_only_is_nan_with_a_reason(name: str, only: str) -> None:
    with pytest.warns(UndefinedMetricWarning, match=f"head 'label': {name} needs .*'{only}'; the score is NaN"):
        assert math.isnan(score(name, head("no", "yes"), [only] * 3, [[0.5, 0.5]] * 3))


def test_copier_asks_for_every_metric_with_its_meaning() -> None:
    choices = metric_choices("classification")
    assert [meaning.split(": ")[0] for meaning in choices] == list(choices.values())
    assert sorted(choices.values()) == sorted(one.name for one in SCORES)


def test_kl_divergence_of_soft_truths_and_of_labels() -> None:
    """Against torch; a row with a label alone is a distribution as well, and then the score is the log loss."""
    import torch

    generator, of = torch.Generator().manual_seed(0), head("a", "b", "c")
    given = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    soft = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    soft[:10, 0] = 0  # a class that is impossible adds nothing
    soft = soft / soft.sum(dim=1, keepdim=True)
    columns = [f"{of.name}:{name}" for name in of.classes]
    predictions = pd.DataFrame(given.numpy(), columns=columns)
    labels = [of.classes[place] for place in soft.argmax(dim=1).tolist()]
    truth = pd.DataFrame({of.name: labels}).join(pd.DataFrame(soft.numpy(), columns=columns))
    normal = given / given.sum(dim=1, keepdim=True)
    expected = torch.nn.functional.kl_div(normal.log(), soft, reduction="batchmean")
    score = METRICS["kl_divergence"].function
    assert score(truth, predictions, [of]) == pytest.approx(float(expected))
    assert score(truth, truth[columns], [of]) == pytest.approx(0, abs=1e-12)
    hard = METRICS["log_loss"].function(truth[[of.name]], predictions, [of])
    assert score(truth[[of.name]], predictions, [of]) == pytest.approx(hard)
    truth.loc[:24, columns] = np.nan
    first, last = score(truth[:25], predictions[:25], [of]), score(truth[25:], predictions[25:], [of])
    assert score(truth, predictions, [of]) == pytest.approx((first + last) / 2)
