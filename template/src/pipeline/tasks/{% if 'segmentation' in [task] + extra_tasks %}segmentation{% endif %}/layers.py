"""What the networks are built with: heads, hooks, and which layers stay."""

import copy
from typing import Any

from segmentation_models_pytorch.base.initialization import initialize_head
from torch import Tensor, nn

KEPT = "kept_for_supervision"


def keep(module: nn.Module, _inputs: Any, made: Tensor) -> None:
    """A hook by which a module keeps what it gave. It is a function, so that a copied network keeps its own."""
    module.__dict__[KEPT] = made


def head_of(pattern: nn.Module, width: int) -> nn.Module:
    """A new layer like the one that smp made, with another number of logits."""
    head = copy.deepcopy(pattern)
    name, last = [(name, module) for name, module in head.named_modules() if isinstance(module, nn.Conv2d)][-1]
    parent, _, attribute = name.rpartition(".")
    padding = (last.kernel_size[0] // 2, last.kernel_size[1] // 2)
    new = nn.Conv2d(last.in_channels, width, last.kernel_size, padding=padding)  # type: ignore[arg-type]
    setattr(head.get_submodule(parent), attribute, new)
    initialize_head(head)
    return head


def drop_unused(network: nn.Module) -> None:
    """Put nothing in the place of layers whose parameters have no gradient."""
    for name, module in list(network.named_modules()):
        parameters = list(module.parameters())
        if name and parameters and all(parameter.grad is None for parameter in parameters):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, nn.Identity())
