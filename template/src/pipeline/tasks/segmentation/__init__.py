"""Masks of images: planes that may overlap, or one class for each pixel."""

TASK = "pipeline.tasks.segmentation.task:SegmentationTask"
