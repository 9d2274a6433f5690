"""The name of the shape for each picture."""

from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.submission_columns import submission_table
from pipeline.settings import Settings


def submission(
    settings: Settings, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric
) -> pd.DataFrame:
    return submission_table(sample, predictions, heads, metric, settings.id_column)
