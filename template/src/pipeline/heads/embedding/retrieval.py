"""Looking an image up among known ones: a class is as near as the nearest of its images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 26  # cosines that are computed at once


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
        found = [self._nothing(embeddings[:0])]
        with torch.autocast(embeddings.device.type, enabled=False):
            for start in range(0, len(ids), step):
                found.append(self._nearest(ids[start : start + step], embeddings[start : start + step]))
        return torch.cat(found)

    def _nearest(self, ids: Sequence[str], embeddings: Tensor) -> Tensor:
        cosines = embeddings @ self.embeddings.T
        for row, name in enumerate(ids):
            if (place := self.place.get(name)) is not None:
                cosines[row, place] = -torch.inf
        return self._nothing(embeddings).scatter_reduce(1, self.classes.expand(len(ids), -1), cosines, "amax")

    def _nothing(self, embeddings: Tensor) -> Tensor:
        return torch.full((len(embeddings), self.count), -torch.inf, device=embeddings.device)
