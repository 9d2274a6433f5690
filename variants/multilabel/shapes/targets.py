"""Which shapes a picture shows; their column lists them."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.label_sets import LabelSets
from pipeline.settings import Settings


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "multilabel", tuple(classes["shape"])),)


def labels(settings: Settings) -> LabelSets:
    return LabelSets(settings.target_columns)
