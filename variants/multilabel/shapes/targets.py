"""Which shapes a picture shows; their column lists them."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings
from pipeline.tasks.image_level.kinds.multilabel.labels import LabelSets


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "multilabel", tuple(classes["shape"])),)


def labels(settings: Settings) -> LabelSets:
    return LabelSets(settings.target_columns)
