"""Losses of a choice between classes, or of a grade: logits (B, classes) and the truth to one value per sample, (B,).

The truth is a class number int64 (B,), or a probability for each class float (B, classes). All of them compute in
float32 and stay finite, with finite gradients, for the largest logits that float16 can hold.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from pipeline.competition import Head
from pipeline.losses.criterion import check_range, probabilities
from toolkit.errors import UserError

TINY = torch.finfo(torch.float32).tiny  # a power of 0 has no finite gradient below an exponent of 1


class CrossEntropy(nn.Module):
    """`-sum_c t_c log p_c`, where p is the softmax of the logits and t the truth, smoothed.

    `label_smoothing` s makes `(1 - s) t_c + s / classes` of t_c (Szegedy et al., arXiv:1512.00567).
    """

    def __init__(self, head: Head, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_range("cross_entropy", "label_smoothing", label_smoothing, below=1)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth = target.float() if target.is_floating_point() else target
        return functional.cross_entropy(logits.float(), truth, reduction="none", label_smoothing=self.label_smoothing)


class Focal(nn.Module):
    """Cross entropy that fades where the model is right: `-sum_c t_c (1 - p_c)^gamma log p_c` (arXiv:1708.02002).

    Args:
        gamma: how much it fades; 0 is cross entropy.
        alpha: multiplies the loss; none: 1. With `sigmoid` the share of the class itself, and 1 - alpha of the rest.
        sigmoid: each class against the rest, summed over the classes, as the paper has it for detection.
    """

    def __init__(self, head: Head, *, gamma: float = 2.0, alpha: float | None = None, sigmoid: bool = False) -> None:
        super().__init__()
        self.gamma = check_range("focal", "gamma", gamma)
        self.alpha = None if alpha is None else check_range("focal", "alpha", alpha)
        if sigmoid and ((alpha or 0) > 1 or gamma < 1):  # below 1, the gradient is NaN where the model is quite sure
            raise UserError(
                f"loss 'focal': with sigmoid alpha is a share, from 0 to 1, and gamma at least 1 (they are {alpha} and "
                f"{gamma})"
            )
        self.sigmoid = sigmoid

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, truth = logits.float(), probabilities(target, logits.shape[1])
        if self.sigmoid:
            alpha = -1.0 if self.alpha is None else self.alpha
            return sigmoid_focal_loss(logits, truth, alpha=alpha, gamma=self.gamma).sum(dim=1)
        log_p = logits.log_softmax(dim=1)
        rest = -torch.expm1(log_p)  # 1 - p, exact also where p is nearly 1
        values = -(truth * rest.clamp(min=TINY) ** self.gamma * log_p).sum(dim=1)
        return values if self.alpha is None else self.alpha * values


class Asymmetric(nn.Module):
    """Focal loss with a focus of its own for the class itself and for the others (Ridnik et al., arXiv:2009.14119), of
    which timm has the form for class numbers.

    `-sum_c t'_c w_c log p_c` with `w_c = (1 - t_c p_c - (1 - t_c) (1 - p_c)) ^ (gamma_pos t_c + gamma_neg (1 - t_c))`,
    where p is the softmax and t' the smoothed truth: the single-label form of the paper's code.

    Args:
        gamma_pos: the focus on the class itself.
        gamma_neg: that on the others; they count through the smoothing alone.
        eps: label smoothing, as for `CrossEntropy`.
    """

    def __init__(self, head: Head, *, gamma_pos: float = 1.0, gamma_neg: float = 4.0, eps: float = 0.1) -> None:
        super().__init__()
        self.gamma_pos = check_range("asymmetric", "gamma_pos", gamma_pos)
        self.gamma_neg = check_range("asymmetric", "gamma_neg", gamma_neg)
        self.eps = check_range("asymmetric", "eps", eps, below=1)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth = probabilities(target, logits.shape[1])
        log_p = torch.log_softmax(logits.float(), dim=1)
        rest = truth * -torch.expm1(log_p) + (1 - truth) * log_p.exp()
        focus = rest.clamp(min=TINY) ** (self.gamma_pos * truth + self.gamma_neg * (1 - truth))
        smoothed = (1 - self.eps) * truth + self.eps * (1 / truth.shape[1])
        return -(smoothed * focus * log_p).sum(dim=1)


class Corn(nn.Module):
    """CORN (Shi, Cao and Raschka, arXiv:2111.08851): is the grade above k, asked of those that are above k - 1 only.

    The sum over k of the binary cross entropies, which is `-log p` of the true grade. The truth is a grade's number
    int64 (B,), or a probability of each grade float (B, grades).
    """

    def __init__(self, head: Head) -> None:
        super().__init__()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth = probabilities(target, logits.shape[1] + 1)
        reached = truth.flip(1).cumsum(dim=1).flip(1)  # of grade k or above
        above, level = reached[:, 1:], truth[:, :-1]
        log_above, log_level = functional.logsigmoid(logits.float()), functional.logsigmoid(-logits.float())
        return -(above * log_above + level * log_level).sum(dim=1)
