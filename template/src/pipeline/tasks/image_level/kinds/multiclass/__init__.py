"""One of several classes for each image."""

TASK = "classification"
LOSSES = frozenset({"cross_entropy", "bce", "focal", "asymmetric"})
