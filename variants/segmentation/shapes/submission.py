"""A row for each picture and shape."""

from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.settings import Settings
from pipeline.tasks.segmentation.submission import Written, submission_table


def submission(
    settings: Settings, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric
) -> pd.DataFrame:
    return submission_table(sample, predictions, heads, settings.id_column, Written())
