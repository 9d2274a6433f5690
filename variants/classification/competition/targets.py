"""What is predicted: one head per target column."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings
from toolkit.errors import UserError


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """A choice between the classes of each target column, in the order of `folds/classes.json`."""
    for column in settings.target_columns:
        if column not in classes:
            raise UserError(f"folds/classes.json has no classes for '{column}'; run scripts/make_folds.py")
    # "ordinal" in place of "multiclass", where classes are grades in order: learnt by CORN, all else stays the same.
    return tuple(Head(column, "multiclass", tuple(classes[column])) for column in settings.target_columns)
