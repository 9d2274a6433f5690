"""Tasks that say something about a whole image. They are heads on one encoder, not copies of each other."""

# Imported when used: demo data need no torch.
TASK = "pipeline.tasks.image_level.task:ImageLevelTask"
DEMO = "pipeline.tasks.image_level.demo:write_demo"
DEMO_TASK = "pipeline.tasks.image_level.questions:TASK"
