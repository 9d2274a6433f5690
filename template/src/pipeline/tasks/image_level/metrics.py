"""Metrics by name: the mean over the heads of what their kinds score under it.

A metric reads the truth and the predictions, both indexed by id in the same order. A score that is not defined is NaN,
and a warning says why; it is never a number that looks like a score.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.errors import UserError, nearest
from pipeline.tasks.image_level.kinds import KINDS, part
from pipeline.tasks.image_level.scoring import Score


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UserError: there is none; the nearest one is named.
    """
    if name not in METRICS:
        raise UserError(
            f"unknown metric '{name}' (metric in competition.yaml); {nearest(name, METRICS)} "
            "A metric of your own goes into src/competition/metric.py"
        )
    return METRICS[name]


def _mean_over_heads(name: str, scores: Mapping[str, Score]) -> Metric:
    """The plain mean; `scores` by kind of head."""

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        for head in heads:
            if head.kind not in scores:
                raise UserError(
                    f"the metric '{name}' does not score heads like '{head.name}' ({head.kind}); "
                    "choose another in competition.yaml, or write one in src/competition/metric.py"
                )
        return float(np.mean([scores[head.kind].function(truth, predictions, head) for head in heads]))

    one = next(iter(scores.values()))
    return Metric(name, function, one.greater_is_better, one.needs)


def _metrics() -> dict[str, Metric]:
    found: dict[str, dict[str, Score]] = {}
    for kind in KINDS:
        for score in part(kind, "metrics").SCORES:
            found.setdefault(score.name, {})[kind] = score
    return {name: _mean_over_heads(name, scores) for name, scores in found.items()}


METRICS = _metrics()
