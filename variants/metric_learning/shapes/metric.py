"""The metric of the answers counts, the others are watched."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import METRICS, find_metric
from pipeline.settings import Settings


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return tuple(find_metric(name) for name in dict.fromkeys((settings.metric, *METRICS)))
