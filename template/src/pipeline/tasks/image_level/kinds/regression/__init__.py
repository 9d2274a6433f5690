"""A number for each image, or a grade that a number becomes at cut points."""

LOSSES = {
    "mse": "pipeline.tasks.image_level.kinds.regression.losses:SquaredError",
    "mae": "pipeline.tasks.image_level.kinds.regression.losses:AbsoluteError",
    "huber": "pipeline.tasks.image_level.kinds.regression.losses:Huber",
    "smooth_l1": "pipeline.tasks.image_level.kinds.regression.losses:SmoothL1",
}
