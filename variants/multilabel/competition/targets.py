"""What is predicted: which of several labels hold for an image."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.label_sets import LabelSets
from pipeline.settings import Settings
from toolkit.errors import UserError

# What divides the labels of a column that lists them: "|", ";", ",", " ". "": what its cells show, which check_data.py
# tells. A submission is written as the cells of the sample show it.
SEPARATOR = ""


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One head. Several target columns are a label each, with 0 or 1 in their cells; a single one lists labels."""
    columns = settings.target_columns
    if len(columns) > 1:
        return (Head("labels", "multilabel", columns),)
    if columns[0] not in classes:
        raise UserError(f"folds/classes.json has no classes for '{columns[0]}'; run scripts/make_folds.py")
    return (Head(columns[0], "multilabel", tuple(classes[columns[0]]), separator=SEPARATOR),)


def labels(settings: Settings) -> LabelSets:
    """How the target columns are read; folds have each label equally often."""
    return LabelSets(settings.target_columns, SEPARATOR)
