"""Where a probability or a number becomes a decision: the thresholds that score best on given rows."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.competition import Metric

TRIED = 50  # values of each threshold on a grid, and as many again at quantiles of the predictions
ROUNDS = 2
CALLS = 200  # of a metric in every epoch: 0.2 seconds with 2,000 rows, and 1 with 50,000 rows of 30 labels
CALLS_OF_OTHERS = 20  # of a metric that is none of the pipeline's, and may be slow
MOST, FEWEST = 40, 8  # values of each threshold in every epoch; where that makes too many, all thresholds are the same

Score = Callable[[tuple[float, ...]], float]
Ascent = Callable[[Score, Sequence[float], Sequence[np.ndarray]], tuple[float, ...]]


def values_to_try(predictions: np.ndarray) -> np.ndarray:
    """Thresholds worth trying for predictions (N,): an even grid over their range, and their quantiles; ascending."""
    inside = np.linspace(0, 1, TRIED + 2)[1:-1]
    grid = predictions.min() + inside * np.ptp(predictions)
    return np.unique(np.concatenate([grid, np.quantile(predictions, inside)]))


def coordinate_ascent(
    score: Score, start: Sequence[float], candidates: Sequence[np.ndarray], rounds: int = ROUNDS
) -> tuple[float, ...]:
    """Thresholds, one changed at a time, that `score` finds best (greater is better, NaN the worst); where nothing is
    better, `start` stays. Of candidates that score the same the middle one, furthest from where the score falls, is
    taken."""
    best = tuple(float(value) for value in start)
    reached = as_rank(score(best))
    for _ in range(rounds):
        before = best
        for number, tried in enumerate(candidates):
            options = [(*best[:number], float(value), *best[number + 1 :]) for value in tried]
            scores = np.array([as_rank(score(option)) for option in options])
            if len(scores) and scores.max() > reached:
                equal = np.flatnonzero(scores == scores.max())
                best, reached = options[equal[len(equal) // 2]], float(scores.max())
        if best == before:
            break
    return best


def calls_to_try(metric: Metric) -> int:
    """How often a metric may be called in every epoch."""
    return CALLS if str(getattr(metric.function, "__module__", "")).startswith("pipeline.") else CALLS_OF_OTHERS


def quick_ascent(
    score: Score, start: Sequence[float], candidates: Sequence[np.ndarray], calls: int
) -> tuple[float, ...]:
    """`coordinate_ascent` in one round that calls `score` about so many times, with fewer candidates; where that leaves
    too few, thresholds that start as the same number stay the same."""

    def few(tried: np.ndarray, most: int) -> np.ndarray:  # evenly from the first to the last
        return tried[np.linspace(0, len(tried) - 1, most).round().astype(int)] if len(tried) > most else tried

    count = len(start)
    if calls // count >= FEWEST or len(set(start)) > 1:
        most = min(max(calls // count, 2), MOST)
        return coordinate_ascent(score, start, [few(tried, most) for tried in candidates], rounds=1)
    shared = few(np.unique(np.concatenate(list(candidates))), min(calls, MOST))
    return coordinate_ascent(lambda one: score(one * count), start[:1], [shared], rounds=1) * count


def as_rank(score: float) -> float:
    """What scores are compared by: NaN is worse than any number."""
    return -np.inf if np.isnan(score) else score
