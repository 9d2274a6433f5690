"""Every metric against its definition in plain Python, on random inputs full of edges."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
from sklearn.exceptions import UndefinedMetricWarning

from pipeline.competition import Head
from test_metrics import NAMES, head, score

GRADES = ("0", "1", "2", "4", "7", "8")
TEXTS = ("owl", "cat", "dog", "ant", "bee", "cow")


@dataclass(frozen=True)
class Case:
    """True class numbers, probabilities (N, C) that sum to 1, and what each row is decided for."""

    of: Head
    true: list[int]
    given: list[list[float]]

    @property
    def said(self) -> list[int]:
        return [row.index(max(row)) for row in self.given]

    @property
    def present(self) -> list[int]:
        return sorted(set(self.true))

    @property
    def positives(self) -> list[int]:
        """The classes that are positive in turn."""
        return self.present if len(self.of.classes) > 2 else [1]

    def column(self, number: int) -> list[float]:
        return [row[number] for row in self.given]


def random_case(seed: int) -> tuple[Case, list[str], np.ndarray]:
    """Few rows: ties, classes that are never true or never predicted, one class only, certain errors, rows of zeros."""
    generator = np.random.default_rng(seed)
    classes, rows = int(generator.integers(2, 7)), int(generator.integers(1, 30))
    of = head(*(GRADES if seed % 2 else TEXTS)[:classes])
    true = generator.choice(classes, size=rows, p=generator.dirichlet(np.full(classes, 0.5)))
    sharpness = generator.choice([0.05, 0.5, 2.0])
    probabilities = generator.dirichlet(np.full(classes, sharpness), size=rows) + 0.3 * np.eye(classes)[true]
    probabilities = np.round(probabilities, int(generator.choice([0, 1, 6]))).astype(np.float32)
    exact = probabilities.astype(np.float64)
    given = [[p / sum(row) if sum(row) else 1 / classes for p in row] for row in exact.tolist()]
    return Case(of, true.tolist(), given), [of.classes[number] for number in true], probabilities


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def counts(case: Case, number: int) -> tuple[int, int, int]:
    pairs = list(zip(case.true, case.said, strict=True))
    hits = pairs.count((number, number))
    return hits, case.said.count(number) - hits, case.true.count(number) - hits


def f1(hits: int, wrong: int, missed: int) -> float:
    return 2 * hits / (2 * hits + wrong + missed)


def f1_macro(case: Case) -> float:
    return mean([f1(*counts(case, number)) for number in {*case.true, *case.said}])


def f1_micro(case: Case) -> float:
    return f1(*(sum(values) for values in zip(*[counts(case, n) for n in range(len(case.of.classes))], strict=True)))


def f1_weighted(case: Case) -> float:
    return sum(case.true.count(n) * f1(*counts(case, n)) for n in case.present) / len(case.true)


def balanced_accuracy(case: Case) -> float:
    return mean([counts(case, number)[0] / case.true.count(number) for number in case.present])


def accuracy(case: Case) -> float:
    return mean([float(true == said) for true, said in zip(case.true, case.said, strict=True)])


def log_loss(case: Case, smallest: float = np.finfo(float).eps) -> float:
    return mean([-math.log(max(row[t], smallest)) for t, row in zip(case.true, case.given, strict=True)])


def roc_auc(case: Case) -> float:
    """The share of pairs of a positive and a negative row in the right order."""
    if len(case.present) < 2:
        return math.nan
    areas = []
    for positive in case.positives:
        rows = list(zip(case.true, case.column(positive), strict=True))
        pairs = product([p for t, p in rows if t == positive], [p for t, p in rows if t != positive])
        areas.append(mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    return mean(areas)


def pr_auc(case: Case) -> float:
    """Sum over thresholds of the gain in recall times the precision."""
    if len(case.present) < 2:
        return math.nan
    areas = []
    for positive in case.positives:
        column, area, before = case.column(positive), 0.0, 0.0
        for threshold in sorted(set(column), reverse=True):
            taken = [true == positive for true, p in zip(case.true, column, strict=True) if p >= threshold]
            recall = sum(taken) / case.true.count(positive)
            area, before = area + (recall - before) * sum(taken) / len(taken), recall
        areas.append(area)
    return mean(areas)


def kappa(case: Case) -> float:
    """1 - observed over expected squared distance; expected: every truth with every prediction."""
    names = case.of.classes
    grades = [int(name) if names[0].isdigit() else number for number, name in enumerate(names)]
    truth, said = [grades[n] for n in case.true], [grades[n] for n in case.said]
    if len({*truth, *said}) < 2:
        return math.nan
    observed = mean([float((a - b) ** 2) for a, b in zip(truth, said, strict=True)])
    return 1 - observed / mean([float((a - b) ** 2) for a, b in product(truth, said)])


def matthews(case: Case) -> float:
    """Gorodkin's correlation of two tables of 0 and 1."""

    def covariance(one: list[int], two: list[int]) -> float:
        return sum(
            mean([float(a == b == n) for a, b in zip(one, two, strict=True)])
            - one.count(n) * two.count(n) / len(one) ** 2
            for n in range(len(case.of.classes))
        )

    spread = covariance(case.true, case.true) * covariance(case.said, case.said)
    return covariance(case.true, case.said) / math.sqrt(spread) if spread > 1e-12 else 0.0


