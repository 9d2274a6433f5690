"""What the demo competition asks of the digits: which one it is, whether it has a loop, and how much ink there is.

Who looked at the digits did not answer the second question for all of them.
"""

import numpy as np
import pandas as pd

from demo_data.digits import digits
from pipeline.settings import Settings

TASK = "multitask"
LOOPS = (0, 6, 8, 9)
UNANSWERED = 0.2


def truth(settings: Settings) -> pd.DataFrame:
    """A column of text per target; an empty cell is no answer."""
    loop = np.where(np.isin(digits().target, LOOPS), "yes", "no").astype(object)
    loop[np.random.default_rng(0).random(len(loop)) < UNANSWERED] = ""
    ink = digits().images.mean(axis=(1, 2)) * 100 / 16  # percent of the paper
    questions = [digits().target.astype(str), loop, [f"{value:.3f}" for value in ink]]
    return pd.DataFrame({column: questions[i % len(questions)] for i, column in enumerate(settings.target_columns)})


def sample(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A constant prediction."""
    first = {column: next(value for value in sorted(answers[column]) if value) for column in settings.target_columns}
    return pd.DataFrame(first, index=answers.index)
