"""Ours and its peers in turns, and what their numbers come to."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Effort:
    """How often each thing is repeated."""

    step_pairs: int = 30
    image_rounds: int = 7
    images: int = 128
    collate_rounds: int = 40
    gather_rounds: int = 40
    copy_rounds: int = 7
    watch_rounds: int = 3
    gpu_blocks: int = 10

    @classmethod
    def quick(cls) -> "Effort":
        """Enough to see that every row can be measured."""
        return cls(
            step_pairs=3,
            image_rounds=2,
            images=32,
            collate_rounds=5,
            gather_rounds=5,
            copy_rounds=2,
            watch_rounds=1,
            gpu_blocks=2,
        )


@dataclass(frozen=True)
class Aim:
    """What a row should come to: its ratio where it has a peer, its value otherwise."""

    sense: Literal["at most", "at least"]
    value: float

    def met_by(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value <= self.value if self.sense == "at most" else value >= self.value


@dataclass(frozen=True)
class Row:
    """One line of the table: medians, and how far single repetitions lie apart.

    Attributes:
        group, name: what is measured.
        peer_name: what it is held against; empty where there is no peer.
        unit: of `ours` and `peer`.
        ratio: median of ours divided by peer, pair by pair; `ratio_spread` its smallest and largest value, and
            `ratio_quartiles` the range of its middle half, which tells more on a busy machine. For a row without a
            peer the three are none, and `ours_spread` says how far its values lie apart.
        met: whether the aim is met; none where there is no aim.
    """

    group: str
    name: str
    peer_name: str
    unit: str
    repetitions: int
    ours: float
    ours_spread: tuple[float, float]
    peer: float | None = None
    ratio: float | None = None
    ratio_spread: tuple[float, float] | None = None
    ratio_quartiles: tuple[float, float] | None = None
    aim: Aim | None = None
    met: bool | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the json file."""
        aim = None if self.aim is None else f"{self.aim.sense} {self.aim.value:g}"
        return {**asdict(self), "aim": aim}


def in_turns(functions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every function once a round and keep what they return; each round begins with the next of them."""
    names = list(functions)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(functions[name]())
    return values


def alone(group: str, name: str, unit: str, ours: Sequence[float], aim: Aim | None = None, note: str = "") -> Row:
    """A row without a peer."""
    middle = statistics.median(ours)
    met = None if aim is None else aim.met_by(middle)
    return Row(group, name, "", unit, len(ours), middle, (min(ours), max(ours)), aim=aim, met=met, note=note)


def beside(
    group: str,
    name: str,
    peer_name: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    aim: Aim | None = None,
    note: str = "",
) -> Row:
    """A row with a peer; values at the same position were taken one right after the other."""
    ratios = sorted(mine / other for mine, other in zip(ours, peer, strict=True))
    ratio = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Row(
        group,
        name,
        peer_name,
        unit,
        len(ratios),
        statistics.median(ours),
        (min(ours), max(ours)),
        statistics.median(peer),
        ratio,
        (ratios[0], ratios[-1]),
        (low, high),
        aim,
        None if aim is None else aim.met_by(ratio),
        note,
    )
