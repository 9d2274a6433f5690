"""Ideas of the competition's own. An experiment chooses them by name; keyword-only parameters are its `params`."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.keys import INPUT_IMAGE
from pipeline.registry import Registry
from pipeline.types import Batch


class Small(nn.Module):
    """Three convolutions: (B, C, H, W) to logits (B, classes, H, W) for each head."""

    def __init__(self, heads: Sequence[Head], settings: Model, names: Registry, *, width: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(settings.in_chans, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({head.output_key: nn.Conv2d(width, len(head.classes), 1) for head in heads})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.body(batch[INPUT_IMAGE])
        return {key: head(features) for key, head in self.heads.items()}


class Squared(nn.Module):
    """The mean squared difference between probabilities and truth, (B,)."""

    def __init__(self, head: Head) -> None:
        super().__init__()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target != 255
        return ((logits.sigmoid() - (target == 1).float()) ** 2 * known).flatten(1).mean(dim=1)
