"""The truth of rows: which identity they show."""

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

NO_CLASS = -1  # of a row that is labelled as unknown


def alone_column(target: str) -> str:
    """The column of rows, of bool, that says whether no other row, or none outside its group, shows its identity."""
    return f"{target}:alone"


def apart_column(target: str) -> str:
    """The column that rows have where folds hold out whole identities."""
    return f"{target}:apart"


def targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """Class numbers int64 (N,), and -1 for the rows that are labelled as unknown, or not at all.

    Raises:
        UserError: a label that is no class; the rows are named by id.
    """
    numbers = pd.Index(head.classes).get_indexer(pd.Index(rows[head.name])).astype(np.int64)
    labels = rows[head.name]
    wrong = rows[(numbers < 0) & (labels.notna() & ((labels != head.unknown) | (not head.unknown))).to_numpy(bool)]
    if len(wrong):
        label = str(wrong[head.name].iloc[0])
        raise UserError(
            f"column '{head.name}': {len(wrong)} rows (id {listed(wrong[ROW_ID])}) have the label '{label}', which is "
            f"not in folds/classes.json; {nearest(label, head.classes)}"
        )
    return numbers


def truth(rows: pd.DataFrame, head: Head) -> pd.Series:
    """The label that is right for held-out rows.

    An identity that stands alone is in no other fold, so training cannot know it: the right answer is that for the
    unknown, where there is one. Without such an answer the row counts as a miss.
    """
    labels: pd.Series = rows[head.name]
    alone = alone_column(head.name)
    if not head.unknown or alone not in rows:
        return labels
    return labels.mask(rows[alone].astype(bool), head.unknown)
