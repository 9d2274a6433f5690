"""What the training stage of an epoch is made of. It changes where an intervention begins or ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.config import Experiment
from pipeline.data.loader import EpochBatches, TrainBatches, make_loader
from pipeline.registry import Names
from pipeline.tasks import Task
from pipeline.types import BatchTransform, Criterion, Step
from toolkit.images.row_reader import Reader

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class TrainStage:
    """The parts of one training stage, and the settings they were made from."""

    config: Experiment
    loader: EpochBatches
    criterion: Criterion
    step: Step
    transforms: Sequence[BatchTransform]


class TrainStages:
    """The training stage of each epoch. As a context it ends the loader's processes.

    Args:
        configs: the experiment as it is in each epoch.
        rows: those that train.
        root: the data folder.
        batches: which rows form a batch.
        reader: the cache of images, in place of the reader of the experiment.
    """

    def __init__(
        self,
        configs: Sequence[Experiment],
        names: Names,
        task: Task,
        rows: "pd.DataFrame",
        root: Path,
        batches: TrainBatches,
        device: torch.device,
        reader: Reader | None = None,
    ) -> None:
        self.configs, self.names, self.task = configs, names, task
        self.rows, self.root, self.batches, self.device = rows, root, batches, device
        self.reader = reader
        self.current: TrainStage | None = None
        # All of them now: what is wrong with the losses of a later epoch is said before the first step.
        distinct = {id(config): config for config in configs}
        self.criteria = {key: task.criterion(config.losses, names, rows) for key, config in distinct.items()}

    def at(self, epoch: int) -> TrainStage:
        """The stage of an epoch; beyond the last one, that of the experiment's last epoch."""
        config = self.configs[min(epoch, len(self.configs) - 1)]
        if self.current is None or self.current.config is not config:
            self.current = self._make(config)
        return self.current

    def __enter__(self) -> "TrainStages":
        return self

    def __exit__(self, *_: object) -> None:
        if self.current is not None:
            self.current.loader.__exit__()
            self.current = None

    def _make(self, config: Experiment) -> TrainStage:
        names = self.names
        return TrainStage(
            config,
            loader=self._loader(config),
            criterion=self.criteria[id(config)],
            step=names.bind("step", config.step),
            transforms=[names.bind("batch_transform", entry)() for entry in config.training.batch_transforms],
        )

    def _loader(self, config: Experiment) -> EpochBatches:
        """A loader; the one there is where nothing about the images changes, because its processes are running."""
        if self.current is not None:
            before = self.current.config
            if (before.image, before.augmentations) == (config.image, config.augmentations):
                return self.current.loader
            self.current.loader.__exit__()
        dataset = self.task.dataset(self.rows, self.root, config, self.names, "train", self.reader)
        workers = config.machine.workers
        return EpochBatches(make_loader(dataset, self.batches, self.task.collate, workers, self.device), self.device)
