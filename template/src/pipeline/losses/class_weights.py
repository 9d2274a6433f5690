"""Weights by class, from how many rows of each class train."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.errors import UserError, nearest


def class_weights(chosen: str | Mapping[str, float], classes: Sequence[str], counts: Tensor) -> Tensor:
    """Float32 (classes,), of mean 1 over the rows that train.

    Args:
        chosen: `balanced` for 1 / count, `sqrt` for 1 / sqrt(count), or weights by name; a class that is not named
            counts 1. A class without rows is weighted like one with a single row.
        classes: their names, in the order of the logits.
        counts: rows of each class, float (classes,).

    Raises:
        UserError: an unknown class, a negative weight, or weights that leave nothing to train.
    """
    counts = counts.double()
    if isinstance(chosen, str):
        weights = counts.clamp(min=1).pow(-1.0 if chosen == "balanced" else -0.5)
    else:
        for name, value in chosen.items():
            if name not in classes:
                raise UserError(f"class_weights: there is no class '{name}'; {nearest(name, classes)}")
            if not 0 <= value < float("inf"):
                raise UserError(f"class_weights: the weight of '{name}' must be at least 0 and finite (it is {value})")
        weights = torch.tensor([chosen.get(name, 1.0) for name in classes], dtype=torch.float64)
    total = (weights * counts).sum()
    if not total > 0:
        raise UserError("class_weights: every row that trains has the weight 0; give a class that has rows more")
    return (weights * counts.sum() / total).float()


def probabilities(target: Tensor, classes: int) -> Tensor:
    """Class numbers int64 (B,) or probabilities (B, classes) as float32 (B, classes)."""
    return target.float() if target.ndim == 2 else functional.one_hot(target, classes).float()
