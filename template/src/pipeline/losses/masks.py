"""Losses of an output: logits and the head's target to one value per sample, float32 (B,).

Pixels of 255 count nowhere; a sample without any other has the loss 0. A loss computes in float32, and is finite, with
finite gradients, on empty masks. Where logits are smaller than the target, the target is resized to them (nearest).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask import kind_of
from pipeline.losses.mask_base import MaskLoss, mean_of
from pipeline.losses.mask_overlap import Dice, Jaccard, Lovasz, Tversky
from toolkit.errors import UserError


class PixelLoss(MaskLoss):
    """A loss of each pixel, (B, planes, h, w), and the mean over those that are known."""

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        losses = self.pixels(logits, truth)
        return mean_of(losses.flatten(1), known[:, : losses.shape[1]].flatten(1))

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        return pixel_entropy(self.head.kind, logits, truth)


class BinaryCrossEntropy(PixelLoss):
    """Each class against the rest.

    Args:
        label_smoothing: s makes `(1 - s) t + s / 2` of the truth t.
        positive_weight: how much more a pixel of a class weighs than one that is not; one number, or some by class.
    """

    name, kinds = "bce", ("mask",)

    def __init__(
        self,
        head: Head | None,
        *,
        label_smoothing: float = 0.0,
        positive_weight: float | dict[str, float] = 1.0,
    ) -> None:
        super().__init__(head)
        self.label_smoothing = self.check("label_smoothing", label_smoothing, below=1)
        self.positive_weight = self.by_class("positive_weight", positive_weight, self.head.classes)

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        smoothed = (1 - self.label_smoothing) * truth + self.label_smoothing / 2
        weight = self.positive_weight.to(logits.device)
        return functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none", pos_weight=weight)


class CrossEntropy(MaskLoss):
    """Cross entropy over background and classes.

    Args:
        label_smoothing: this share of the truth is spread evenly over all of them.
        weights: what a pixel weighs, by its class or `background`; 1 where it is not said.
    """

    name, kinds = "cross_entropy", ("multiclass_mask",)

    def __init__(
        self, head: Head | None, *, label_smoothing: float = 0.0, weights: dict[str, float] | None = None
    ) -> None:
        super().__init__(head)
        self.label_smoothing = self.check("label_smoothing", label_smoothing, below=1)
        self.weights = self.by_class("weights", weights or {}, ("background", *self.head.classes))

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        weights = self.weights.to(logits.device)
        smoothed = (1 - self.label_smoothing) * truth + self.label_smoothing / truth.shape[1]
        losses = pixel_entropy(self.head.kind, logits, weights * smoothed) * known[:, :1]
        total = (weights * truth * known).flatten(1).sum(dim=1)
        return losses.flatten(1).sum(dim=1) / total.clamp(min=1e-6)


class Focal(PixelLoss):
    """Cross entropy of each pixel times `(1 - p_t) ** gamma`, p_t being what the truth gets (arXiv:1708.02002).

    Args:
        alpha: for `mask` alone: what a pixel of a class weighs, 1 - alpha the others; none: both weigh 1.
    """

    name = "focal"

    def __init__(self, head: Head | None, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__(head)
        self.gamma = self.check("gamma", gamma)
        if alpha is not None and (self.head.kind != "mask" or not 0 <= alpha <= 1):
            raise UserError(f"loss 'focal': alpha is for heads of the kind mask, and in [0, 1] (it is {alpha})")
        self.alpha = alpha

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        entropy = pixel_entropy(self.head.kind, logits, truth)
        # 1 - p_t, of which the gradient stays finite where p_t is 1
        losses = (-torch.expm1(-entropy)).clamp(min=1e-7) ** self.gamma * entropy
        return losses if self.alpha is None else losses * (self.alpha * truth + (1 - self.alpha) * (1 - truth))


class Boundary(MaskLoss):
    """Cross entropy that counts more near the borders of masks, as in F3Net (Wei et al., arXiv:1911.11445).

    A pixel weighs `1 + factor d`, d being how far the mean of the mask around it is from the mask there.

    Args:
        width: how far the mean reaches, in pixels of the output.
    """

    name = "boundary"

    def __init__(self, head: Head | None, *, width: int = 15, factor: float = 5.0) -> None:
        super().__init__(head)
        if width < 1:
            raise UserError(f"loss 'boundary': width must be at least 1 (it is {width})")
        self.width, self.factor = width, self.check("factor", factor)

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        losses = pixel_entropy(self.head.kind, logits, truth)
        given = known.float()
        side = 2 * self.width + 1
        seen = functional.avg_pool2d(given, side, 1, self.width)
        mean = functional.avg_pool2d(truth * given, side, 1, self.width) / seen.clamp(min=1e-6)
        weights = 1 + self.factor * (mean - truth).abs()
        if losses.shape[1] != truth.shape[1]:
            weights = weights.amax(dim=1, keepdim=True)
        weights = (weights * given[:, : losses.shape[1]]).flatten(1)
        return (losses.flatten(1) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)


class Presence(nn.Module):
    """Binary cross entropy of logits (B, C) against whether there is any pixel of the class (`output: presence`)."""

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        if head is None:
            raise UserError("loss 'presence' needs a head; add 'head: NAME' to its row in losses")
        self.kind, self.classes = kind_of(head), len(head.classes)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.ndim != 2:
            raise UserError(
                f"loss 'presence' needs logits (B, {self.classes}) and got {tuple(logits.shape)}; "
                "add 'output: presence' to its row in losses, and 'presence: true' to model.params"
            )
        truth, known = self.kind.planes(target, self.classes)
        present = self.kind.foreground(truth * known).flatten(2).amax(dim=2)
        counted = self.kind.foreground(known.expand_as(truth)).flatten(2).any(dim=2)
        return mean_of(functional.binary_cross_entropy_with_logits(logits.float(), present, reduction="none"), counted)


LOSSES: dict[str, type[nn.Module]] = {
    "dice": Dice,
    "jaccard": Jaccard,
    "tversky": Tversky,
    "lovasz": Lovasz,
    "focal": Focal,
    "bce": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "boundary": Boundary,
    "presence": Presence,
}


def pixel_entropy(kind: str, logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of each pixel: (B, C, h, w) of planes, (B, 1, h, w) where classes share a pixel."""
    if kind == "mask":
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return -(truth * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
