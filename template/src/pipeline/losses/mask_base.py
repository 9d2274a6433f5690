"""What the losses of masks share: float32, what is known, and the size of the target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask import KINDS, kind_of
from toolkit.errors import UserError, listed, nearest

BOTH = tuple(KINDS)


class MaskLoss(nn.Module, ABC):
    """What losses share: `values` gets float32 logits (B, K, h, w), the truth of each and where it is known."""

    name, kinds = "", BOTH

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        if head is None:
            raise UserError(f"loss '{self.name}' needs a head; add 'head: NAME' to its row in losses")
        kind = kind_of(head)
        if head.kind not in self.kinds:
            raise UserError(
                f"loss '{self.name}' trains heads of the kind {listed(self.kinds)}; '{head.name}' is {head.kind}"
            )
        self.head, self.kind = head, kind

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        width = self.kind.width(len(self.head.classes))
        if logits.ndim != 4 or logits.shape[1] != width:
            raise UserError(
                f"loss '{self.name}' of head '{self.head.name}' needs logits (B, {width}, h, w) and got "
                f"{tuple(logits.shape)}; correct 'output' in its row in losses"
            )
        with torch.autocast(logits.device.type, enabled=False):
            truth, known = self.kind.planes(resized(target, logits.shape[-2:]), len(self.head.classes))
            return self.values(logits.float(), truth, known.expand_as(truth))

    @abstractmethod
    def values(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        """float32 (B,): logits and truth (B, K, h, w), and bool of the same shape where the truth is known."""

    def by_class(self, parameter: str, given: float | Mapping[str, float], classes: Sequence[str]) -> Tensor:
        """float32 (classes, 1, 1): one number for all, or those that are given by name and 1 for the others."""
        if not isinstance(given, Mapping):
            given = dict.fromkeys(classes, given)
        for name in given:
            if name not in classes:
                raise UserError(f"loss '{self.name}': {parameter} names the class '{name}'; {nearest(name, classes)}")
        return torch.tensor([self.check(parameter, given.get(name, 1.0)) for name in classes]).view(-1, 1, 1)

    def check(self, parameter: str, value: float, below: float = float("inf")) -> float:
        """`value`, if it is in [0, below)."""
        if not 0 <= value < below:
            limit = "at least 0" if below == float("inf") else f"in [0, {below})"
            raise UserError(f"loss '{self.name}': {parameter} must be {limit} (it is {value})")
        return value


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over (B, N) of those that count, 0 where none does."""
    return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def resized(target: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """A target (B, ..., H, W) at the size of the logits, by its nearest pixels."""
    if target.shape[-2:] == size:
        return target
    planes = target[:, None] if target.ndim == 3 else target
    smaller = functional.interpolate(planes.float(), size=tuple(size), mode="nearest-exact").to(target.dtype)
    return smaller[:, 0] if target.ndim == 3 else smaller
