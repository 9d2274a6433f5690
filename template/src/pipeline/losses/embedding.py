"""Losses of a head of this kind: cosines (B, classes) and class numbers to one value per sample, float32 (B,)."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.losses.criterion import check_range
from toolkit.errors import UserError

SMALLEST = 1e-6  # of a squared sine: its root has no slope at 0


class ArcFace(nn.Module):
    """Cross-entropy of scaled cosines, with the angle to the own class made larger by a margin.

    Deng et al., arXiv:1801.07698: `s cos(theta + m)` stands in for `s cos(theta)` of the true class. Where `theta + m`
    exceeds pi, `cos(theta) - m sin(m)` does, so that it goes on falling.

    Args:
        scale: s.
        margin: m, in radians; 0: the plain softmax of cosines.
        easy_margin: no margin where the angle is more than a right one; instead of the rule beyond pi.
        dynamic_margin: smallest and largest margin: the fewer rows n of a class train, the larger, as n^(-1/4) (Ha et
            al., arXiv:2010.05350, who take 0.05 and 0.5).
    """

    def __init__(
        self,
        head: Head,
        *,
        scale: float = 30.0,
        margin: float = 0.3,
        easy_margin: bool = False,
        dynamic_margin: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        for value in (margin, *(dynamic_margin or ())):
            check_range("arcface", "dynamic_margin" if dynamic_margin else "margin", value, below=math.pi / 2)
        if not scale > 0:
            raise UserError(f"loss 'arcface': scale must be more than 0 (it is {scale})")
        self.scale, self.easy_margin, self.dynamic_margin = scale, easy_margin, dynamic_margin
        self.margins: Tensor
        self.register_buffer("margins", torch.full((len(head.classes),), margin))

    def fit(self, truth: np.ndarray) -> None:
        """See the class numbers (N,) of the rows that train: how many each class has."""
        if self.dynamic_margin is None:
            return
        low, high = self.dynamic_margin
        rows = torch.from_numpy(np.bincount(truth[truth >= 0], minlength=len(self.margins)))
        rarity = rows.double().clamp(min=1) ** -0.25
        spread = rarity.max() - rarity.min()
        share = (rarity - rarity.min()) / spread if spread > 0 else torch.full_like(rarity, 0.5)
        self.margins = (low + share * (high - low)).float()

    def forward(self, cosines: Tensor, target: Tensor) -> Tensor:
        cosines, own = cosines.float(), target[:, None]
        cosine, margin = cosines.gather(1, own), self.margins[own]
        sine = (1 - cosine.square()).clamp(min=SMALLEST).sqrt()
        turned = cosine * margin.cos() - sine * margin.sin()
        if self.easy_margin:
            turned = torch.where(cosine > 0, turned, cosine)
        else:
            turned = torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())
        logits = self.scale * cosines.scatter(1, own, turned)
        return functional.cross_entropy(logits, target, reduction="none")
