"""What is predicted: where the pixels of each class are."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import RunLengths
from pipeline.tasks.segmentation.labels import MaskLabels

# In the order of the model's planes, without the background.
CLASSES = ("large_bowel", "small_bowel", "stomach")

# `mask`: planes that may overlap; `multiclass_mask`: every pixel is background or of one class.
KIND = "mask"

# How the competition gives masks; the columns are those of train.csv.
TRUTH = RunLengths("segmentation", classes="class", order="row")


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One head with all classes."""
    return (Head(settings.target_columns[0], KIND, CLASSES),)


def labels(settings: Settings) -> MaskLabels:
    """How masks are divided into folds: each set of classes, the empty one too, is equally frequent in every fold."""
    return MaskLabels(settings.target_columns[:1], CLASSES)
