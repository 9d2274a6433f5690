"""What the networks are built with: heads, hooks, and what an encoder of a fixed size needs."""

import copy
from typing import Any

from segmentation_models_pytorch.base.initialization import initialize_head
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from pipeline.config import Model
from pipeline.errors import UserError

KEPT = "kept_for_supervision"


def keep(module: nn.Module, _inputs: Any, made: Tensor) -> None:
    """A hook by which a module keeps what it gave. It is a function, so that a copied network keeps its own."""
    module.__dict__[KEPT] = made


def fixed_size(settings: Model) -> bool:
    """Whether timm builds the encoder for images of one size; one from the hub is known only after it is fetched."""
    config = None if ":" in settings.encoder else get_pretrained_cfg(settings.encoder)
    return ":" in settings.encoder or (config is not None and config.fixed_input_size)


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


def recompute(encoder: nn.Module, name: str) -> None:
    """Let an encoder recompute its activations."""
    try:
        encoder.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"encoder '{name}' cannot recompute its activations; set model.grad_checkpointing: false"
        ) from error


def drop_unused(network: nn.Module) -> None:
    """Put nothing in the place of layers whose parameters have no gradient."""
    for name, module in list(network.named_modules()):
        parameters = list(module.parameters())
        if name and parameters and all(parameter.grad is None for parameter in parameters):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, nn.Identity())
