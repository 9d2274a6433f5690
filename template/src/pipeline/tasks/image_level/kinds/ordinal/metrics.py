"""The scores of class probabilities."""

from pipeline.tasks.image_level.kinds.multiclass.metrics import SCORES

__all__ = ["SCORES"]
