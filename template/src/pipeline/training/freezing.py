"""Parts of a network that do not train."""

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Model
from toolkit.errors import UserError, nearest


def freeze(network: nn.Module, settings: Model) -> None:
    """Let everything train but what `frozen` and `freeze_norm` name. Call it after `network.train()`.

    A frozen parameter gets no gradient, so optimisers leave it alone, weight decay included. Batch norm inside a frozen
    part, and with `freeze_norm` everywhere, normalises by its running statistics and does not move them.

    Raises:
        UserError: a name that is no part of the network (the nearest one is named), or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    frozen = frozen_names(network, settings.frozen)
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (settings.freeze_norm or _matches(name, settings.frozen)):
            module.eval()
            frozen |= {f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)}
    if frozen >= set(parameters):
        raise UserError("model.frozen leaves nothing to train; name fewer parts")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def frozen_names(network: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """The parameters that the patterns name: `encoder.layer1` stands for all below it, `*` for any text."""
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in names):
            parts = [name for name, _ in network.named_modules() if name]
            raise UserError(f"model.frozen: '{pattern}' is no part of the network; {nearest(pattern, parts)}")
    return {name for name in names if _matches(name, patterns)}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)
