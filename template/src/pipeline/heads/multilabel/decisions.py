"""How probabilities of labels become decisions."""

import numpy as np

from pipeline.competition import Head

USUAL = 0.5


def thresholds(head: Head) -> np.ndarray:
    """Float64 (labels,): a label of at least this probability holds."""
    return np.array(head.thresholds) if head.thresholds else np.full(len(head.classes), USUAL)


def decided(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """Which labels hold, bool (N, labels), given their probabilities."""
    held: np.ndarray = probabilities >= thresholds(head)
    return held
