"""The loss of grades in order: logits (B, grades - 1) and the truth to one value per sample, float32 (B,)."""

from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.losses.class_weights import probabilities
from pipeline.losses.image_level import check_head


class Corn(nn.Module):
    """CORN (Shi, Cao and Raschka, arXiv:2111.08851): is the grade above k, asked of those that are above k - 1 only.

    The sum over k of the binary cross entropies, which is `-log p` of the true grade. The truth is a grade's number
    int64 (B,), or a probability of each grade float (B, grades). It computes in float32 and stays finite for the
    largest logits that float16 can hold.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        check_head("corn", head)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        truth = probabilities(target, logits.shape[1] + 1)
        reached = truth.flip(1).cumsum(dim=1).flip(1)  # of grade k or above
        above, level = reached[:, 1:], truth[:, :-1]
        log_above, log_level = functional.logsigmoid(logits.float()), functional.logsigmoid(-logits.float())
        return -(above * log_above + level * log_level).sum(dim=1)
