"""What is predicted: where the pixels of each class are."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import MaskFiles, RunLengths  # noqa: F401
from pipeline.tasks.segmentation.labels import MaskLabels
from pipeline.tasks.segmentation.outlines import Polygons  # noqa: F401

# In the order of the model's planes, without the background.
CLASSES = ("light", "dark")

# `mask`: planes that may overlap; `multiclass_mask`: every pixel is background or of one class.
KIND = "mask"

# How the competition gives masks; the columns are those of train.csv.
TRUTH = RunLengths("rle", classes="class")  # a row per image and class
# TRUTH = RunLengths("EncodedPixels")  # one class: a row per image, or per object
# TRUTH = RunLengths("EncodedPixels", mark="_")  # ids such as 0002cc93b.jpg_1
# TRUTH = RunLengths("rle_{class}", order="row", first=0)  # a column for each class
# TRUTH = MaskFiles("train_masks/{image_id}.png", values={1: "light", 2: "dark"}, ignored=[255])
# TRUTH = MaskFiles("train_masks/{image_id}.png", values={(255, 255, 255): "light", (255, 0, 0): "dark"})
# TRUTH = MaskFiles("train_masks/{image_id}_{class}.tif")
# TRUTH = Polygons("annotations.json")  # COCO, or lists of {class, points} by image id


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One head with all classes."""
    return (Head(settings.target_columns[0], KIND, CLASSES),)


def labels(settings: Settings) -> MaskLabels:
    """How masks are divided into folds: each set of classes, the empty one too, is equally frequent in every fold."""
    return MaskLabels(settings.target_columns[:1], CLASSES)
