"""What an epoch of training is made of: a phase lasts until an intervention begins or ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import Experiment, Model
from pipeline.data.loader import EpochBatches, TrainBatches, make_loader
from pipeline.training.setup import Setup
from pipeline.types import BatchTransform, Criterion, Step
from toolkit.errors import UserError, nearest
from toolkit.images.row_reader import Reader

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Phase:
    """The parts of the training in some epochs, and the settings they were made from."""

    config: Experiment
    loader: EpochBatches
    criterion: Criterion
    step: Step
    transforms: Sequence[BatchTransform]


class Phases:
    """The phase of each epoch.

    Args:
        rows: those that train.
        batches: which rows form a batch.
        reader: the cache of images, in place of the reader of the experiment.
    """

    def __init__(
        self, setup: Setup, rows: "pd.DataFrame", batches: TrainBatches, device: torch.device, reader: Reader | None
    ) -> None:
        self.setup, self.rows, self.batches, self.device, self.reader = setup, rows, batches, device, reader
        self.current: Phase | None = None
        # All of them now: what is wrong with the losses of a later epoch is said before the first step.
        distinct = {id(config): config for config in setup.epoch_configs}
        self.criteria = {
            key: setup.task.criterion(config.losses, setup.names, rows) for key, config in distinct.items()
        }

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch; beyond the last one, that of the experiment's last epoch."""
        configs = self.setup.epoch_configs
        config = configs[min(epoch, len(configs) - 1)]
        if self.current is None or self.current.config is not config:
            names = self.setup.names
            self.current = Phase(
                config,
                loader=self._loader(config),
                criterion=self.criteria[id(config)],
                step=names.bind("step", config.step),
                transforms=[names.bind("batch_transform", entry)() for entry in config.training.batch_transforms],
            )
        return self.current

    def close(self) -> None:
        """End the loader's processes."""
        if self.current is not None:
            self.current.loader.__exit__()
            self.current = None

    def _loader(self, config: Experiment) -> EpochBatches:
        """A loader; the one there is where nothing about the images changes, because its processes are running."""
        if self.current is not None:
            before = self.current.config
            if (before.image, before.augmentations) == (config.image, config.augmentations):
                return self.current.loader
            self.current.loader.__exit__()
        task, root = self.setup.task, self.setup.project.data
        dataset = task.dataset(self.rows, root, config, self.setup.names, "train", self.reader)
        loader = make_loader(dataset, self.batches, task.collate, config.machine.workers, self.device)
        return EpochBatches(loader, self.device)


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
