"""The model of a fold: made, with the weights it starts from, and what of it trains."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Model
from pipeline.inference.pseudo_labels import teacher_models
from pipeline.inference.weights import load_initial_weights
from pipeline.losses.distillation import Distillation
from pipeline.training.setup import Setup
from pipeline.training.step import seed_everything
from pipeline.types import Criterion, PreparedModel
from toolkit.distributed import Processes
from toolkit.errors import UserError, nearest


def make_model(
    setup: Setup, fold: str, rows: pd.DataFrame, device: torch.device, processes: Processes, fresh: bool
) -> PreparedModel:
    """The model on the device, the same in all processes; only a `fresh` one needs the weights it starts from."""
    config, settings = setup.config, setup.config.model
    seed_everything(config.seed, 1_000 if fold == "full" else int(fold))
    from_hub = fresh and settings.pretrained and settings.weights is None
    model = setup.task.model(config, setup.names, pretrained=from_hub)
    if fresh and settings.weights is not None:
        load_initial_weights(model, settings.weights, setup.project, fold, setup.folds.hash)
    for of_epoch in {id(one): one for one in setup.epoch_configs}.values():
        freeze(model.network, of_epoch.model)  # what names no part is refused before the first step
    model.network.requires_grad_(True)  # DDP averages what trains when it is made; each epoch freezes its own parts
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    if fresh:
        setup.task.fit_statistics(model.network, rows)
    processes.copy_from_main(iter(model.state_dict().values()))
    return model


def set_teachers(setup: Setup, fold: str, model: PreparedModel, criteria: Iterable[Criterion]) -> None:
    """Give the losses that learn from a teacher its models of this fold, each loaded once, on the student's device."""
    loaded: dict[str, list[PreparedModel]] = {}
    for part in [part for criterion in criteria for part in criterion.modules() if isinstance(part, Distillation)]:
        if part.teacher not in loaded:
            given = setup.project, part.teacher, setup.config, setup.folds.hash, setup.task.heads, fold
            loaded[part.teacher] = models = teacher_models(*given)
            for each in models:
                each.to(next(model.parameters()).device)
                if next(each.parameters()).is_cuda:
                    each.to(memory_format=torch.channels_last)
        part.set_teacher(loaded[part.teacher], model.prepare, setup.task.predictions.logits())


def freeze(network: nn.Module, settings: Model) -> None:
    """Let everything train but what `frozen` (`encoder.layer1` and all below it, `*` for any text) and `freeze_norm`
    name. Call it after `network.train()`.

    A frozen parameter gets no gradient, so optimisers leave it alone, weight decay included. Batch norm inside a frozen
    part, and with `freeze_norm` everywhere, normalises by its running statistics and does not move them.

    Raises:
        UserError: a name that is no part of the network, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in settings.frozen:
        if not any(_matches(name, (pattern,)) for name in parameters):
            parts = [name for name, _ in network.named_modules() if name]
            raise UserError(f"model.frozen: '{pattern}' is no part of the network; {nearest(pattern, parts)}")
    frozen = {name for name in parameters if _matches(name, settings.frozen)}
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (settings.freeze_norm or _matches(name, settings.frozen)):
            module.eval()
            frozen |= {f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)}
    if frozen >= set(parameters):
        raise UserError("model.frozen leaves nothing to train; name fewer parts")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)
