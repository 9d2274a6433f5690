"""Dice."""

from pipeline.competition import Metric
from pipeline.metrics.masks import find_metric
from pipeline.settings import Settings


def metrics(settings: Settings) -> tuple[Metric, ...]:
    return (find_metric(settings.metric),)
