"""What is predicted: a number for each target column."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.numbers import NumberLabels
from pipeline.settings import Settings


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One head per column. With a metric of grades its classes are the grades, and a number becomes the nearest one."""
    # limits=(0, 100) keeps predictions inside, and check_data.py refuses a truth outside; decimals=0 rounds what is
    # submitted.
    return tuple(Head(column, "regression", tuple(classes.get(column, ()))) for column in settings.target_columns)


def labels(settings: Settings) -> NumberLabels:
    """How the target columns are read; each fold has small and large numbers equally often."""
    return NumberLabels(settings.target_columns, graded=settings.metric == "quadratic_weighted_kappa")
