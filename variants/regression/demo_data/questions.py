"""What the demo competition asks of the digits: numbers that are seen in the image and do not follow from the digit."""

import numpy as np
import pandas as pd

from demo_data.digits import digits
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

TASK = "regression"
GRADES = 5


def truth(settings: Settings) -> pd.DataFrame:
    """A column of text per target: numbers, or grades from 0 to 4 where the metric is about grades."""
    questions = measured(digits().images)
    values = {column: questions[i % len(questions)] for i, column in enumerate(settings.target_columns)}
    if find_metric(settings.metric).needs == "labels":
        return pd.DataFrame({name: pd.qcut(each, GRADES, labels=False).astype(str) for name, each in values.items()})
    return pd.DataFrame({name: [f"{value:.3f}" for value in each] for name, each in values.items()})


def measured(images: np.ndarray) -> list[np.ndarray]:
    """Ink in percent of the paper, slant in degrees, and how much longer than wide; (N,) each.

    Slant and length are those of the ellipse with the second moments of the ink (Hu, IRE Transactions on Information
    Theory 8, 1962).

    Args:
        images: (N, 8, 8), from 0 to 16.
    """
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    ink = images.sum(axis=(1, 2))

    def mean(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = (images * values).sum(axis=(1, 2)) / ink
        return found

    y, x = rows - mean(rows)[:, None, None], columns - mean(columns)[:, None, None]
    down, across, both = mean(y * y), mean(x * x), mean(x * y)
    half, root = (down + across) / 2, np.sqrt(((down - across) / 2) ** 2 + both**2)
    slant = np.degrees(np.arctan(-both / down))
    return [100 * ink / (16 * rows.size), slant, np.sqrt((half + root) / (half - root))]


def sample(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A constant prediction."""
    return pd.DataFrame(dict.fromkeys(settings.target_columns, "0"), index=answers.index)
