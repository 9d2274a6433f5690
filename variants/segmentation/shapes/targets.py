"""What is predicted: the pixels of each shape."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import RunLengths
from pipeline.tasks.segmentation.labels import MaskLabels

CLASSES = ("disc", "bar")
TRUTH = RunLengths("rle", classes="class")


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "mask", CLASSES),)


def labels(settings: Settings) -> MaskLabels:
    return MaskLabels(settings.target_columns, CLASSES)
