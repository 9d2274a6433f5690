"""Samplers: what an epoch holds, counted."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.data.loader import TrainBatches
from pipeline.data.samplers import shuffle
from pipeline.registry import Registry, Spec
from pipeline.training import NAMES
from projects import Renders
from toolkit.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[None]:
    yield


def table(**columns: Any) -> pd.DataFrame:
    """Rows with ids `r0`, `r1`, ..."""
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"id": [f"r{number}" for number in range(count)], **columns})


def epoch(name: str, rows: pd.DataFrame, number: int = 0, **params: Any) -> np.ndarray:
    """The positions of an epoch, as the pipeline asks for them."""
    order = Registry(NAMES).bind("sampler", Spec(name=name, params=params))
    return np.asarray(order(rows, np.random.default_rng([7, number])))


LONG_TAIL = table(label=["a"] * 70 + ["b"] * 23 + ["c"] * 7)


def test_shuffle_gives_each_row_so_often() -> None:
    rows = table(x=range(50))
    assert (epoch("shuffle", rows) == np.random.default_rng([7, 0]).permutation(50)).all(), "as it has always been"
    twice = epoch("shuffle", rows, times=2)
    assert len(set(twice[:50])) == len(set(twice[50:])) == 50
    assert not (twice[:50] == twice[50:]).all()


@pytest.mark.parametrize(
    ("power", "length", "expected"),
    [
        (1.0, 1.0, {"a": 100 / 3, "b": 100 / 3, "c": 100 / 3}),
        (0.0, 1.0, {"a": 70, "b": 23, "c": 7}),
        (1.0, 0.3, {"a": 10, "b": 10, "c": 10}),
        (0.5, 2.0, {"a": 200 * 0.5303, "b": 200 * 0.3040, "c": 200 * 0.1677}),  # sqrt(70, 23, 7) over their sum
    ],
)
def test_balanced_counts_are_exact_to_one(power: float, length: float, expected: dict[str, float]) -> None:
    for number in range(5):
        drawn = epoch("balanced", LONG_TAIL, number, column="label", power=power, length=length)
        counts = Counter(LONG_TAIL["label"].iloc[drawn])
        assert len(drawn) == round(100 * length)
        assert all(abs(counts[label] - share) < 1.05 for label, share in expected.items()), counts


def test_balanced_uses_the_rows_of_a_value_evenly_and_mixes_them() -> None:
    drawn = epoch("balanced", LONG_TAIL, column="label")
    for label in "abc":
        times = [Counter(drawn)[row] for row in np.flatnonzero(LONG_TAIL["label"] == label)]
        assert max(times) - min(times) <= 1, "no row is used twice more often than another"
    labels = LONG_TAIL["label"].iloc[drawn].tolist()
    assert {"a", "b", "c"} == set(labels[:20]) == set(labels[-20:])
    other = epoch("balanced", LONG_TAIL, 1, column="label")
    assert set(drawn[drawn < 70]) != set(other[other < 70]), "another epoch sees other rows of the large class"
    assert (drawn == epoch("balanced", LONG_TAIL, column="label")).all(), "the generator decides"


def test_weighted_draws_in_proportion() -> None:
    rows = table(weight=["0", "1", "3"] * 500)  # a csv's numbers are text
    kinds = np.bincount(np.concatenate([epoch("weighted", rows, number) for number in range(4)]) % 3, minlength=3)
    assert kinds[0] == 0 and kinds.sum() == 6000
    assert kinds[2] / kinds.sum() == pytest.approx(0.75, abs=0.025), "four standard deviations"
    assert len(epoch("weighted", rows, length=0.1)) == 150


def test_groups_are_in_at_most_so_often() -> None:
    rows = table(group=["p1"] * 6 + ["p2"] * 2 + ["p3"])
    for number in range(3):
        assert Counter(rows["group"].iloc[epoch("groups", rows, number)]) == {"p1": 1, "p2": 1, "p3": 1}
        drawn = epoch("groups", rows, number, per_group=3)
        assert Counter(rows["group"].iloc[drawn]) == {"p1": 3, "p2": 2, "p3": 1} and len(set(drawn)) == 6
    seen = {row for number in range(40) for row in epoch("groups", rows, number)}
    assert seen == set(range(9)), "each row of a group has its turn"


def test_sources_have_their_times_and_shares() -> None:
    rows = table(source=["competition"] * 60 + ["old"] * 10 + ["web"] * 200 + ["pseudo"] * 4)
    drawn = epoch("sources", rows, times={"old": 2.5}, shares={"web": 0.2, "pseudo": 0.1})
    counts = Counter(rows["source"].iloc[drawn])
    assert counts["competition"] == 60 and counts["old"] == 25
    assert counts["web"] == round(0.2 * 85 / 0.7) and counts["pseudo"] == round(0.1 * 85 / 0.7)
    assert counts["web"] / len(drawn) == pytest.approx(0.2, abs=0.01)
    rows_of = {name: Counter(drawn[(rows["source"] == name).to_numpy()[drawn]]) for name in counts}
    assert set(rows_of["competition"].values()) == {1} and set(rows_of["web"].values()) == {1}
    assert set(rows_of["old"].values()) == {2, 3} and set(rows_of["pseudo"].values()) == {3}
    assert sorted(epoch("sources", rows)) == list(range(274)), "without settings every row once"


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("balanced", {"column": "lable"}, "no column 'lable'; did you mean 'label'"),
        ("balanced", {"column": "gap"}, r"column 'gap' is empty in 1 training rows \(id r1\)"),
        ("balanced", {"column": "label", "length": 0.0}, "the length in rows is 0"),
        ("balanced", {}, "'column' is missing"),
        ("weighted", {}, r"no column 'weight'"),
        ("weighted", {"column": "label"}, r"3 rows do not \(id r0, r1, r2\)"),
        ("weighted", {"column": "minus"}, r"1 rows do not \(id r2\)"),
        ("weighted", {"column": "gap"}, "column 'gap' is empty"),
        ("weighted", {"column": "nothing"}, r"not 0 alone; 3 rows"),
        ("groups", {}, "no column 'group'"),
        ("groups", {"per_group": 0}, "per_group is 0"),
        ("shuffle", {"times": 0}, "times is 0"),
        ("sources", {"times": {"webb": 2}}, "webb: 2 is of no training row.*did you mean 'web'"),
        ("sources", {"times": {"web": -1}}, "web: -1 .*from 0 on"),
        ("sources", {"shares": {"competition": 0.5}}, "are for sources other than"),
        ("sources", {"shares": {"web": 1.0}}, "add up to less than 1"),
        ("sources", {"shares": {"web": 0.1}, "times": {"web": 2}}, "that have no times"),
    ],
)
def test_what_cannot_be_sampled_is_said_in_one_line(name: str, params: dict[str, Any], message: str) -> None:
    rows = table(
        label=["a", "b", "c"],
        gap=[1.0, None, 2.0],
        minus=[1.0, 0.0, -0.5],
        nothing=[0, 0, 0],
        source=["competition", "web", "web"],
    )
    with pytest.raises(UserError, match=message) as raised:
        epoch(name, rows, **params)
    assert "\n" not in str(raised.value)


def test_an_epoch_starts_at_any_batch() -> None:
    rows = table(x=range(50))
    whole = TrainBatches(rows, shuffle, 8, seed=3)
    whole.begin(2, 0)
    rest = TrainBatches(rows, shuffle, 8, seed=3)
    rest.begin(2, 4)
    assert len(whole) == 6 and len(rest) == 2
    assert list(whole)[4:] == list(rest)
    seen = [row for batch in whole for _, row, _ in batch]
    assert len(set(seen)) == 48, "no row twice; the rest fills no batch"
    whole.begin(3, 0)
    assert [row for batch in whole for _, row, _ in batch] != seen, "another epoch, another order"


def test_a_row_that_is_shown_again_has_another_turn() -> None:
    order = [3, 0, 3, 3, 1, 0, 2, 3]
    whole, rest = (TrainBatches(table(x=range(4)), lambda *_: np.array(order), 2, seed=0) for _ in range(2))
    whole.begin(5, 0)
    drawn = [index for batch in whole for index in batch]
    assert drawn == [(5, row, turn) for row, turn in zip(order, [0, 0, 1, 2, 0, 1, 0, 3], strict=True)]
    rest.begin(5, 2)
    assert [index for batch in rest for index in batch] == drawn[4:], "counted from the epoch's first batch on"


def test_batches_are_counted_by_the_order_and_not_by_the_rows() -> None:
    for params, expected in (({"length": 2.0}, 25), ({"length": 0.5}, 6), ({"length": 0.05}, 1)):
        order = Registry(NAMES).bind("sampler", Spec(name="balanced", params={"column": "label", **params}))
        whole, rest = (TrainBatches(LONG_TAIL, order, 8, seed=1) for _ in range(2))
        assert whole.batches_per_epoch == len(whole) == len(list(whole)) == expected
        middle = expected // 2
        rest.begin(0, middle)
        assert list(whole)[middle:] == list(rest)
    assert whole.batch_size == 5, "an epoch that is smaller than a batch is one batch"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda rows, generator: np.arange(0), r"\(0,\); whole numbers"),
        (lambda rows, generator: np.ones((3, 2), int), r"\(3, 2\); whole numbers"),
        (lambda rows, generator: np.array([0.0, 1.0]), "float64"),
        (lambda rows, generator: np.array([0, 5]), "from 0 to 5; .* 0 to 4"),
        (lambda rows, generator: np.array([-1, 2]), "from -1 to 2"),
    ],
)
def test_an_own_sampler_that_gives_no_order(order: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainBatches(table(x=range(5)), order, 2, seed=0)


def test_an_own_sampler_that_changes_its_length() -> None:
    sizes = iter([10, 10, 12])
    batches = TrainBatches(table(x=range(20)), lambda rows, generator: np.arange(next(sizes)), 2, seed=0)
    assert len(list(batches)) == 5
    batches.begin(1, 0)
    with pytest.raises(UserError, match="12 rows in epoch 2 and gave 10 in the first"):
        list(batches)
