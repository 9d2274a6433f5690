"""Tasks that say for every pixel what it belongs to."""

# Imported when used: demo data need no torch.
TASK = "pipeline.tasks.segmentation.task:SegmentationTask"
DEMO = "pipeline.tasks.segmentation.demo:write_demo"
DEMO_TASK = "pipeline.tasks.segmentation.demo:TASK"
