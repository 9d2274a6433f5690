"""Metrics by name: the mean, over the heads of the kinds that know it, of what they score under it.

A metric reads the truth and the predictions, both indexed by id in the same order. A score that is not defined is NaN,
and a warning says why.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.base import KINDS
from pipeline.heads.columns import has_truth
from pipeline.registry import load
from toolkit.errors import UserError, nearest


def find_metric(name: str) -> Metric:
    """The metric of that name, or a `UserError` that names the nearest one."""
    if name not in METRICS:
        raise UserError(
            f"unknown metric '{name}' (metric in competition.yaml); {nearest(name, METRICS)} "
            "A metric of your own goes into src/competition/metric.py"
        )
    return METRICS[name]


def over_heads(name: str, scores: Mapping[str, Metric]) -> Metric:
    """The plain mean over the heads, each over the rows that have a truth for it; `scores` by kind of head."""

    def check_heads(heads: Sequence[Head]) -> None:
        if not any(head.kind in scores for head in heads):
            raise UserError(
                f"the metric '{name}' does not score heads like '{heads[0].name}' ({heads[0].kind}); "
                "choose another in competition.yaml, or write one in src/competition/metric.py"
            )
        for head in [head for head in heads if head.kind in scores]:
            scores[head.kind].check_heads([head])

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        check_heads(heads)
        values = []
        for head in [head for head in heads if head.kind in scores]:
            known = has_truth(truth, head)
            rows = (truth, predictions) if known.all() else (truth[known], predictions[known])
            values.append(scores[head.kind].function(*rows, [head]))
        return float(np.mean(values))

    one = next(iter(scores.values()))
    return Metric(name, function, one.greater_is_better, one.needs, check_heads, one.may_cut, one.top_k)


SCORES: dict[str, dict[str, Metric]] = {}  # name -> kind of head -> the score of one head
for _kind in KINDS:
    for _score in load(f"pipeline.metrics.{_kind}:SCORES", f"metrics of the kind '{_kind}'"):
        SCORES.setdefault(_score.name, {})[_kind] = _score
METRICS = {name: over_heads(name, scores) for name, scores in SCORES.items()}