def probabilistic_f1(case: Case) -> float:
    """As the graders of RSNA's screening mammography count: true and false positives by probability."""
    scores = []
    for positive in case.positives:
        rows = list(zip(case.true, case.column(positive), strict=True))
        if positive not in case.true:
            return math.nan
        hits, wrong = sum(p for t, p in rows if t == positive), sum(p for t, p in rows if t != positive)
        if hits == 0:
            scores.append(0.0)
            continue
        precision, recall = hits / (hits + wrong), hits / case.true.count(positive)
        scores.append(2 * precision * recall / (precision + recall))
    return mean(scores)


def map_at(case: Case, k: int) -> float:
    """Average precision of a ranked list, cut at k, with one relevant item."""
    total = []
    for true, row in zip(case.true, case.given, strict=True):
        ranked = sorted(range(len(row)), key=lambda number: (-row[number], number))[:k]
        total.append(sum(1 / rank for rank, number in enumerate(ranked, start=1) if number == true))
    return mean(total)


ORACLES: dict[str, Callable[[Case], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": f1_macro,
    "f1_micro": f1_micro,
    "f1_weighted": f1_weighted,
    "log_loss": log_loss,
    "kl_divergence": partial(log_loss, smallest=1e-15),  # of labels; of soft truths in test_metrics_oracles.py
    "roc_auc": roc_auc,
    "pr_auc": pr_auc,
    "quadratic_weighted_kappa": kappa,
    "matthews_corrcoef": matthews,
    "probabilistic_f1": probabilistic_f1,
    "map_at_3": partial(map_at, k=3),
    "map_at_5": partial(map_at, k=5),
}


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_definition(name: str) -> None:
    """NaN exactly where the definition has none, and then never without a reason."""
    undefined = 0
    for seed in range(300):
        case, truth, probabilities = random_case(seed)
        expected = ORACLES[name](case)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            value = score(name, case.of, truth, probabilities)
        assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), f"seed {seed}"
        reasons = [str(one.message) for one in said if one.category is UndefinedMetricWarning]
        assert len(said) == len(reasons) == math.isnan(expected), f"seed {seed}: {[str(one.message) for one in said]}"
        undefined += math.isnan(expected)
    assert bool(undefined) == (name in {"roc_auc", "pr_auc", "quadratic_weighted_kappa", "probabilistic_f1"})


def test_the_random_cases_hold_the_edges() -> None:
    cases = [random_case(seed)[0] for seed in range(300)]
    assert any(len(case.present) == 1 for case in cases)
    assert any(set(case.said) - set(case.true) for case in cases), "a class that is predicted and never true"
    assert any(set(case.true) - set(case.said) for case in cases), "a class that is true and never predicted"
    assert any(sorted(row)[-1] == sorted(row)[-2] for case in cases for row in case.given), "a tie"
    assert any(row[t] == 0 for case in cases for t, row in zip(case.true, case.given, strict=True)), "a certain error"
    assert any(case.of.classes[0] == "0" and len(case.of.classes) > 3 for case in cases), "grades with a gap"
