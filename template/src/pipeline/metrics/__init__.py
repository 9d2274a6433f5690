"""Scores of whole tables."""

import warnings

from sklearn.exceptions import UndefinedMetricWarning

from pipeline.competition import Head


def undefined(head: Head, reason: str) -> float:
    """NaN, and a warning that says why: never a number that looks like a score."""
    warnings.warn(f"head '{head.name}': {reason}; the score is NaN", UndefinedMetricWarning, stacklevel=2)
    return float("nan")
