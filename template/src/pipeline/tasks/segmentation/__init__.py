"""Tasks that say something about every pixel: masks of classes, which may overlap or not."""

# Imported when used: an argument error needs no torch.
TASK = "pipeline.tasks.segmentation.task:SegmentationTask"
