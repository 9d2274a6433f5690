"""A number for each image, or a grade that a number becomes at cut points."""

LOSSES = {
    "mse": "pipeline.losses.regression:mse",
    "mae": "pipeline.losses.regression:mae",
    "huber": "pipeline.losses.regression:huber",
    "smooth_l1": "pipeline.losses.regression:smooth_l1",
}
