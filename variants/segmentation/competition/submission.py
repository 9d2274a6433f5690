"""From masks to the table that Kaggle scores."""

from collections.abc import Sequence

import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.settings import Settings
from pipeline.tasks.segmentation.submission import Written, submission_table

# How RLE is wanted; `size=(256, 1600)` where it is not the image's, `objects=True` for a row for each object.
FORM = Written(order="column", first=1)


def submission(
    settings: Settings, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], metric: Metric
) -> pd.DataFrame:
    """The sample's columns, in any order of rows: they are aligned by their ids, and classes, afterwards.

    `sample` is all text; `predictions` is indexed by id, and `pipeline.heads.mask_decoding.decoded` gives the
    masks that are decided. The usual samples are recognised; for any other one, build the DataFrame here.
    """
    return submission_table(sample, predictions, heads, settings.id_column, FORM)
