"""A head of this kind: a logit for each grade but the last."""

import numpy as np
import torch
from torch import Tensor

from pipeline.heads.multiclass.head import Multiclass
from pipeline.registry import Named


class Ordinal(Multiclass):
    """Logit k says how probable a grade above k is among those that are k or above (CORN, arXiv:2111.08851)."""

    @property
    def width(self) -> int:
        return len(self.head.classes) - 1

    @property
    def default_loss(self) -> Named:
        return Named(name="corn")

    def decode(self, logits: Tensor) -> np.ndarray:
        """The probability of each grade."""
        above = torch.sigmoid(logits.double()).cumprod(dim=1)
        one, none = above.new_ones(len(above), 1), above.new_zeros(len(above), 1)
        reached = torch.cat([one, above, none], dim=1)
        probabilities: np.ndarray = (reached[:, :-1] - reached[:, 1:]).float().numpy()
        return probabilities


HEAD = Ordinal
