"""What differs between masks that may overlap (`mask`) and one class for each pixel (`multiclass_mask`)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask_decoding import IGNORED
from toolkit.errors import UserError, listed


class Planes:
    """What logits and targets look like where a pixel has one logit for each class, without a background; one class is
    a binary mask. C is the number of foreground classes."""

    form = "sigmoid"  # what the logits are

    def width(self, classes: int) -> int:
        """How many logits a pixel has."""
        return classes

    def target(self, planes: np.ndarray) -> np.ndarray:
        """The target, uint8, of the planes of a truth, uint8 (C, H, W) of 0, 1 or 255."""
        return planes

    def target_shape(self, classes: int, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one sample's target."""
        return (classes, *size)

    def planes(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The truth of each logit, float32 (B, width, H, W) of 0 or 1, and 0 where it is not known; and where it is,
        bool of a shape that is broadcast to it."""
        return (target == 1).float(), target != IGNORED

    def probabilities(self, logits: Tensor) -> Tensor:
        """float32 (B, width, h, w) from logits of that shape."""
        return logits.float().sigmoid()

    def decided(self, logits: Tensor) -> Tensor:
        """Which logits (B, width, h, w) say yes, bool of that shape."""
        return logits > 0

    def logits(self, probabilities: Tensor) -> Tensor:
        """Logits that give these probabilities."""
        return probabilities.logit(eps=1e-6)

    def foreground(self, values: Tensor) -> Tensor:
        """Of something for each logit, (B, width, ...), that of the foreground classes, (B, C, ...)."""
        return values


class OneClass(Planes):
    """Background first, then the classes; they share each pixel's probability."""

    form = "softmax"

    def width(self, classes: int) -> int:
        return 1 + classes

    def target(self, planes: np.ndarray) -> np.ndarray:
        numbers = np.arange(1, 1 + len(planes), dtype=np.uint8)[:, None, None]
        label: np.ndarray = ((planes == 1) * numbers).max(axis=0)
        label[(planes == IGNORED).any(axis=0)] = IGNORED
        return label

    def target_shape(self, classes: int, size: tuple[int, int]) -> tuple[int, ...]:
        return size

    def planes(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(1 + classes, device=target.device).view(1, -1, 1, 1)
        return (target[:, None] == numbers).float(), target[:, None] != IGNORED

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def decided(self, logits: Tensor) -> Tensor:
        return functional.one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1).bool()

    def logits(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=1e-6).log()

    def foreground(self, values: Tensor) -> Tensor:
        return values[:, 1:]


KINDS: dict[str, Planes] = {"mask": Planes(), "multiclass_mask": OneClass()}


def kind_of(head: Head) -> Planes:
    """The kind of a head; a `UserError` for one of another task, and for more classes than bytes tell apart."""
    if head.kind not in KINDS:
        raise UserError(f"head '{head.name}' is of the kind '{head.kind}'; masks are of the kind {listed(KINDS)}")
    if not 0 < len(head.classes) < IGNORED:
        raise UserError(
            f"head '{head.name}' has {len(head.classes)} classes; name 1 to {IGNORED - 1} in src/competition/targets.py"
        )
    return KINDS[head.kind]
