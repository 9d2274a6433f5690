"""Which shape a picture shows, by its likeness to others."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.identities import Identities
from pipeline.settings import Settings


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "embedding", tuple(classes["shape"])),)


def labels(settings: Settings) -> Identities:
    return Identities(settings.target_columns)
