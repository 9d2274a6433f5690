"""A head of this kind: an embedding, and its cosines to the classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pipeline.competition import Metric
from pipeline.heads.base import Aggregate, HeadKind, Memory
from pipeline.heads.embedding import rankings, submission
from pipeline.heads.embedding.targets import apart_column, targets, truth
from pipeline.heads.label_errors import suspect_table
from pipeline.heads.submission_columns import Column
from pipeline.heads.thresholds import values_to_try
from pipeline.keys import ROW_ID, embedding_key
from pipeline.registry import Named


class Embedding(HeadKind):
    """The truth is class numbers, int64 (B,), -1 for none; the outputs are cosines to the centres of the classes.

    While a fold trains, held-out rows are scored by the centres. Its predictions are those of the gallery, the nearest
    images of the rows that train.
    """

    has_gallery = True
    submission: ClassVar[Any] = submission

    @property
    def width(self) -> int:
        return len(self.head.classes)

    def layer(self, features: int, *, size: int = 128, subcenters: int = 1) -> nn.Module:
        """The embedding's layer.

        Args:
            size: of the embedding.
            subcenters: centres of each class.
        """
        from pipeline.heads.embedding.layer import Embedding as Layer

        return Layer(features, self.head, size, subcenters)

    @property
    def columns(self) -> list[str]:
        return [*rankings.label_columns(self.head), *rankings.score_columns(self.head)]

    @property
    def default_loss(self) -> Named:
        return Named(name="arcface")

    @property
    def unknown(self) -> float:
        return 1 / self.width

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return targets(rows, self.head)

    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.int64, (size,)),)

    def class_counts(self, rows: pd.DataFrame) -> Tensor:
        numbers = self.targets(rows)
        return torch.from_numpy(np.bincount(numbers[numbers >= 0], minlength=self.width)).double()

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        return truth(rows, self.head).to_frame(self.head.name)

    def decode(self, logits: Tensor) -> np.ndarray:
        """The best labels, then their scores, (N, 2 k) of objects; a class of score -inf is not listed."""
        most = len(self.columns) // 2
        scores, places = (part[:, :most].numpy() for part in logits.float().sort(dim=1, descending=True, stable=True))
        labels = np.array(self.head.classes, dtype=object)[places]
        there = np.isfinite(scores)
        found = [np.where(there, labels, rankings.NOTHING), np.where(there, scores, rankings.WORST).astype(object)]
        return np.concatenate(found, axis=1)

    def as_columns(self, values: np.ndarray) -> dict[str, np.ndarray]:
        labels, scores = np.hsplit(values, 2)
        columns = zip(self.columns, [*labels.T, *scores.astype(np.float32).T], strict=True)
        return dict(columns)

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        return tables[0] if len(tables) == 1 else rankings.averaged(tables, self.head)

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        return rankings.aggregated(predictions, ids, self.head, function)

    def in_gallery(self, rows: pd.DataFrame) -> np.ndarray:
        return self.targets(rows) >= 0

    def looks_among(self, rows: pd.DataFrame) -> bool:
        return apart_column(self.head.name) in rows

    def memory(self, rows: pd.DataFrame, outputs: Sequence[Mapping[str, Tensor]], own: bool) -> Memory:
        from pipeline.heads.embedding.retrieval import Gallery

        key = embedding_key(self.head.name)
        ids = list(rows[ROW_ID]) if own else None
        gallery = Gallery(torch.cat([part[key] for part in outputs]), self.targets(rows), self.width, ids)
        return lambda ids, found: {self.head.output_key: gallery.cosines(ids, found[key])}

    def remembered(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        key = embedding_key(self.head.name)
        return {key: outputs[key]}

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The labels that are most frequent; those that are rarer than the unknown rank behind it."""
        counts = rows[self.head.name].astype(str).value_counts()
        before = int((counts > counts.get(self.head.unknown, 0)).sum())
        names = counts.index[counts.index != self.head.unknown]
        most = len(self.columns) // 2
        labels = np.full(most, rankings.NOTHING, object)
        labels[: len(names)] = names[:most]
        scores = np.where(np.arange(most) < before, 1.0, rankings.WORST)
        return np.concatenate([labels, scores.astype(object)])

    @property
    def usual_thresholds(self) -> tuple[float, ...]:
        return (rankings.USUAL,) if self.head.unknown else ()

    def candidates(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [values_to_try(predictions[rankings.score_columns(self.head)[0]].to_numpy(np.float64))]

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        from pipeline.heads.embedding.drawing import neighbours_figure, scores_figure

        labels, scores = rankings.listed_labels(predictions, self.head)
        true = truth[self.head.name].to_numpy(object)
        hits = labels == true[:, None]
        ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), labels.shape[1])
        known = true != self.head.unknown
        limit = rankings.threshold(self.head) if self.head.unknown else None
        own, wrong = (np.where(there & (labels != rankings.NOTHING), scores, -np.inf)[known] for there in (hits, ~hits))
        best = (np.where(np.isfinite(part), part, np.nan) for part in (own.max(axis=1), wrong.max(axis=1)))
        return {
            f"scores/{self.head.name}": scores_figure(scores[:, 0], hits[:, 0], known, ranks, limit),
            f"neighbours/{self.head.name}": neighbours_figure(*best),
        }

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best answer and its cosine."""
        labels, scores = rankings.ranked(predictions, self.head)
        return truth[self.head.name].to_numpy(object), labels[:, 0], scores[:, 0].clip(min=0)

    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Rows whose nearest image has another label, by how much nearer it is than the nearest of the given one."""
        given, suggested, sure = self.read_out(truth, predictions)
        labels, cosines = rankings.ranked(predictions, self.head)
        is_given = labels == given[:, None]
        own = np.where(is_given.any(axis=1), np.where(is_given, cosines, rankings.WORST).max(axis=1), cosines[:, -1])
        scores = cosines[:, 0] - own
        found = np.flatnonzero(given != suggested)
        found = found[np.argsort(-scores[found], kind="stable")]
        return suspect_table(truth.index[found], given[found], suggested[found], scores[found], sure[found])

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        names = [*self.head.classes, *([self.head.unknown] if self.head.unknown else [])]
        said = pd.Series(rankings.ranked(predictions, self.head)[0][:, 0])
        return said.value_counts(normalize=True).reindex(names, fill_value=0.0)

    def single_column(self, metric: Metric) -> str | None:
        return None

    def described(self, column: Column) -> str:
        return f"labels of '{self.head.name}', the best first, out of {self.width}"


HEAD = Embedding
