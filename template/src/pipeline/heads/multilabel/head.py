"""A head of this kind: a logit for each label."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.competition import Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.label_errors import suspect_table
from pipeline.heads.multilabel import submission
from pipeline.heads.multilabel.decisions import USUAL, decided
from pipeline.heads.multilabel.suspects import doubted_labels
from pipeline.heads.multilabel.targets import hard_targets, targets
from pipeline.heads.predictions import probability_columns
from pipeline.heads.submission_columns import Column
from pipeline.heads.thresholds import values_to_try
from pipeline.keys import ROW_ID
from pipeline.registry import Named


class Multilabel(HeadKind):
    """The truth is float32 (B, labels), from 0 to 1."""

    submission: ClassVar[Any] = submission

    @property
    def width(self) -> int:
        return len(self.head.classes)

    @property
    def columns(self) -> list[str]:
        return probability_columns(self.head)

    @property
    def default_loss(self) -> Named:
        return Named(name="bce")

    @property
    def unknown(self) -> float:
        return 0.5

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return targets(rows, self.head)

    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.float32, (size, self.width)),)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        given = hard_targets(rows.rename_axis(None).assign(**{ROW_ID: rows.index}), self.head)
        held = np.where(np.isnan(given), np.nan, given >= 0.5)
        return pd.DataFrame(held, index=rows.index, columns=self.columns)

    def decode(self, logits: Tensor) -> np.ndarray:
        probabilities: np.ndarray = torch.sigmoid(logits.double()).float().numpy()
        return probabilities

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The share of rows for which each label holds."""
        shares: np.ndarray = np.nanmean(self.targets(rows), axis=0)
        return shares

    @property
    def usual_thresholds(self) -> tuple[float, ...]:
        return (USUAL,) * self.width

    def candidates(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [values_to_try(predictions[column].to_numpy(np.float64)) for column in self.columns]

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        from pipeline.heads.multilabel.drawing import multilabel_figures

        tables = truth[self.columns].to_numpy(np.float32), predictions[self.columns].to_numpy()
        return multilabel_figures(*tables, self.head)

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name, column in zip(self.head.classes, self.columns, strict=True):
            known = truth[column].notna().to_numpy()
            found[name] = (truth[column].to_numpy()[known] >= 0.5, predictions[column].to_numpy()[known])
        return found

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists of labels; how sure: the probability of the whole list, the labels taken as independent."""
        probabilities = predictions[self.columns].to_numpy()
        held = decided(probabilities, self.head)
        sure = np.where(held, probabilities, 1 - probabilities).prod(axis=1)
        return self._lists(truth[self.columns].to_numpy() >= 0.5), self._lists(held), sure

    def _lists(self, held: np.ndarray) -> np.ndarray:
        names = np.array(self.head.classes, dtype=object)
        return np.array([" ".join(names[row]) or "none" for row in held], dtype=object)

    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """By confident learning, label by label: `cat` is given and `not cat` suggested, or the other way round."""
        parts = []
        for name, column in zip(self.head.classes, self.columns, strict=True):
            held, sure = truth[column].to_numpy() >= 0.5, predictions[column].to_numpy(np.float64)
            found, scores = doubted_labels(held, sure)
            both = np.column_stack([1 - sure, sure])[found]
            words, given = np.array([f"not {name}", name], dtype=object), held[found].astype(np.int64)
            likely = both[np.arange(len(found)), 1 - given]
            parts.append(suspect_table(truth.index[found], words[given], words[1 - given], scores, likely))
        return pd.concat(parts).sort_values("score", ascending=False, kind="stable")

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        """How often each label is decided for."""
        held = decided(predictions[self.columns].to_numpy(), self.head)
        return pd.Series(held.mean(axis=0), index=list(self.head.classes))

    def single_column(self, metric: Metric) -> str | None:
        return None

    def described(self, column: Column) -> str:
        if column.of is None:
            form = submission.list_form(self.head, column)
            return f"labels of '{self.head.name}', out of {self.width}, {form}"
        return f"whether '{column.of}' holds"


HEAD = Multilabel
