"""One interface for all trackers. Local files are always written; the answers chose what else.

A further tracker is one module in this folder with an attribute `TRACKER`: `RunInfo` in, `Tracker` out. Its name in
`competition.yaml` switches it on.
"""

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.registry import Registry, modules_of
from toolkit.errors import Interrupted, UserError

LOCAL = "local"


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told when a fold's run starts or continues."""

    project: str  # the competition
    experiment: str  # the group of the fold runs
    fold: str  # the job inside the group
    folder: Path  # runs/<experiment>/fold_<k>
    config: dict[str, Any]  # the resolved experiment
    tags: tuple[str, ...]
    run_id: str  # stays the same when a run continues
    step: int  # optimiser steps done: what was logged after it is logged again


@dataclass(frozen=True)
class Overlay:
    """An image, uint8 (H, W, 3), under masks, each (H, W) of class numbers, by name; 0 is no class."""

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    classes: Mapping[int, str]


@dataclass(frozen=True)
class Points:
    """Vectors, float32 (N, D), with a label each, and images, uint8 (H, W, 3) of one size, or none."""

    vectors: np.ndarray
    labels: Sequence[str]
    images: Sequence[np.ndarray]


class Tracker(ABC):
    """Where a fold's run is logged. Tags are the same everywhere: `train/loss`, `valid/accuracy`, `lr/group_0`.

    Numbers, pictures and final values are every tracker's; what it has no place for otherwise, it leaves out.
    """

    @abstractmethod
    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers at an optimiser step. Several calls at one step add up."""

    @abstractmethod
    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Log a picture."""

    @abstractmethod
    def summary(self, values: dict[str, Any]) -> None:
        """Log the final values of the run."""

    @abstractmethod
    def finish(self, succeeded: bool) -> None:
        """Flush and close."""

    def checkpoint(self, path: Path) -> None:  # noqa: B027
        """Keep the best weights where the tracker can."""

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:  # noqa: B027
        """Log how values are spread, float (N,)."""

    def pr_curve(self, name: str, truth: np.ndarray, scores: np.ndarray, step: int) -> None:  # noqa: B027
        """Log precision against recall, of a truth, bool (N,), and scores in [0, 1], (N,)."""

    def table(self, name: str, table: pd.DataFrame, images: Sequence[np.ndarray], step: int) -> None:  # noqa: B027
        """Log a table, and an image of each row where there are any, uint8 (H, W, 3)."""

    def overlay(self, name: str, overlay: Overlay, step: int) -> None:  # noqa: B027
        """Log an image with masks that can be switched on and off."""

    def embedding(self, name: str, points: Points, step: int) -> None:  # noqa: B027
        """Log vectors that a projector can show."""


def _to_each(method: str) -> Callable[..., None]:
    def call(self: "Trackers", *arguments: Any, **named: Any) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                getattr(tracker, method)(*arguments, **named)
            except Interrupted:
                raise
            except Exception as error:  # whatever a tracker's library raises, the training is worth more
                del self.trackers[name]
                with contextlib.suppress(Exception):
                    tracker.finish(False)
                _say_failed(name, error)

    return call


class Trackers(Tracker):
    """Several trackers as one. What fails in one never stops a training: it is said once and goes on without it."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.trackers = dict(trackers)

    scalars = _to_each("scalars")
    figure = _to_each("figure")
    summary = _to_each("summary")
    finish = _to_each("finish")
    checkpoint = _to_each("checkpoint")
    histogram = _to_each("histogram")
    pr_curve = _to_each("pr_curve")
    table = _to_each("table")
    overlay = _to_each("overlay")
    embedding = _to_each("embedding")


def make_tracker(info: RunInfo, trackers: Sequence[str]) -> Trackers:
    """Start the local files and the trackers of these names.

    Raises:
        UserError: this repository has no tracker of a name, or its package is not installed.
    """
    names = Registry({"tracker": modules_of(__name__, "TRACKER")})
    try:
        starts = {name: names.find("tracker", name) for name in (LOCAL, *trackers)}
    except UserError as error:
        every = ", ".join(dict.fromkeys([*sorted(names.table["tracker"].keys() - {LOCAL}), *trackers]))
        raise UserError(f"{error} (in competition.yaml; copier update -d trackers='[{every}]' adds it)") from error
    started = {}
    for name, start in starts.items():
        try:
            started[name] = start(info)
        except Interrupted:
            raise
        except Exception as error:
            _say_failed(name, error)
    return Trackers(started)


def say_once(message: str) -> None:
    """Tell the user something that does not stop the run, once per process however many folds it trains."""
    if message not in _said:
        _said.add(message)
        print(f"note: {message}", file=sys.stderr, flush=True)


_said: set[str] = set()


def _say_failed(name: str, error: Exception) -> None:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    say_once(f"the tracker '{name}' failed ({reason}); the run goes on without it")
