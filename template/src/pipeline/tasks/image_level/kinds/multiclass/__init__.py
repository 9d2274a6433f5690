"""One of several classes for each image."""

LOSSES = {
    "cross_entropy": "pipeline.tasks.image_level.kinds.multiclass.losses:CrossEntropy",
    "bce": "pipeline.tasks.image_level.losses:BinaryCrossEntropy",
    "focal": "pipeline.tasks.image_level.kinds.multiclass.losses:Focal",
    "asymmetric": "pipeline.tasks.image_level.kinds.multiclass.losses:Asymmetric",
}
