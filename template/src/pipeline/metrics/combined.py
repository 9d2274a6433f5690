"""A metric that combines heads, each with a score and a weight of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.metrics.image_level import find_metric
from toolkit.errors import UserError, nearest


def combined(name: str, parts: Mapping[str, tuple[str, float]]) -> Metric:
    """A metric that combines heads: name of a head -> name of its metric, and its weight in the mean.

    Raises:
        UserError: an unknown metric, some that want to be large and others small, or weights that are none.
    """
    metrics, weights = [find_metric(metric) for metric, _ in parts.values()], [weight for _, weight in parts.values()]
    if len({metric.greater_is_better for metric in metrics}) != 1 or min(weights) < 0 or not any(weights):
        raise UserError(
            f"the metric '{name}' combines metrics of which some are better when larger, others when smaller, or with "
            "weights that are below 0 or all 0"
        )

    def of_heads(heads: Sequence[Head]) -> list[list[Head]]:
        known = {head.name: [head] for head in heads}
        for head in parts:
            if head not in known:
                raise UserError(f"the metric '{name}' scores the head '{head}'; {nearest(head, known)}")
        return [known[head] for head in parts]

    def check_heads(heads: Sequence[Head]) -> None:
        for metric, own in zip(metrics, of_heads(heads), strict=True):
            metric.check_heads(own)

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
        check_heads(heads)
        pairs = zip(metrics, of_heads(heads), strict=True)
        return float(np.average([metric.function(truth, predictions, own) for metric, own in pairs], weights=weights))

    first = max(metrics, key=lambda metric: metric.needs == "labels")
    may_cut = any(metric.may_cut for metric in metrics)
    return Metric(name, function, first.greater_is_better, first.needs, check_heads, may_cut)
