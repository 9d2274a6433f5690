"""The metric of the answers counts, the error is watched."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return find_metric(settings.metric), find_metric("rmse")
