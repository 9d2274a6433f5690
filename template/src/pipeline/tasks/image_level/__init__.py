"""Tasks that say something about a whole image. They are heads on one encoder, not copies of each other."""

TASK = "pipeline.tasks.image_level.task:ImageLevelTask"  # imported when used: demo data need no torch
