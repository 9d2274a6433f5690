"""One head: the number of the shape, taken for a grade."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.numbers import NumberLabels
from pipeline.settings import Settings


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    return (Head("shape", "regression", tuple(classes["shape"]), limits=(0, 2)),)


def labels(settings: Settings) -> NumberLabels:
    return NumberLabels(settings.target_columns, graded=True)
