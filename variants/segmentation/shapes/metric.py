"""Dice."""

from pipeline.competition import Metric
from pipeline.settings import Settings
from pipeline.tasks.segmentation.metrics import find_metric


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return (find_metric(settings.metric),)
