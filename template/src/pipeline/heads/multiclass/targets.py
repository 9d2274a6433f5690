"""The truth of rows: a class number, or a probability for each class where rows bring them."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.competition import Head
from pipeline.heads.predictions import probability_columns
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

TOLERANCE = 1e-3  # how far from 1 the probabilities of a row may sum


def targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """The truth of each row for `head`.

    Returns:
        Class numbers int64 (N,), -1 where a cell is empty. If the rows have the columns of its predictions
        (`label:cat`, ...), float32 (N, classes): the probabilities of the rows where all are filled, which need no
        label then; 0 and 1 for the others, or NaN.

    Raises:
        UserError: a label that is no class, or probabilities that are none; the rows are named by id.
    """
    soft = probabilities(rows, head)
    given = np.zeros(len(rows), bool) if soft is None else ~np.isnan(soft).any(axis=1)
    numbers = pd.Index(head.classes).get_indexer(pd.Index(rows[head.name]))
    empty = rows[head.name].isna().to_numpy(bool)
    unknown = rows[(numbers < 0) & ~given & ~empty]
    if len(unknown):
        label = str(unknown[head.name].iloc[0])
        raise UserError(
            f"column '{head.name}': {len(unknown)} rows (id {listed(unknown[ROW_ID])}) have the label "
            f"'{label}', which is not in folds/classes.json; {nearest(label, head.classes)}"
        )
    if soft is None:
        return numbers.astype(np.int64)
    hard = np.where(empty[:, None], np.nan, np.eye(len(head.classes))[numbers])
    return np.where(given[:, None], soft, hard).astype(np.float32)


def probabilities(rows: pd.DataFrame, head: Head) -> np.ndarray | None:
    """What the rows say of each class, float64 (N, classes), each row summing to 1 or empty (NaN) altogether; none
    where the table has no such columns.

    Raises:
        UserError: some of the columns are missing, or a row is filled in part, negative, or does not sum to 1.
    """
    columns = probability_columns(head)
    missing = [column for column in columns if column not in rows]
    if len(missing) == len(columns):
        return None
    if missing:
        raise UserError(f"the rows have probabilities of '{head.name}', and no column {listed(missing)}; add it")
    try:
        values = rows[columns].apply(pd.to_numeric).to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise UserError(f"the columns '{head.name}:...' hold what is no number ({error}); mend tables.py") from error
    empty = np.isnan(values)
    total = np.where(empty, 0, values).sum(axis=1)
    filled = ~empty.any(axis=1)
    for wrong, reason in (
        (empty.any(axis=1) & ~empty.all(axis=1), "are filled in part"),
        (filled & (values < 0).any(axis=1), "are negative"),
        (filled & ~(np.abs(total - 1) <= TOLERANCE), "do not sum to 1"),
    ):
        if wrong.any():
            ids = listed(rows.loc[wrong, ROW_ID])
            raise UserError(
                f"the probabilities '{head.name}:...' of {int(wrong.sum())} rows (id {ids}) {reason}; "
                "fill each row with what sums to 1, or leave it empty"
            )
    return values / np.where(filled, total, 1)[:, None]


def class_counts(rows: pd.DataFrame, head: Head) -> Tensor:
    """How many of the rows are of each class, float64 (classes,); probabilities count as parts of rows."""
    truth = targets(rows, head)
    if truth.ndim == 1:
        return torch.from_numpy(np.bincount(truth[truth >= 0], minlength=len(head.classes))).double()
    return torch.from_numpy(np.nansum(truth.astype(np.float64), axis=0))
