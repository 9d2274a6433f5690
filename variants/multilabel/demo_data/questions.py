"""What the demo competition asks of the digits: what is true of the number, of which only the image is seen."""

import numpy as np
import pandas as pd

from demo_data.digits import digits
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

TASK = "multilabel"
QUESTIONS = {"even": {0, 2, 4, 6, 8}, "prime": {2, 3, 5, 7}, "loop": {0, 6, 8, 9}, "large": {5, 6, 7, 8, 9}}


def truth(settings: Settings) -> pd.DataFrame:
    """Columns of text: 0 or 1 for each question, or the names of those that are answered by yes in a single column."""
    asked = [np.isin(digits().target, list(numbers)) for numbers in QUESTIONS.values()]
    if len(settings.target_columns) == 1:
        lists = [
            " ".join(name for name, holds in zip(QUESTIONS, row, strict=True) if holds)
            for row in zip(*asked, strict=True)
        ]
        return pd.DataFrame({settings.target_columns[0]: lists})
    columns = enumerate(settings.target_columns)
    return pd.DataFrame({column: asked[i % len(asked)].astype(int).astype(str) for i, column in columns})


def sample(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A constant prediction: one label in a single column; 0, or 1 / 2 where the metric needs probabilities, else."""
    if len(settings.target_columns) == 1:
        value: str | float = next(iter(QUESTIONS))
    else:
        value = "0" if find_metric(settings.metric).needs == "labels" else 0.5
    return pd.DataFrame(dict.fromkeys(settings.target_columns, value), index=answers.index)
