"""How predictions of masks stand in a table: a map cell per class, and where a model says it, how likely a class is
to be in the image at all."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, nearest


def columns(head: Head) -> list[str]:
    """The columns of map cells, in class order."""
    return [f"{head.name}_{name}" for name in head.classes]


def presence_columns(head: Head) -> list[str]:
    """The columns that say how likely a class is in the image, in class order; see `has_presence`."""
    return [f"{column}@presence" for column in columns(head)]


def has_presence(predictions: pd.DataFrame, head: Head) -> bool:
    """Whether the table says how likely the classes of a head are in the image."""
    return all(column in predictions for column in presence_columns(head))


def gated(rows: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], gate: str) -> pd.DataFrame:
    """Predictions whose presence is what an earlier stage says, times what the model says of it where it does.

    Args:
        rows: with a column for each class, by id.
        gate: the name of that column, with `{class}` for the name of the class.

    Raises:
        UserError: the rows have no such column.
    """
    by_id = rows.set_index(ROW_ID)
    added = {}
    for head in heads:
        for name, column in zip(head.classes, presence_columns(head), strict=True):
            source = gate.replace("{class}", name)
            if source not in by_id:
                hint = nearest(source, map(str, by_id.columns))
                raise UserError(f"task.params.gate: no earlier stage predicts '{source}'; {hint}")
            said = by_id[source].reindex(predictions.index).astype(np.float32)
            added[column] = said * predictions[column] if column in predictions else said
    return predictions.assign(**added)


def require_columns(truth: pd.DataFrame | None, predictions: pd.DataFrame, head: Head) -> None:
    """Raise a `UserError` where a column of the head is missing, or both tables are not in the same order."""
    missing = [column for column in columns(head) if column not in predictions]
    if missing:
        raise UserError(
            f"the predictions have no column '{missing[0]}'; the classes changed, or the run was trained with "
            "`store: none`: train or predict again"
        )
    if truth is None:
        return
    if head.name not in truth:
        raise UserError(f"the truth has no column '{head.name}'; put it there in src/competition/tables.py")
    if not truth.index.equals(predictions.index):
        raise UserError(
            "truth and predictions do not hold the same ids in the same order; use predictions.loc[truth.index]"
        )
