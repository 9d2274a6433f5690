"""What is predicted: a head for each target column, of whatever kind it is. An empty cell is no answer: such a row
trains and scores the other heads."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.data.labels import ClassLabels, Labels
from pipeline.heads.label_sets import LabelSets
from pipeline.heads.numbers import NumberLabels
from pipeline.settings import Settings
from pipeline.tasks.image_level.mixed_labels import MixedLabels
from toolkit.errors import UserError

# What a column holds: `multiclass` (one class of several), `ordinal` (grades in order), `multilabel` (a list of labels)
# or `regression` (a number). One that is not named here is multiclass.
KINDS = {"ink": "regression"}
LABELS = {"multilabel": LabelSets, "regression": NumberLabels}  # how it is read; a class otherwise


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One per column, in the order of competition.yaml; their classes are those of `folds/classes.json`."""
    found = []
    for column in settings.target_columns:
        kind = KINDS.get(column, "multiclass")
        if kind != "regression" and column not in classes:
            raise UserError(f"folds/classes.json has no classes for '{column}'; run scripts/make_folds.py")
        found.append(Head(column, kind, tuple(classes.get(column, ()))))
    return tuple(found)


def labels(settings: Settings) -> MixedLabels:
    """How the target columns are read; each fold has every class, label and size of numbers equally often."""
    parts: list[Labels] = []
    for column in settings.target_columns:
        parts.append(LABELS.get(KINDS.get(column, "multiclass"), ClassLabels)((column,)))
    return MixedLabels(parts)
