"""From predictions to the table that Kaggle scores."""

from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.submission_columns import submission_table
from pipeline.settings import Settings


def submission(
    settings: Settings, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric
) -> pd.DataFrame:
    """The sample's columns, one row per row of `predictions` (in any order: rows are aligned by id afterwards).

    `sample` is all text; `predictions` is indexed by id and holds probabilities in columns `head:class`, or numbers in
    columns `head`. The usual samples (a column per class, or one column per head) are recognised by their columns; for
    any other one, build the DataFrame here.
    """
    return submission_table(sample, predictions, heads, metric, settings.id_column)
