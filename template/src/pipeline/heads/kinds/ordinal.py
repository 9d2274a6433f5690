"""Grades in order, of which one is true: a logit for each but the last. What is learnt is ordered, and nothing else."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.heads.kinds.multiclass import Multiclass


class Ordinal(Multiclass):
    """Logit k says how probable a grade above k is among those that are k or above (CORN, arXiv:2111.08851)."""

    losses: ClassVar[Mapping[str, str]] = {"corn": "pipeline.losses.multiclass:Corn"}
    logits = "cumulative"

    @property
    def width(self) -> int:
        return len(self.head.classes) - 1

    def decode(self, logits: Tensor) -> np.ndarray:
        above = torch.sigmoid(logits.double()).cumprod(dim=1)
        reached = torch.cat([above.new_ones(len(above), 1), above, above.new_zeros(len(above), 1)], dim=1)
        return np.asarray((reached[:, :-1] - reached[:, 1:]).float())


HEAD = Ordinal
