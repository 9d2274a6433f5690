"""One of several classes for each image."""

LOSSES = {
    "cross_entropy": "pipeline.losses.multiclass:CrossEntropy",
    "bce": "pipeline.losses.image_level:BinaryCrossEntropy",
    "focal": "pipeline.losses.multiclass:Focal",
    "asymmetric": "pipeline.losses.multiclass:Asymmetric",
}
