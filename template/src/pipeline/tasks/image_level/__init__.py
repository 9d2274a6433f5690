"""Tasks that say something about a whole image. They are heads on one encoder, not copies of each other."""

# Imported when used: an argument error needs no torch.
TASK = "pipeline.tasks.image_level.task:ImageLevelTask"
