"""Which of many identities an image shows, or none that is known: images lie by likeness, and the nearest ones tell."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head, Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.columns import class_numbers
from pipeline.heads.identities import alone_column
from pipeline.heads.rankings import NOTHING, WORST, Rankings, label_columns
from pipeline.keys import ROW_ID, embedding_key

BLOCK = 1 << 26  # cosines that are computed at once

# (ids of a batch, outputs) -> what is decoded instead of the outputs by that name
Memory = Callable[[Sequence[str], Mapping[str, Tensor]], dict[str, Tensor]]


class Embedding(HeadKind):
    """The truth is class numbers, int64 (B,), -1 for none; the outputs are cosines to the centres of the classes.

    While a fold trains, held-out rows are scored by the centres. Its predictions are those of the gallery, the nearest
    images of the rows that train.
    """

    losses: ClassVar[Mapping[str, str]] = {"arcface": "pipeline.losses.embedding:ArcFace"}
    predictions = "pipeline.tasks.image_level.gallery:GalleryPredictions"
    column_type = Rankings

    def layer(self, features: int, *, size: int = 128, subcenters: int = 1) -> nn.Module:
        """With the size of the embedding, and so many centres of each class."""
        return EmbeddingLayer(features, self.head, size, subcenters)

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """Class numbers int64 (N,), and -1 for the rows that are labelled as unknown, or not at all."""
        return class_numbers(rows, self.head)

    def target_forms(self) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.int64, ()),)

    def class_counts(self, rows: pd.DataFrame) -> Tensor:
        numbers = self.targets(rows)
        return torch.from_numpy(np.bincount(numbers[numbers >= 0], minlength=self.width)).double()

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The label that is right for held-out rows: of an identity that stands alone, which training cannot know, the
        answer for the unknown, where there is one; without it the row counts as a miss."""
        labels: pd.Series = rows[self.head.name]
        alone = alone_column(self.head.name)
        if not self.head.unknown or alone not in rows:
            return labels.to_frame()
        return labels.mask(rows[alone].astype(bool), self.head.unknown).to_frame()

    def decode(self, logits: Tensor) -> np.ndarray:
        """The best labels, then their scores, (N, 2 k) of objects; a class of score -inf is not listed."""
        most = len(label_columns(self.head))
        scores, places = (part[:, :most].numpy() for part in logits.float().sort(dim=1, descending=True, stable=True))
        labels = np.array(self.head.classes, dtype=object)[places]
        there = np.isfinite(scores)
        found = [np.where(there, labels, NOTHING), np.where(there, scores, WORST).astype(object)]
        return np.concatenate(found, axis=1)

    def memory(self, rows: pd.DataFrame, embeddings: Tensor, own: bool) -> Memory:
        """What looks others up among rows with these embeddings (N, size); with `own` each of them is looked up among
        the others."""
        key = embedding_key(self.head.name)
        gallery = Gallery(embeddings, self.targets(rows), self.width, list(rows[ROW_ID]) if own else None)
        return lambda ids, found: {self.head.output_key: gallery.cosines(ids, found[key])}

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The labels that are most frequent; those that are rarer than the unknown rank behind it."""
        counts = rows[self.head.name].astype(str).value_counts()
        before = int((counts > counts.get(self.head.unknown, 0)).sum())
        names = counts.index[counts.index != self.head.unknown]
        most = len(label_columns(self.head))
        labels = np.full(most, NOTHING, object)
        labels[: len(names)] = names[:most]
        scores = np.where(np.arange(most) < before, 1.0, WORST)
        return np.concatenate([labels, scores.astype(object)])


class EmbeddingLayer(nn.Module):
    """Features (B, features) to `{output key: cosines (B, classes), embedding key: (B, size) of length 1}`, float32.

    With sub-centres, the nearest one of a class counts (Deng et al., "Sub-center ArcFace", ECCV 2020).
    """

    def __init__(self, features: int, head: Head, size: int, subcenters: int) -> None:
        super().__init__()
        self.output_key, self.embedding_key = head.output_key, embedding_key(head.name)
        self.subcenters = subcenters
        self.project = nn.Linear(features, size)
        self.norm = nn.BatchNorm1d(size)
        self.centers = nn.Parameter(torch.empty(len(head.classes) * subcenters, size))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        with torch.autocast(features.device.type, enabled=False):  # angles need all digits that float32 has
            projected, norm = self.project(features.float()), self.norm
            if self.training and len(projected) == 1:  # no statistics of its own: it takes the running ones
                normed = functional.batch_norm(projected, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            else:
                normed = norm(projected)
            embedding = functional.normalize(normed)
            cosines = functional.linear(embedding, functional.normalize(self.centers))
        if self.subcenters > 1:
            cosines = cosines.unflatten(1, (-1, self.subcenters)).amax(dim=2)
        return {self.output_key: cosines, self.embedding_key: embedding}


class Gallery:
    """Known images of one model.

    Args:
        embeddings: float32 (G, size), of length 1.
        classes: int64 (G,) class numbers; images of no class (-1) are left out.
        count: the number of classes.
        ids: (G,) where the images that are looked up are these themselves: each is looked for among the others.
    """

    def __init__(self, embeddings: Tensor, classes: np.ndarray, count: int, ids: Sequence[str] | None = None) -> None:
        known = np.flatnonzero(classes >= 0)
        self.embeddings = embeddings[torch.from_numpy(known).to(embeddings.device)]
        self.classes = torch.from_numpy(classes[known]).to(embeddings.device)
        self.count = count
        self.place = {} if ids is None else {ids[int(row)]: place for place, row in enumerate(known)}

    def cosines(self, ids: Sequence[str], embeddings: Tensor) -> Tensor:
        """Float32 (B, classes): the largest cosine to an image of each class; -inf for a class without images.

        Args:
            embeddings: float32 (B, size), of length 1.
        """
        step = max(1, BLOCK // max(1, len(self.classes)))
        found = torch.full((len(ids), self.count), -torch.inf, device=embeddings.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            for start in range(0, len(ids), step):
                block = slice(start, start + step)
                cosines = embeddings[block] @ self.embeddings.T
                for row, name in enumerate(ids[block]):
                    if (place := self.place.get(name)) is not None:
                        cosines[row, place] = -torch.inf
                found[block].scatter_reduce_(1, self.classes.expand(len(cosines), -1), cosines, "amax")
        return found


HEAD = Embedding
