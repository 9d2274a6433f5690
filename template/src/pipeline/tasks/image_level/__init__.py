"""Tasks that say something about a whole image. They are heads on one encoder, not copies of each other."""

from pipeline.tasks.image_level.task import ImageLevelTask

TASK = ImageLevelTask
