"""One interface for all trackers. Local files are always written; the answers chose what else.

A further tracker is one module in this folder with an attribute `TRACKER`: `RunInfo` in, `Tracker` out. Its name in
`competition.yaml` switches it on.
"""

import contextlib
import functools
import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.registry import Registry, modules_of
from toolkit.errors import Interrupted, UserError
from toolkit.plots.figures import Drawing, encoded, start_drawing

LOCAL = "local"
PATIENCE = 3.0  # seconds that pictures may take at the end of a run without a word


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

    in_order = True  # steps never go back; otherwise a picture may come after numbers of a later step

    @abstractmethod
    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers at an optimiser step. Several calls at one step add up."""

    @abstractmethod
    def figure(self, name: str, figure: bytes, step: int) -> None:
        """Log a picture, a PNG."""

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
        self.flush()
        self._take_up()
        for name, tracker in list(self.trackers.items()):
            log = functools.partial(self._log, name, method, *arguments, **named)
            if self.waiting and tracker.in_order:
                self.waiting.append((0, None, log))
            else:
                log()

    return call


class Trackers(Tracker):
    """Several trackers as one. What fails in one never stops a training: it is said once and goes on without it.

    With `beside`, pictures that come as functions are drawn in a process of their own. Each is logged at its own step
    as soon as it is there, at the latest when the next of a later step comes; all are before the final values. What an
    `in_order` tracker is told after it waits for it, as everything waits for values that come from the device.
    """

    def __init__(self, trackers: Mapping[str, Tracker], fold: str = "", beside: bool = False) -> None:
        self.trackers, self.fold = dict(trackers), fold
        self.waiting: deque[tuple[int, Future[bytes] | None, Callable[..., None]]] = deque()  # step, picture, its log
        self.arriving: deque[tuple[Callable[[], bool], Callable[[], None]]] = deque()  # from the device
        self.pool = start_drawing() if beside else None

    def later(self, is_there: Callable[[], bool], log: Callable[[], None]) -> None:
        """Call `log` once its values are there, or when something else is logged, which waits for them."""
        self.arriving.append((is_there, log))
        self.flush(waits=False)

    def flush(self, waits: bool = True) -> None:
        """Log what is there of what came from the device, in order; or with `waits` all of it."""
        entries, self.arriving = self.arriving, deque()  # what an entry logs must not flush those behind it
        while entries and (waits or entries[0][0]()):
            entries.popleft()[1]()
        self.arriving = entries

    scalars = _to_each("scalars")
    checkpoint = _to_each("checkpoint")
    histogram = _to_each("histogram")
    pr_curve = _to_each("pr_curve")
    table = _to_each("table")
    overlay = _to_each("overlay")
    embedding = _to_each("embedding")
    _summary = _to_each("summary")
    _finish = _to_each("finish")

    def figure(self, name: str, figure: Drawing | bytes, step: int) -> None:
        """Log a picture: a figure, or a function that draws one, beside the training if it can be pickled."""
        self.flush()
        self._take_up(before=step)
        self.waiting.append((step, encoded(figure, self.pool), functools.partial(self._show, name, step)))
        self._take_up()

    def summary(self, values: dict[str, Any]) -> None:
        self._end_drawing()
        self._summary(values)

    def finish(self, succeeded: bool) -> None:
        self._end_drawing(succeeded)
        self._finish(succeeded)

    def _take_up(self, before: float = 0) -> None:
        """Log what is drawn and what waited for it; pictures of steps below `before` are waited for."""
        while self.waiting:
            step, picture, log = self.waiting[0]
            if step >= before and picture is not None and not picture.done():
                return
            self.waiting.popleft()
            try:
                log(*([] if picture is None else [picture.result()]))
            except Interrupted:
                raise
            except Exception as error:
                say_left_out(self.fold, error)

    def _end_drawing(self, succeeded: bool = True) -> None:
        """Wait for all pictures; after a failure only for those that are nearly there."""
        self.flush()
        left = wait([picture for _, picture, _ in self.waiting if picture], PATIENCE).not_done
        if left and succeeded:
            print(f"fold {self.fold}: waiting for {len(left)} pictures that are still being drawn", flush=True)
        pool, self.pool = self.pool, None
        with pool or contextlib.nullcontext():
            if pool is not None and not succeeded:
                pool.shutdown(wait=False, cancel_futures=True)
            self._take_up(before=math.inf)

    def _show(self, name: str, step: int, picture: bytes) -> None:
        for tracker in list(self.trackers):
            self._log(tracker, "figure", name, picture, step)

    def _log(self, name: str, method: str, *arguments: Any, **named: Any) -> None:
        tracker = self.trackers.get(name)
        try:
            if tracker is not None:  # or it failed while this waited
                getattr(tracker, method)(*arguments, **named)
        except Interrupted:
            raise
        except Exception as error:  # whatever a tracker's library raises, the training is worth more
            with contextlib.suppress(Exception):
                self.trackers.pop(name).finish(False)
            _say_failed(name, error)


def make_tracker(info: RunInfo, trackers: Sequence[str], beside: bool = False) -> Trackers:
    """Start the local files and the trackers of these names, and with `beside` the process that draws.

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
    return Trackers(started, info.fold, beside)


def say_once(message: str) -> None:
    """Tell the user something that does not stop the run, once per process however many folds it trains."""
    if message not in _said:
        _said.add(message)
        print(f"note: {message}", file=sys.stderr, flush=True)


_said: set[str] = set()


def say_left_out(fold: str, error: Exception) -> None:
    """Tell the user that a picture failed: none is worth a training."""
    ended = {CancelledError: "the run ended before it was drawn", BrokenProcessPool: "what drew it was killed"}
    reason = ended.get(type(error), _reason(error))
    print(f"note: a picture of fold {fold} was left out: {reason}", file=sys.stderr, flush=True)


def _say_failed(name: str, error: Exception) -> None:
    say_once(f"the tracker '{name}' failed ({_reason(error)}); the run goes on without it")


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
