"""A number for each image, or a grade that a number becomes at cut points."""

LOSSES = {
    "mse": "pipeline.losses.regression:SquaredError",
    "mae": "pipeline.losses.regression:AbsoluteError",
    "huber": "pipeline.losses.regression:Huber",
    "smooth_l1": "pipeline.losses.regression:SmoothL1",
}
