"""One head: the shape."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "multiclass", tuple(classes["shape"])),)
