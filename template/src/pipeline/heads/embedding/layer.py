"""From pooled features to an embedding and its cosines to the centres of the classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.keys import embedding_key


class Embedding(nn.Module):
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
            embedding = functional.normalize(self._normed(self.project(features.float())))
            cosines = functional.linear(embedding, functional.normalize(self.centers))
        if self.subcenters > 1:
            cosines = cosines.unflatten(1, (-1, self.subcenters)).amax(dim=2)
        return {self.output_key: cosines, self.embedding_key: embedding}

    def _normed(self, projected: Tensor) -> Tensor:
        """Batch norm; a batch of one has no statistics of its own and takes the running ones."""
        if self.training and len(projected) == 1:
            norm = self.norm
            return functional.batch_norm(projected, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        normed: Tensor = self.norm(projected)
        return normed
