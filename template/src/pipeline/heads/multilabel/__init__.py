"""Several labels for each image, or none. Each is a question of its own."""

LOSSES = {"bce": "pipeline.losses.image_level:BinaryCrossEntropy"}
