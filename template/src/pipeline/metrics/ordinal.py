"""The scores of class probabilities."""

from pipeline.metrics.multiclass import SCORES as SCORES
