"""Losses of how far a map and its mask overlap; see `losses` for what they are called with."""

import torch
from torch import Tensor

from pipeline.competition import Head
from pipeline.losses.mask_base import MaskLoss, mean_of
from toolkit.errors import UserError


class Overlap(MaskLoss):
    """1 minus `(TP + s) / (TP + alpha FP + beta FN + s)` of soft counts, the mean over the foreground classes."""

    def __init__(self, head: Head | None, alpha: float, beta: float, smooth: float, gamma: float = 1.0) -> None:
        super().__init__(head)
        self.alpha, self.beta = self.check("alpha", alpha), self.check("beta", beta)
        self.gamma = gamma
        if smooth <= 0:  # or an empty mask would be 0 / 0
            raise UserError(f"loss '{self.name}': smooth must be more than 0 (it is {smooth})")
        self.smooth = smooth

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        found = self.kind.foreground(self.kind.probabilities(logits) * known).flatten(2)
        wanted = self.kind.foreground(truth * known).flatten(2)
        hits = (found * wanted).sum(dim=2)
        more, less = found.sum(dim=2) - hits, wanted.sum(dim=2) - hits
        losses = 1 - (hits + self.smooth) / (hits + self.alpha * more + self.beta * less + self.smooth)
        return mean_of(losses.clamp(min=1e-7) ** self.gamma if self.gamma != 1 else losses, self._some(known))

    def _some(self, known: Tensor) -> Tensor:
        """bool (B, C): whether anything is known of a class."""
        return self.kind.foreground(known).flatten(2).any(dim=2)


class Dice(Overlap):
    """Soft Dice (Milletari et al., arXiv:1606.04797): `(TP + s) / ((P + T) / 2 + s)`."""

    name = "dice"

    def __init__(self, head: Head | None, *, smooth: float = 1.0) -> None:
        super().__init__(head, 0.5, 0.5, smooth)


class Jaccard(Overlap):
    """Soft Jaccard: `(TP + s) / (union + s)`."""

    name = "jaccard"

    def __init__(self, head: Head | None, *, smooth: float = 1.0) -> None:
        super().__init__(head, 1.0, 1.0, smooth)


class Tversky(Overlap):
    """Tversky (Salehi et al., arXiv:1706.05721); with `gamma` the focal one, `loss ** gamma` (arXiv:1810.07842).

    Args:
        alpha, beta: what a false positive and a false negative weigh.
    """

    name = "tversky"

    def __init__(
        self, head: Head | None, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0, smooth: float = 1.0
    ) -> None:
        super().__init__(head, alpha, beta, smooth, gamma)
        if gamma <= 0:
            raise UserError(f"loss 'tversky': gamma must be more than 0 (it is {gamma})")


class Lovasz(MaskLoss):
    """The Lovász extension of the Jaccard loss, per image (Berman et al., arXiv:1705.08790).

    `mask`: the hinge of each class; `multiclass_mask`: the softmax, over background and classes that are in the image.
    """

    name = "lovasz"

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        truth, known = (truth * known).flatten(2), known.flatten(2)
        if self.head.kind == "mask":
            # What is not known comes last in the order, where the hinge is 0.
            errors = torch.where(known, 1 - logits.flatten(2) * (2 * truth - 1), torch.finfo(torch.float32).min)
            counted = known.any(dim=2)
        else:
            errors = (truth - self.kind.probabilities(logits).flatten(2)).abs() * known
            counted = truth.any(dim=2)
        ordered, order = errors.sort(dim=2, descending=True)
        wanted = truth.gather(2, order)
        total = wanted.sum(dim=2, keepdim=True)
        union = total + (1 - wanted).cumsum(dim=2)
        jaccard = 1 - (total - wanted.cumsum(dim=2)) / union.clamp(min=1)
        steps = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], dim=2)
        return mean_of((ordered.relu() * steps).sum(dim=2), counted)
