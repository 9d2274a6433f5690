"""Prediction, out-of-fold tables and weights. Nothing here needs the training framework or a tracker."""
