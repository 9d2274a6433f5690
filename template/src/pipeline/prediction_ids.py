"""Several images for one prediction: a row is an image, and what is scored and handed in has ids of its own."""

from collections.abc import Sequence

import pandas as pd

from pipeline.keys import ROW_GROUP, ROW_ID, ROW_PREDICTION, ROW_SOURCE, SOURCE_COMPETITION
from toolkit.errors import UserError, listed


def by_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """The first image of each prediction id, as its `id`, with its index; all rows where there are no such ids."""
    if ROW_PREDICTION not in rows:
        return rows
    first = rows.drop_duplicates(ROW_PREDICTION)
    return first.assign(**{ROW_ID: first[ROW_PREDICTION]}).drop(columns=ROW_PREDICTION)


def with_predictions(rows: pd.DataFrame, targets: Sequence[str] = ()) -> pd.DataFrame:
    """Rows whose prediction ids are whole: a row that only trains stands for itself, since nothing is predicted for it.

    Args:
        targets: columns that must agree between the images of one id. With them, the images of one id get a common
            `group` where the rows have no groups, so that they never lie in two folds.
    """
    if ROW_PREDICTION not in rows:
        return rows
    ids = rows[ROW_PREDICTION]
    is_scored = rows[ROW_SOURCE] == SOURCE_COMPETITION if ROW_SOURCE in rows else rows[ROW_ID].notna()
    empty = rows[ROW_ID][ids.isna() & is_scored]
    if len(empty):
        what = f"{len(empty)} rows (id {listed(empty)}) have an empty '{ROW_PREDICTION}'"
        raise UserError(f"{what}; fill it in tables.py")
    rows = rows.assign(**{ROW_PREDICTION: ids.where(is_scored, rows[ROW_ID])})
    for column in [name for name in (ROW_GROUP, *targets) if targets and name in rows]:
        scored = rows[is_scored]
        counts = scored.groupby(ROW_PREDICTION, sort=False)[column].nunique(dropna=False)
        torn = counts.index[counts > 1]
        if len(torn):
            values = scored[column][scored[ROW_PREDICTION] == torn[0]].astype(str).unique()
            what = f"the images of {len(torn)} prediction ids ({listed(torn)}) differ in '{column}'"
            remedy = "make them agree in src/competition/tables.py, or name another prediction_column"
            raise UserError(f"{what} ('{torn[0]}': {listed(values)}); {remedy}")
    return rows.assign(**{ROW_GROUP: ids.fillna(rows[ROW_ID])}) if targets and ROW_GROUP not in rows else rows
