"""Thresholds, smallest areas and presence thresholds that score best on given rows."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.mask_decoding import (
    EXCLUSIVE,
    USUAL,
    above,
    cleanings,
    columns,
    has_presence,
    owners,
    presence_of,
    require_columns,
)
from pipeline.metrics.masks import Count, Scored, foreground_of, instances_of, require_size
from toolkit.masks import maps

Option = TypeVar("Option")

MOST_IMAGES = 300
MOST_PIXELS = 40_000_000  # of all images and classes that are looked at: some ten seconds
FEWEST_IMAGES = 20
QUICK_PIXELS = 10_000_000  # in every epoch, where areas are not tried, which take most of the time: half a second
FEWEST_QUICK = 10  # images; with fewer than that thresholds would follow chance
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FEW = (0.3, 0.4, 0.5, 0.6, 0.7)  # thresholds tried for a metric that is called for each
MOST_CALLED = 100  # images such a metric is called with
AREA_SHARES = (0.0, 0.0001, 0.0005, 0.0025, 0.0125)  # of the middle image
ROUNDS = 2


class Tuning:
    """What every candidate comes to in every image, counted once; then the best thresholds for any of the rows.

    A fixed sample of at most `MOST_IMAGES` images is looked at, of large images fewer; `quick` of even fewer, and with
    thresholds alone. A metric of masks is tuned for each class, any other one by few candidates that all classes share.
    """

    def __init__(
        self, truth: pd.DataFrame, predictions: pd.DataFrame, head: Head, metric: Metric, quick: bool = False
    ) -> None:
        require_columns(truth, predictions, head)
        self.head, self.metric, self.rows = head, metric, len(truth)
        areas = [height * width for height, width in map(maps.size_of, predictions[columns(head)[0]])]
        self.areas: tuple[float, ...] = (USUAL[1],)
        self.presences: tuple[float, ...] = (USUAL[2],)
        if not quick:
            middle = float(np.median(areas)) if areas else 0.0
            self.areas = tuple(sorted({float(round(share * middle)) for share in AREA_SHARES}))
            self.presences = (0.0, *THRESHOLDS) if has_presence(predictions, head) else self.presences
        self.sample = _sample(areas, len(head.classes), quick)
        self.truth, self.predictions = truth.iloc[self.sample], predictions.iloc[self.sample]
        self.presence = presence_of(self.predictions, head)
        self._counts = self._counted(metric.function.count) if isinstance(metric.function, Scored) else None

    def best(self, rows: np.ndarray) -> tuple[float, ...]:
        """The best thresholds, three per class, for a subset of the rows, bool (N,). The usual ones stay where nothing
        is better, and where no such row is in the sample."""
        chosen = np.asarray(rows, bool)[self.sample]
        if not chosen.any():
            return USUAL * len(self.head.classes)
        if self._counts is None:
            return self._ascent(chosen)
        return self._best(self._counts[chosen], self.presence[chosen])

    def _counted(self, count: Count) -> np.ndarray:
        """Counts (N, C, thresholds, areas, K), and behind the last area what an empty mask would be counted as."""
        cells = self.predictions[columns(self.head)].itertuples(index=False, name=None)
        found = []
        for name, true, of_image in zip(self.truth.index, self.truth[self.head.name], cells, strict=True):
            require_size(name, true, maps.size_of(of_image[0]))
            planes, owner = true.read(), owners(of_image) if self.head.kind == EXCLUSIVE else None
            found.append(
                [self._of_class(true, planes, number, cell, owner, count) for number, cell in enumerate(of_image)]
            )
        return np.array(found) if found else np.zeros((0, len(self.head.classes), 1, 1, 1))

    def _of_class(
        self, true: Any, planes: np.ndarray, number: int, cell: bytes, owner: np.ndarray | None, count: Count
    ) -> np.ndarray:
        foreground = foreground_of(planes, self.head.kind)
        instances = cache(partial(instances_of, true, number, planes[number]))

        def counted(mask: np.ndarray) -> np.ndarray:
            return count(planes[number], mask, foreground, instances)

        empty = counted(np.broadcast_to(np.False_, true.size))
        table = np.empty((len(THRESHOLDS), len(self.areas) + 1, len(empty)), empty.dtype)
        table[:, -1] = empty
        for row, threshold in enumerate(THRESHOLDS):
            last = None
            for column, mask in enumerate(cleanings(above(cell, threshold, number, owner), self.areas, number, owner)):
                table[row, column] = table[row, column - 1] if mask is last else counted(mask)
                last = mask
        return table

    def _best(self, found: np.ndarray, presence: np.ndarray) -> tuple[float, ...]:
        """Coordinate ascent over the classes, each over the whole grid of its candidates."""
        assert isinstance(self.metric.function, Scored)
        reduce = self.metric.function.reduce
        chosen = [(THRESHOLDS.index(USUAL[0]), 0, USUAL[2])] * len(self.head.classes)

        def counts(number: int, option: tuple[int, int, float]) -> np.ndarray:
            row, column, at_least = option
            gated = presence[:, number] < at_least
            return np.where(gated[:, None], found[:, number, row, -1], found[:, number, row, column])

        now = np.stack([counts(number, option) for number, option in enumerate(chosen)], axis=1)
        options = list(itertools.product(range(len(THRESHOLDS)), range(len(self.areas)), self.presences))
        for _ in range(ROUNDS if len(chosen) > 1 else 1):
            before = list(chosen)
            for number in range(len(chosen)):

                def score(option: tuple[int, int, float], number: int = number) -> float:
                    now[:, number] = counts(number, option)
                    return float(reduce(now, self.head.kind))

                chosen[number] = _first_or_middle(chosen[number], options, score)
                now[:, number] = counts(number, chosen[number])
            if chosen == before:
                break
        values = [(THRESHOLDS[row], self.areas[column], at_least) for row, column, at_least in chosen]
        return tuple(itertools.chain.from_iterable(values))

    def _ascent(self, chosen: np.ndarray) -> tuple[float, ...]:
        """One decision for all classes, one of its three values changed at a time."""
        few = np.flatnonzero(chosen)[:MOST_CALLED]
        truth, predictions = self.truth.iloc[few], self.predictions.iloc[few]
        sign = 1 if self.metric.greater_is_better else -1

        def score(decision: tuple[float, ...]) -> float:
            head = replace(self.head, thresholds=decision * len(self.head.classes))
            return sign * float(self.metric.function(truth, predictions, [head]))

        best: tuple[float, ...] = USUAL
        for place, values in enumerate((FEW, self.areas, self.presences[::2])):
            options = [(*best[:place], value, *best[place + 1 :]) for value in values]
            best = _first_or_middle(best, options, score)
        return best * len(self.head.classes)


def _first_or_middle(start: Option, options: Sequence[Option], score: Callable[[Option], float]) -> Option:
    """The option of the best score; `start` where none is better, and of equal ones the middle one, which is the
    furthest from where the score falls. NaN is worse than any number."""
    scores = np.nan_to_num(np.array([score(option) for option in options]), nan=-np.inf)
    if scores.max() <= np.nan_to_num(score(start), nan=-np.inf):
        return start
    equal = np.flatnonzero(scores == scores.max())
    return options[int(equal[len(equal) // 2])]


def _sample(areas: Sequence[int], classes: int, quick: bool) -> np.ndarray:
    """Positions of the images that are looked at, ascending; the same for the same areas. None, where it should be
    quick and would be too few."""
    pixels = float(np.mean(areas)) if areas else 1.0
    affordable = (QUICK_PIXELS if quick else MOST_PIXELS) / max(pixels * classes, 1)
    most = int(np.clip(affordable, 0 if quick else FEWEST_IMAGES, MOST_IMAGES))
    if len(areas) <= most:
        return np.arange(len(areas))
    if quick and most < FEWEST_QUICK:
        return np.arange(0)
    return np.sort(np.random.default_rng(0).choice(len(areas), most, replace=False))
