"""Kinds of heads: a module in `heads/kinds` each, whose name is what `Head.kind` says and whose `HEAD` is a `HeadKind`.

What follows from predictions alone (pictures, label errors, thresholds, columns of a submission) is its `columns`'. The
scores that `competition.yaml` may name for it are `SCORES` in the module of the same name in `metrics`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads import kinds
from pipeline.heads.columns import Columns
from pipeline.registry import Registry, modules_of

if TYPE_CHECKING:  # a submission needs no torch
    import torch
    from torch import Tensor, nn

NAMES = Registry({"kind of heads": modules_of(kinds.__name__, "HEAD")})
KINDS: tuple[str, ...] = tuple(sorted(NAMES.table["kind of heads"]))


class HeadKind(ABC):
    """One head, as its kind sees it."""

    losses: ClassVar[Mapping[str, str]]  # those that train it, name -> "module:attribute"; the first one is the default
    predictions: ClassVar[str] = ""  # "module:attribute" of its predictions where those are no `HeadPredictions`
    column_type: ClassVar[type[Columns]]  # what its predictions are
    logits: ClassVar[str] = (
        ""  # `softmax`, `sigmoid`, `cumulative` or `number`; none: no teacher's logits can be learnt
    )

    def __init__(self, head: Head) -> None:
        self.head = head
        self.columns = self.column_type(head)

    @property
    def width(self) -> int:
        """The number of logits."""
        return len(self.head.classes)

    def layer(self, features: int) -> nn.Module:
        """What makes its logits (B, width) of pooled features (B, features), or several outputs by their keys; its
        keyword-only parameters are settings of an experiment (`model.params.head_params.HEAD`)."""
        from torch import nn

        return nn.Linear(features, self.width)

    def fit_statistics(self, network: nn.Module, rows: pd.DataFrame) -> None:  # noqa: B027 - most layers have nothing to know
        """Tell its layer in the network, before the first step, what it has to know of the rows that train."""

    @property
    def unknown(self) -> float:
        """The probability of each class for who knows nothing."""
        return 1 / len(self.head.classes)

    @abstractmethod
    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """The truth of each row, (N, ...), as a loss reads it; a `UserError` names rows whose truth cannot be."""

    @abstractmethod
    def target_forms(self) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        """The dtypes that a batch of targets may have, and its shape behind the dimension of the batch."""

    def class_counts(self, rows: pd.DataFrame) -> Tensor | None:
        """How many of the rows are of each class, float64 (classes,); none where rows have no weights by class."""
        return None

    @abstractmethod
    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The truth of labelled rows as the metrics read it; the rows are indexed by id, and so is the truth."""

    @abstractmethod
    def decode(self, logits: Tensor) -> np.ndarray:
        """Logits (N, width) as predictions, float32 (N, columns)."""

    @abstractmethod
    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The best prediction for `metric` that looks at no image, float32 (columns,), given the rows that train."""


def kind_of(head: Head) -> HeadKind:
    """The head as its kind sees it; a `UserError` where there is no such kind."""
    made: HeadKind = NAMES.find("kind of heads", head.kind)(head)
    return made


def losses() -> dict[str, str]:
    """The losses of all kinds, name -> "module:attribute"."""
    return {name: made for kind in KINDS for name, made in NAMES.find("kind of heads", kind).losses.items()}


def trained_by(loss: str) -> list[str]:
    """The kinds that a loss trains."""
    return [kind for kind in KINDS if loss in NAMES.find("kind of heads", kind).losses]
