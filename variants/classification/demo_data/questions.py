"""What the demo competition asks of the digits: which one it is; then what else can be asked about it."""

import numpy as np
import pandas as pd

from demo_data.digits import digits
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

TASK = "classification"


def truth(settings: Settings) -> pd.DataFrame:
    """A column of text per target."""
    ink = pd.qcut(digits().images.sum(axis=(1, 2)), 3, labels=["light", "medium", "heavy"])
    questions = [
        digits().target.astype(str),
        np.where(digits().target % 2 == 0, "even", "odd"),
        np.asarray(ink.astype(str)),
        np.where(digits().target < 5, "low", "high"),
    ]
    return pd.DataFrame({column: questions[i % len(questions)] for i, column in enumerate(settings.target_columns)})


def sample(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A constant prediction: labels, or the probability of every class where the metric needs probabilities."""
    metric = find_metric(settings.metric)
    columns: dict[str, str | float] = {}
    for name in settings.target_columns:
        classes = sorted(answers[name].unique())
        if metric.needs == "labels" or metric.top_k > 1:
            columns[name] = classes[0]
        elif len(settings.target_columns) == 1:
            columns |= dict.fromkeys(classes, 1 / len(classes))
        else:
            columns |= {f"{name}_{label}": 1 / len(classes) for label in classes}
    return pd.DataFrame(columns, index=answers.index)
