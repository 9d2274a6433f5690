"""A head of this kind: logits of its classes, of which one is true."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.competition import Metric
from pipeline.heads.base import Aggregate, HeadKind
from pipeline.heads.cells import most_listed
from pipeline.heads.label_errors import suspect_table
from pipeline.heads.multiclass import submission
from pipeline.heads.multiclass.predictions import decided, decided_labels
from pipeline.heads.multiclass.suspects import doubted_classes
from pipeline.heads.multiclass.targets import class_counts, probabilities, targets
from pipeline.heads.predictions import probability_columns
from pipeline.heads.submission_columns import Column
from pipeline.heads.thresholds import values_to_try
from pipeline.keys import ROW_ID
from pipeline.registry import Named
from pipeline.submission_schema import Problem


class Multiclass(HeadKind):
    """The truth is a class number int64 (B,), or a probability of each class float32 (B, classes)."""

    submission: ClassVar[Any] = submission

    @property
    def width(self) -> int:
        return len(self.head.classes)

    @property
    def columns(self) -> list[str]:
        return probability_columns(self.head)

    @property
    def default_loss(self) -> Named:
        return Named(name="cross_entropy")

    @property
    def unknown(self) -> float:
        return 1 / len(self.head.classes)

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return targets(rows, self.head)

    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return (torch.int64, (size,)), (torch.float32, (size, len(self.head.classes)))

    def class_counts(self, rows: pd.DataFrame) -> Tensor:
        return class_counts(rows, self.head)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The label; where rows say how probable each class is, that as well, in the columns of the predictions."""
        soft = probabilities(rows.rename_axis(None).assign(**{ROW_ID: rows.index}), self.head)
        labels = rows[[self.head.name]]
        return labels if soft is None else labels.join(pd.DataFrame(soft, index=rows.index, columns=self.columns))

    def decode(self, logits: Tensor) -> np.ndarray:
        shares: np.ndarray = torch.softmax(logits.double(), dim=1).float().numpy()
        return shares

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        """Probabilities that sum to 1. Of two classes, the second one's counts: it is what a metric asks for."""
        found = super().aggregate(predictions, ids, function)
        values = found.to_numpy(np.float64)
        if len(self.head.classes) == 2:
            values = np.column_stack([1 - values[:, 1], values[:, 1]])
        else:
            sums = values.sum(axis=1, keepdims=True)
            values = np.divide(values, sums, out=np.full_like(values, self.unknown), where=sums != 0)
        return pd.DataFrame(values.astype(np.float32), index=found.index, columns=found.columns)

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The share of each class, whose largest is the most frequent one; for pF1 of two classes the second one, since
        that score grows with a constant probability."""
        if metric.name == "probabilistic_f1" and len(self.head.classes) == 2:
            return np.array([0, 1], np.float32)
        counts = self.class_counts(rows)
        shares: np.ndarray = (counts / counts.sum()).float().numpy()
        return shares

    @property
    def usual_thresholds(self) -> tuple[float, ...]:
        """Of two classes, the second one's probability decides."""
        return (0.5,) if len(self.head.classes) == 2 else ()

    def candidates(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [values_to_try(predictions[column].to_numpy(np.float64)) for column in self.columns[1:]]

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        from pipeline.heads.multiclass.drawing import multiclass_figures

        return multiclass_figures(truth[self.head.name].to_numpy(), predictions[self.columns].to_numpy(), self.head)

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        labels = truth[self.head.name].to_numpy()
        pairs = zip(self.head.classes, self.columns, strict=True)
        return {name: (labels == name, predictions[column].to_numpy()) for name, column in pairs}

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = predictions[self.columns].to_numpy(np.float64)
        sure = np.take_along_axis(given, decided(given, self.head)[:, None], axis=1)[:, 0]
        return truth[self.head.name].to_numpy(), decided_labels(predictions, self.head), sure

    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """See `doubted_classes`; rows whose truth is probabilities have no label to doubt."""
        numbers = pd.Index(self.head.classes).get_indexer(pd.Index(truth[self.head.name]))
        labelled = numbers >= 0
        given = predictions.loc[labelled, self.columns].to_numpy(np.float64)
        found, suggested, scores = doubted_classes(numbers[labelled], given)
        names, index = np.array(self.head.classes, dtype=object), truth.index[labelled][found]
        sure = given[found, suggested]
        return suspect_table(index, names[numbers[labelled][found]], names[suggested], scores, sure)

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        labels = pd.Series(decided_labels(predictions, self.head))
        return labels.value_counts(normalize=True).reindex(list(self.head.classes), fill_value=0.0)

    def single_column(self, metric: Metric) -> str | None:
        """The decided label; with a metric that needs probabilities and two classes, the second one's."""
        second = metric.needs == "probabilities" and len(self.head.classes) == 2 and most_listed(metric) == 1
        return self.head.classes[1] if second else None

    def described(self, column: Column) -> str:
        if column.of is None:
            return f"label of '{self.head.name}', one of {len(self.head.classes)}"
        return f"probability of '{column.of}' in '{self.head.name}'"

    def row_problems(self, table: pd.DataFrame, metric: Metric) -> list[Problem]:
        return submission.sum_problems(table, metric)


HEAD = Multiclass
