"""Losses of a head: logits (B, classes) and the truth to one value per sample, float32 (B,).

What the truth looks like, the kind of the head says. A loss computes in float32 and stays finite, with finite
gradients, for the largest logits that float16 can hold.
"""

from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.base import kind_of, trained_by
from pipeline.losses.criterion import check_range, probabilities
from toolkit.errors import UserError, listed


class BinaryCrossEntropy(nn.Module):
    """Each class against the rest: `-t_c log s_c - (1 - t_c) log(1 - s_c)`, where s is the sigmoid of the logits.

    As in "ResNet strikes back" (Wightman et al., arXiv:2110.00476). Classes whose truth is NaN are left out.

    Args:
        label_smoothing: s makes `(1 - s) t_c + s u` of t_c, where u is the probability for who knows nothing.
        target_threshold: truth above it becomes 1 and the rest 0, after smoothing and mixing; none: stays as it is.
        sum_classes: the sum over the classes instead of their mean; then a loss is as large as that of `focal`.
    """

    def __init__(
        self,
        head: Head,
        *,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        sum_classes: bool = False,
    ) -> None:
        super().__init__()
        check_head("bce", head)
        self.unknown = kind_of(head).unknown
        self.label_smoothing = check_range("bce", "label_smoothing", label_smoothing, below=1)
        self.target_threshold = target_threshold
        self.sum_classes = sum_classes

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        given = probabilities(target, logits.shape[1])
        known = ~given.isnan()
        truth = smooth(given.nan_to_num(), self.label_smoothing, self.unknown)
        if self.target_threshold is not None:
            truth = (truth > self.target_threshold).float()
        values = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none") * known
        return values.sum(dim=1) if self.sum_classes else values.sum(dim=1) / known.sum(dim=1).clamp(min=1)


def smooth(truth: Tensor, smoothing: float, towards: float) -> Tensor:
    """Probabilities (B, classes), moved by `smoothing` towards those of which nothing is known."""
    return (1 - smoothing) * truth + smoothing * towards


def check_head(loss: str, head: Head | None) -> None:
    """Raise a `UserError` where a loss is asked to train what it is not made for."""
    if head is None:
        raise UserError(f"loss '{loss}' needs a head; add 'head: NAME' to its row in losses")
    able = trained_by(loss)
    if head.kind not in able:
        raise UserError(f"loss '{loss}' trains heads of the kind {listed(able)}; '{head.name}' is {head.kind}")
