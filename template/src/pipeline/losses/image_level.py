"""A loss of classes and of labels: logits (B, classes) and the truth to one value per sample, float32 (B,)."""

from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.base import kind_of
from pipeline.losses.criterion import check_range, probabilities


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
        self.unknown = kind_of(head).unknown
        self.label_smoothing = check_range("bce", "label_smoothing", label_smoothing, below=1)
        self.target_threshold, self.sum_classes = target_threshold, sum_classes

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        given = probabilities(target, logits.shape[1])
        known = ~given.isnan()
        truth = (1 - self.label_smoothing) * given.nan_to_num() + self.label_smoothing * self.unknown
        if self.target_threshold is not None:
            truth = (truth > self.target_threshold).float()
        values = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none") * known
        return values.sum(dim=1) if self.sum_classes else values.sum(dim=1) / known.sum(dim=1).clamp(min=1)
