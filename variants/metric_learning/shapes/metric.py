"""The metric of the answers counts, the others are watched."""

from pipeline.competition import Metric
from pipeline.settings import Settings
from pipeline.tasks.image_level.metrics import METRICS, find_metric


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return tuple(find_metric(name) for name in dict.fromkeys((settings.metric, *METRICS)))
