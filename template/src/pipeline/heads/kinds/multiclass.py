"""One of several classes: a logit for each, of which one is true; rows may say how probable each is instead."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.competition import Head, Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.class_probabilities import ClassProbabilities
from pipeline.heads.columns import class_numbers, probability_columns
from pipeline.heads.many_classes import MANY, BestClasses
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed

TOLERANCE = 1e-3  # how far from 1 the probabilities of a row may sum


class Multiclass(HeadKind):
    """The truth is a class number int64 (B,), or a probability of each class float32 (B, classes)."""

    losses: ClassVar[Mapping[str, str]] = {
        "cross_entropy": "pipeline.losses.multiclass:CrossEntropy",
        "bce": "pipeline.losses.image_level:BinaryCrossEntropy",
        "focal": "pipeline.losses.multiclass:Focal",
        "asymmetric": "pipeline.losses.multiclass:Asymmetric",
    }
    column_type = ClassProbabilities
    logits = "softmax"

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        if len(head.classes) > MANY:
            self.columns = BestClasses(head)

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """Class numbers int64 (N,), -1 where a cell is empty. If the rows have the columns of its predictions
        (`label:cat`, ...), float32 (N, classes): the probabilities of the rows where all are filled, which need no
        label then; 0 and 1 for the others, or NaN."""
        soft = probabilities(rows, self.head)
        if soft is None:
            return class_numbers(rows, self.head)
        given = ~np.isnan(soft).any(axis=1)
        numbers = class_numbers(rows, self.head, given)
        hard = np.where(numbers[:, None] < 0, np.nan, np.eye(len(self.head.classes))[numbers])
        return np.where(given[:, None], soft, hard).astype(np.float32)

    def target_forms(self) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return (torch.int64, ()), (torch.float32, (len(self.head.classes),))

    def class_counts(self, rows: pd.DataFrame) -> Tensor:
        """Float64 (classes,); probabilities count as parts of rows."""
        truth = self.targets(rows)
        if truth.ndim == 1:
            return torch.from_numpy(np.bincount(truth[truth >= 0], minlength=len(self.head.classes))).double()
        return torch.from_numpy(np.nansum(truth.astype(np.float64), axis=0))

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The label; where rows say how probable each class is, that as well, in the columns of the predictions."""
        labels, soft = rows[[self.head.name]], probabilities(rows, self.head)
        if soft is None:
            return labels
        return labels.join(pd.DataFrame(soft, index=rows.index, columns=probability_columns(self.head)))

    def decode(self, logits: Tensor) -> np.ndarray:
        return np.asarray(torch.softmax(logits.double(), dim=1).float())

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The share of each class, whose largest is the most frequent one; for pF1 of two classes the second one, since
        that score grows with a constant probability."""
        if metric.name == "probabilistic_f1" and len(self.head.classes) == 2:
            return np.array([0, 1], np.float32)
        counts = self.class_counts(rows)
        return np.asarray((counts / counts.sum()).float())


def probabilities(rows: pd.DataFrame, head: Head) -> np.ndarray | None:
    """What the rows say of each class, float64 (N, classes), each row summing to 1 or empty (NaN) altogether; none
    where the table has no such columns, and a `UserError` where it has some of them, or rows that are neither."""
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
    empty, total = np.isnan(values).all(axis=1), values.sum(axis=1)
    wrong = ~empty & ~((np.abs(total - 1) <= TOLERANCE) & (values >= 0).all(axis=1))
    if wrong.any():
        ids = listed(rows.loc[wrong, ROW_ID])
        raise UserError(
            f"the probabilities '{head.name}:...' of {int(wrong.sum())} rows (id {ids}) are filled in part, negative, "
            "or do not sum to 1; fill each row with what sums to 1, or leave it empty"
        )
    return values / total[:, None]


HEAD = Multiclass
