"""Tasks that say something about every pixel: masks of classes, which may overlap or not."""

# Imported when used: demo data need no torch.
TASK = "pipeline.tasks.segmentation.task:SegmentationTask"
DEMO = "pipeline.tasks.segmentation.demo:write_demo"
DEMO_TASK = "pipeline.tasks.segmentation.demo:TASK"
