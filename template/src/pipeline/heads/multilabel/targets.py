"""The truth of rows: for each label whether it holds.

Rows have one column per label (0 or 1), or one column, named like the head, that lists the labels that hold; an empty
cell lists none. What divides them, see `lists`.
"""

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.multilabel.lists import read_list
from pipeline.heads.predictions import probability_columns
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

NUMBERS = {"true": "1", "false": "0", "yes": "1", "no": "0"}


def targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """Float32 (N, labels), from 0 to 1; NaN where the cell of a label is empty.

    If the rows have the columns of the head's predictions (`labels:cat`, ...), those are the truth of the rows where
    all are filled, which need no other then.

    Raises:
        UserError: a cell that is no number from 0 to 1, or an unknown label in a list; the rows are named by id.
    """
    soft = probability_columns(head)
    if not set(soft) <= set(rows.columns):
        return hard_targets(rows, head)
    given = rows[soft].notna().all(axis=1)
    found = np.empty((len(rows), len(soft)), np.float32)
    found[given.to_numpy()] = numbers(rows[given], soft)
    found[~given.to_numpy()] = hard_targets(rows[~given], head)
    return found


def hard_targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """The same, from the label columns or the lists alone."""
    if set(head.classes) <= set(rows.columns):
        return numbers(rows, head.classes)
    known = set(head.classes)
    words = rows[head.name].fillna("").astype(str).map(lambda cell: read_list(cell, known, head.separator))
    unknown = rows[ROW_ID][words.map(lambda found: not set(found) <= set(head.classes))]
    if len(unknown):
        label = next(word for word in words.loc[unknown.index[0]] if word not in head.classes)
        raise UserError(
            f"column '{head.name}': {len(unknown)} rows (id {listed(unknown)}) have labels that are not in "
            f"folds/classes.json, such as '{label}'; {nearest(label, head.classes)}"
        )
    return np.array([[name in found for name in head.classes] for found in words], np.float32).reshape(
        len(rows), len(head.classes)
    )


def numbers(rows: pd.DataFrame, columns: list[str] | tuple[str, ...]) -> np.ndarray:
    """The cells of some columns, float32 (N, columns), each from 0 to 1, or NaN where it is empty."""
    found = np.empty((len(rows), len(columns)), np.float32)
    for place, column in enumerate(columns):
        cells = rows[column].astype(str).str.strip().str.lower().replace(NUMBERS)
        values = pd.to_numeric(cells, errors="coerce")
        wrong = ~values.between(0, 1) & rows[column].notna()
        if wrong.any():
            cell = str(rows.loc[wrong, column].iloc[0])
            raise UserError(
                f"column '{column}': {int(wrong.sum())} rows (id {listed(rows.loc[wrong, ROW_ID])}) hold '{cell}', and "
                "0 or 1 is expected; correct it in src/competition/tables.py"
            )
        found[:, place] = values
    return found
