"""What the networks are built with: heads, hooks, and which layers stay."""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import timm
import torch
from segmentation_models_pytorch.base.initialization import initialize_head
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from toolkit.errors import UserError

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


def group_matcher(name: str, coarse: bool) -> Callable[[str], float]:
    """The `group_matcher` of timm's whole encoder, for the names that its parameters have where it gives features.

    Raises:
        UserError: timm does not know the layers of this encoder.
    """
    with torch.device("meta"):
        whole: Any = timm.create_model(name)
    if not hasattr(whole, "group_matcher"):
        what = f"optimizer.layer_decay needs an encoder whose layers timm knows, and '{name}' is none"
        raise UserError(f"{what}; set optimizer.encoder_lr_factor instead")
    named = ((name, None) for name, _ in whole.named_parameters())
    layers = group_with_matcher(named, whole.group_matcher(coarse=coarse), reverse=True)
    known = {_plain(name): layer for name, layer in layers.items()}
    return lambda name: known.get(_plain(name), math.inf)


def _plain(name: str) -> str:
    """`model.stages_0.norm` and `stages.0.norm` are the same layer."""
    return re.sub(r"^(model\.)+", "", name).replace(".", "_")
