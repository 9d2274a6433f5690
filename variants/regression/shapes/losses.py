"""A loss of the competition's own."""

from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head


class Focal(nn.Module):
    """Squared error that fades where it is small, per sample: numbers and truth (B, 1) to (B,)."""

    def __init__(self, head: Head, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, numbers: Tensor, target: Tensor) -> Tensor:
        loss = functional.mse_loss(numbers, target, reduction="none")
        return ((1 - (-loss).exp()) ** self.gamma * loss)[:, 0]
