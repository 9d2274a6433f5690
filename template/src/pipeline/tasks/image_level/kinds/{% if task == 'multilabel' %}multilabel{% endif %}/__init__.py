"""Several labels for each image, or none. Each is a question of its own."""

TASK = "multilabel"
LOSSES = {"bce": "pipeline.tasks.image_level.losses:BinaryCrossEntropy"}
