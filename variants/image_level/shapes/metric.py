"""The metric of the answers counts, the log loss is watched."""

from pipeline.competition import Metric
from pipeline.settings import Settings
from pipeline.tasks.image_level.metrics import find_metric


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return find_metric(settings.metric), find_metric("log_loss")
