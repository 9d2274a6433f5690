"""The name of the shape for each picture."""

from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.settings import Settings
from pipeline.tasks.image_level.submission import submission_table


def submission(
    settings: Settings, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric
) -> pd.DataFrame:
    return submission_table(sample, predictions, heads, metric, settings.id_column)
