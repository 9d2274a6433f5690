"""What an epoch of training is made of: a phase lasts until an intervention begins or ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from pipeline.config import Experiment
from pipeline.data.loader import EpochBatches, TrainBatches, make_loader
from pipeline.training.setup import Setup
from pipeline.types import BatchTransform, Criterion, Step
from toolkit.images.readers import Reader


@dataclass
class Phase:
    """The parts of the training in some epochs, or of the validation, and the settings they were made from."""

    config: Experiment
    loader: EpochBatches
    criterion: Criterion
    step: Step
    transforms: Sequence[BatchTransform] = ()


class Phases:
    """The phase of each epoch; a `reader` is the cache of images, in place of the experiment's own."""

    def __init__(
        self, setup: Setup, rows: pd.DataFrame, batches: TrainBatches, device: torch.device, reader: Reader | None
    ) -> None:
        self.setup, self.rows, self.batches, self.device, self.reader = setup, rows, batches, device, reader
        self.current: Phase | None = None
        # All of them now: what is wrong with the losses of a later epoch is said before the first step.
        distinct = {id(config): config for config in (setup.config, *setup.epoch_configs)}
        self.criteria = {
            key: setup.task.criterion(config.losses, setup.names, rows).to(device) for key, config in distinct.items()
        }

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch; beyond the last one, that of the experiment's last epoch."""
        configs, names = self.setup.epoch_configs, self.setup.names
        config, before = configs[min(epoch, len(configs) - 1)], self.current
        if before is not None and before.config is config:
            return before
        loader = before.loader if before is not None and _same_images(before.config, config) else self._loader(config)
        transforms = [names.bind("batch_transform", entry)() for entry in config.training.batch_transforms]
        step = names.bind("step", config.step)
        self.current = Phase(config, loader, self.criteria[id(config)], step, transforms)
        return self.current

    def close(self) -> None:
        """End the loader's processes."""
        if self.current is not None:
            self.current.loader.__exit__()
            self.current = None

    def _loader(self, config: Experiment) -> EpochBatches:
        self.close()
        task, root = self.setup.task, self.setup.project.data
        dataset = task.dataset(self.rows, root, config, self.setup.names, "train", self.reader)
        loader = make_loader(dataset, self.batches, task.collate, config.machine.workers, self.device)
        return EpochBatches(loader, self.device)


def _same_images(first: Experiment, second: Experiment) -> bool:
    return (first.image, first.augmentations) == (second.image, second.augmentations)
