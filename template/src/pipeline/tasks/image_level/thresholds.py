"""Where a probability or a number becomes a decision: the thresholds that score best on given rows."""

from collections.abc import Callable, Sequence

import numpy as np

TRIED = 50  # values of each threshold on a grid, and as many again at quantiles of the predictions
ROUNDS = 2


def values_to_try(predictions: np.ndarray) -> np.ndarray:
    """Thresholds worth trying for predictions (N,): an even grid over their range, and their quantiles; ascending."""
    inside = np.linspace(0, 1, TRIED + 2)[1:-1]
    grid = predictions.min() + inside * np.ptp(predictions)
    return np.unique(np.concatenate([grid, np.quantile(predictions, inside)]))


def coordinate_ascent(
    score: Callable[[tuple[float, ...]], float],
    start: Sequence[float],
    candidates: Sequence[np.ndarray],
    rounds: int = ROUNDS,
) -> tuple[float, ...]:
    """Thresholds, one changed at a time, that `score` finds best.

    Args:
        score: greater is better; NaN is worse than any number.
        start: where nothing is better, these stay.
        candidates: values to try, an array for each threshold. Of those that score the same, the middle one is taken:
            it is the furthest from where the score falls.
    """
    best = tuple(float(value) for value in start)
    reached = _rank(score(best))
    for _ in range(rounds):
        before = best
        for place, tried in enumerate(candidates):
            options = [(*best[:place], float(value), *best[place + 1 :]) for value in tried]
            scores = np.array([_rank(score(option)) for option in options])
            if len(scores) and scores.max() > reached:
                equal = np.flatnonzero(scores == scores.max())
                best, reached = options[equal[len(equal) // 2]], float(scores.max())
        if best == before:
            break
    return best


def _rank(score: float) -> float:
    return -np.inf if np.isnan(score) else score
