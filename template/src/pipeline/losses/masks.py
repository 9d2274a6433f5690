"""Losses of masks: logits and the head's target to one value per sample, float32 (B,).

Pixels of 255 count nowhere; a sample without any other has the loss 0. A loss computes in float32, and is finite, with
finite gradients, on empty masks; to smaller logits the target is resized. Those of smp give one value for a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask import KINDS, kind_of
from pipeline.losses.criterion import check_range
from toolkit.errors import UserError, listed, nearest


class MaskLoss(nn.Module, ABC):
    """A loss whose `values` gets float32 logits (B, K, h, w), the truth of each and where it is known."""

    name, kinds = "", tuple(KINDS)

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        if head is None:
            raise UserError(f"loss '{self.name}' needs a head; add 'head: NAME' to its row in losses")
        self.head, self.kind = head, kind_of(head)
        if head.kind not in self.kinds:
            found = f"'{head.name}' is {head.kind}"
            raise UserError(f"loss '{self.name}' trains heads of the kind {listed(self.kinds)}; {found}")

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        width = self.kind.width(len(self.head.classes))
        if logits.ndim != 4 or logits.shape[1] != width:
            raise UserError(
                f"loss '{self.name}' of head '{self.head.name}' needs logits (B, {width}, h, w) and got "
                f"{tuple(logits.shape)}; correct 'output' in its row in losses"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if target.shape[-2:] != logits.shape[-2:]:
                planes = target.float().reshape(len(target), -1, *target.shape[-2:])
                planes = functional.interpolate(planes, logits.shape[-2:], mode="nearest-exact")
                target = planes.reshape(*target.shape[:-2], *logits.shape[-2:]).to(target.dtype)
            truth, known = self.kind.planes(target, len(self.head.classes))
            return self.values(logits.float(), truth, known.expand_as(truth))

    @abstractmethod
    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        """float32 (B,): logits, truth (B, K, h, w), and bool like it where it is known; it is 0 elsewhere."""

    def by_class(self, parameter: str, given: float | Mapping[str, float], classes: Sequence[str]) -> Tensor:
        """float32 (classes, 1, 1): one number for all, or those that are given by name and 1 for the others."""
        given = given if isinstance(given, Mapping) else dict.fromkeys(classes, given)
        for name in given.keys() - set(classes):
            raise UserError(f"loss '{self.name}': {parameter} names the class '{name}'; {nearest(name, classes)}")
        numbers = [check_range(self.name, parameter, given.get(name, 1.0)) for name in classes]
        return torch.tensor(numbers).view(-1, 1, 1)


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over (B, N) of those that count, 0 where none does."""
    return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def pixel_entropy(kind: str, logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of each pixel: (B, C, h, w) of planes, (B, 1, h, w) where classes share a pixel."""
    if kind == "mask":
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return -(truth * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)


class Tversky(MaskLoss):
    """1 minus `(TP + s) / (TP + alpha FP + beta FN + s)` of soft counts, the mean over the foreground classes (Salehi
    et al., arXiv:1706.05721); with `gamma` the focal one, `loss ** gamma` (arXiv:1810.07842)."""

    name = "tversky"

    def __init__(
        self, head: Head | None, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0, smooth: float = 1.0
    ) -> None:
        super().__init__(head)
        self.alpha = check_range(self.name, "alpha", alpha)
        self.beta = check_range(self.name, "beta", beta)
        if min(smooth, gamma) <= 0:  # or an empty mask would be 0 / 0
            raise UserError(f"loss '{self.name}': smooth and gamma must be more than 0 (they are {smooth}, {gamma})")
        self.gamma, self.smooth = gamma, smooth

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        found = self.kind.foreground(self.kind.probabilities(logits) * known).flatten(2)
        wanted = self.kind.foreground(truth).flatten(2)
        hits = (found * wanted).sum(dim=2)
        more, less = found.sum(dim=2) - hits, wanted.sum(dim=2) - hits
        losses = 1 - (hits + self.smooth) / (hits + self.alpha * more + self.beta * less + self.smooth)
        some = self.kind.foreground(known).flatten(2).any(dim=2)  # (B, C): whether anything is known of a class
        return mean_of(losses.clamp(min=1e-7) ** self.gamma if self.gamma != 1 else losses, some)


class Dice(Tversky):
    """Soft Dice (Milletari et al., arXiv:1606.04797): `(TP + s) / ((P + T) / 2 + s)`."""

    name = "dice"

    def __init__(self, head: Head | None, *, smooth: float = 1.0) -> None:
        super().__init__(head, alpha=0.5, beta=0.5, smooth=smooth)


class Jaccard(Tversky):
    """Soft Jaccard: `(TP + s) / (union + s)`."""

    name = "jaccard"

    def __init__(self, head: Head | None, *, smooth: float = 1.0) -> None:
        super().__init__(head, alpha=1.0, beta=1.0, smooth=smooth)


class Lovasz(MaskLoss):
    """The Lovász extension of the Jaccard loss, per image (Berman et al., arXiv:1705.08790).

    `mask`: the hinge of each class; `multiclass_mask`: the softmax, over background and classes that are in the image.
    """

    name = "lovasz"

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        truth, known = truth.flatten(2), known.flatten(2)
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


class BinaryCrossEntropy(MaskLoss):
    """Each class against the rest. `label_smoothing` s makes `(1 - s) t + s / 2` of the truth t; `positive_weight` is
    how much more a pixel of a class weighs than one that is not, one number, or some by class."""

    name, kinds = "bce", ("mask",)
    positive_weight: Tensor | None

    def __init__(
        self, head: Head | None, *, label_smoothing: float = 0.0, positive_weight: float | dict[str, float] = 1.0
    ) -> None:
        super().__init__(head)
        self.label_smoothing = check_range(self.name, "label_smoothing", label_smoothing, below=1)
        weight = self.by_class("positive_weight", positive_weight, self.head.classes)
        ones = not label_smoothing and (weight == 1).all()  # a product with 1 is a pass over all pixels as well
        self.register_buffer("positive_weight", None if ones else weight)

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        if self.label_smoothing:
            truth = (1 - self.label_smoothing) * truth + self.label_smoothing / 2
        entropy = functional.binary_cross_entropy_with_logits
        losses = entropy(logits, truth, reduction="none", pos_weight=self.positive_weight)
        return mean_of(losses.flatten(1), known.flatten(1))


class CrossEntropy(MaskLoss):
    """Cross entropy over background and classes. `label_smoothing` is the share of the truth that is spread evenly over
    all of them, `weights` what a pixel weighs, by its class or `background`; 1 where it is not said."""

    name, kinds = "cross_entropy", ("multiclass_mask",)
    weights: Tensor

    def __init__(
        self, head: Head | None, *, label_smoothing: float = 0.0, weights: dict[str, float] | None = None
    ) -> None:
        super().__init__(head)
        self.label_smoothing = check_range(self.name, "label_smoothing", label_smoothing, below=1)
        self.register_buffer("weights", self.by_class("weights", weights or {}, ("background", *self.head.classes)))

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        total = (self.weights * truth).flatten(1).sum(dim=1)
        if self.label_smoothing:
            truth = (1 - self.label_smoothing) * truth + self.label_smoothing / truth.shape[1]
        losses = pixel_entropy(self.head.kind, logits, self.weights * truth) * known[:, :1]
        return losses.flatten(1).sum(dim=1) / total.clamp(min=1e-6)


class Focal(MaskLoss):
    """Cross entropy of each pixel times `(1 - p_t) ** gamma`, p_t being what the truth gets (arXiv:1708.02002).
    `alpha`, for `mask` alone, is what a pixel of a class weighs, 1 - alpha the others; none: both weigh 1."""

    name = "focal"

    def __init__(self, head: Head | None, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__(head)
        self.gamma = check_range(self.name, "gamma", gamma)
        if alpha is not None and (self.head.kind != "mask" or not 0 <= alpha <= 1):
            raise UserError(f"loss 'focal': alpha is for heads of the kind mask, and in [0, 1] (it is {alpha})")
        self.alpha = alpha

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        entropy = pixel_entropy(self.head.kind, logits, truth)
        # 1 - p_t, of which the gradient stays finite where p_t is 1
        losses = (-torch.expm1(-entropy)).clamp(min=1e-7) ** self.gamma * entropy
        if self.alpha is not None:
            losses = losses * (self.alpha * truth + (1 - self.alpha) * (1 - truth))
        return mean_of(losses.flatten(1), known[:, : losses.shape[1]].flatten(1))


class Boundary(MaskLoss):
    """Cross entropy that counts more near the borders of masks, as in F3Net (Wei et al., arXiv:1911.11445).
    A pixel weighs `1 + factor d`, d being how far the mean of the mask, `width` pixels of the output around it, is from
    the mask there."""

    name = "boundary"

    def __init__(self, head: Head | None, *, width: int = 15, factor: float = 5.0) -> None:
        super().__init__(head)
        self.width, self.factor = width, check_range(self.name, "factor", factor)
        if width < 1:
            raise UserError(f"loss 'boundary': width must be at least 1 (it is {width})")

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        losses = pixel_entropy(self.head.kind, logits, truth)
        given, side = known.float(), 2 * self.width + 1
        seen = functional.avg_pool2d(given, side, 1, self.width)
        mean = functional.avg_pool2d(truth, side, 1, self.width) / seen.clamp(min=1e-6)
        weights = 1 + self.factor * (mean - truth).abs()
        if losses.shape[1] != truth.shape[1]:
            weights = weights.amax(dim=1, keepdim=True)
        weights = (weights * given[:, : losses.shape[1]]).flatten(1)
        return (losses.flatten(1) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)


class Presence(MaskLoss):
    """Binary cross entropy of logits (B, C) against whether there is any pixel of the class (`output: presence`)."""

    name = "presence"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.ndim != 2:
            raise UserError(
                f"loss 'presence' needs logits (B, {len(self.head.classes)}) and got {tuple(logits.shape)}; "
                "add 'output: presence' to its row in losses, and 'presence: true' to model.params"
            )
        truth, known = self.kind.planes(target, len(self.head.classes))
        return self.values(logits.float(), truth, known.expand_as(truth))

    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        present = self.kind.foreground(truth).flatten(2).amax(dim=2)
        counted = self.kind.foreground(known).flatten(2).any(dim=2)
        return mean_of(functional.binary_cross_entropy_with_logits(logits, present, reduction="none"), counted)


LOSSES: dict[str, type[MaskLoss]] = {
    loss.name: loss
    for loss in (Dice, Jaccard, Tversky, Lovasz, Focal, BinaryCrossEntropy, CrossEntropy, Boundary, Presence)
}
