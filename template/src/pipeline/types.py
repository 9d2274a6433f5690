"""What an engine drives and what a step returns. No framework is named here.

An engine owns the loop, accumulation and distribution; all else of a run is behind `Run`, the same for every engine.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.competition import Head, Metric
from pipeline.config import Experiment
from pipeline.trackers import Trackers
from toolkit.distributed import Processes
from toolkit.signals import LeaveOnSignal

Stage = Literal["train", "valid"]
Precision = Literal["fp32", "bf16", "fp16"]
Batch = dict[str, Any]
Criterion = nn.Module  # (outputs, batch) -> LossResult; what it holds is on the device
BatchTransform = Callable[[Batch], Batch]  # on the device, after `Prepare`, while training
Index = tuple[int, int] | tuple[int, int, int]  # of a sample: see `SampleDataset`


class PreparedModel(nn.Module):
    """What a task's model is: `prepare`, then `network`, saved together; a step may change the batch in between."""

    def __init__(self, prepare: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.prepare, self.network = prepare, network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network(self.prepare(batch))
        return outputs


class LossResult(TypedDict):
    """What a criterion returns: the scalar that trains, each term, and each term per sample."""

    loss: Tensor  # float32 scalar, keeps its graph
    losses: dict[str, Tensor]  # term -> float32 scalar, detached
    sample_losses: dict[str, Tensor]  # term -> float32 (B,), detached


class StepResult(LossResult):
    """What a step returns: the losses and the model's outputs, detached outside `loss`. Of a mixed batch also who was
    mixed with whom: `INPUT_PARTNER`, here the `INPUT_ROW` of the partner, and `INPUT_SHARE`."""

    outputs: dict[str, Tensor]
    mixed: NotRequired[dict[str, Tensor]]


@dataclass(frozen=True)
class StepContext:
    """What a step may know beside batch and model; what it draws at random is a function of seed, epoch and batch."""

    stage: Stage
    epoch: int
    batch: int  # position in the epoch
    step: int  # optimiser steps done
    criterion: Criterion
    transforms: Sequence[BatchTransform] = ()  # of a training batch; none in the other stages


Step = Callable[[Batch, PreparedModel, StepContext], StepResult]


class Verdict(IntEnum):
    """What a callback may answer when the gradients are ready, before the optimiser steps. The highest one counts."""

    GO = 0
    SKIP = 1
    STOP = 2


@dataclass
class Progress:
    """Where a run stands: the epoch, the batches of it that are done, the optimiser steps done in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class StageResult:
    """What a stage of an epoch (or the final prediction of the held-out rows) came to.

    Attributes:
        losses: mean per term over the stage's samples, and `loss` for their weighted sum.
        metrics: every metric of the competition; empty for the training stage.
        truth, predictions: tables indexed by id, in the same order; none for the training stage.
        seconds: wall time of the stage.
        waited: seconds of it for which the model waited for training batches; the start of the loader is left out.
        raw: the same rows with the weights as they train, where the moving average of the weights is what is scored.
        weights: in the final prediction, which weights these are: `best epoch 7`, `mean of epochs 5, 6, 7`.
    """

    stage: Stage
    epoch: int
    losses: dict[str, float]
    metrics: dict[str, float] = field(default_factory=dict)
    truth: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    seconds: float = 0.0
    waited: float = 0.0
    raw: "StageResult | None" = None
    weights: str = ""


class SampleDataset(Dataset[dict[str, Any]], ABC):
    """Sample dicts by (epoch, position, turn), or by the position alone. Rows come in their order, and one may have
    several samples; the turn, 0 if not given, counts how often the sampler shows a row in an epoch, each time augmented
    anew."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    def starts(self) -> Sequence[int]:
        """Positions of the samples with which a row begins, ascending; one process predicts all samples of a row."""
        return range(len(self))

    @abstractmethod
    def picture(self, row: int) -> np.ndarray:
        """What the model sees of a row, or the whole of it where it sees parts: uint8 or float32 (H, W, C)."""


@dataclass(frozen=True)
class Best:
    """One of the best epochs, counted from 0, by what `training.monitor` names; `loss` is that on the held-out rows,
    `ties` decide before it between equal scores, greater is better."""

    epoch: int
    score: float
    loss: float = math.inf
    ties: tuple[float, ...] = ()


class Batches(Protocol):
    """Batches whose number is known before the first is read."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class Run(Protocol):
    """A fold's training, as callbacks read it and an engine drives it.

    The order of calls is the engine's promise: per epoch `epoch_start`, per batch `train_batch`, (where `window_ends`:
    `gradients_ready` with unscaled gradients, the optimiser's step), `batch_end`; then `valid_batch` for each batch of
    `valid_loader`, and `epoch_end`. The loss is divided by `training.accumulate` before it is differentiated, also in
    an epoch's last window, which may be shorter.
    """

    config: Experiment
    experiment: str
    fold: str  # "0", "1", ... or "full"
    folder: Path  # runs/<experiment>/fold_<k>
    heads: Sequence[Head]
    metrics: Sequence[Metric]
    model: PreparedModel
    optimizer: torch.optim.Optimizer
    tracker: Trackers
    progress: Progress
    epochs: int
    batches_per_epoch: int
    device: torch.device
    precision: Precision
    scaler: torch.amp.GradScaler  # the engine scales with it, and the run saves it; for all but fp16 it scales nothing
    gradient_norm: Tensor | None  # of all gradients, unscaled and not clipped, where a callback has measured it
    processes: Processes  # those that train this fold together; the engine averages their gradients
    engine_callbacks: Sequence[Any]  # of the engine's own kind, in the order of the experiment
    signals: LeaveOnSignal  # the engine lets it `watch` once the framework has put in its own handlers

    @property
    def best(self) -> Best | None:
        """The best epoch so far; none before the first one has ended."""

    @property
    def valid_loader(self) -> Batches:
        """Every held-out row once; empty when training on everything."""

    def samples(self, stage: Stage) -> tuple[SampleDataset, list[Index]]:
        """What gives a stage's samples, in the epoch that runs, and their positions in the order of
        the batches of this process, since the epoch began or continued."""

    @property
    def window_ends(self) -> bool:
        """Whether the optimiser steps after the current batch: it ends its accumulation window, or the epoch."""

    def run_step(
        self, stage: Stage, batch: Batch, model: PreparedModel | None = None, precision: Precision | None = None
    ) -> StepResult:
        """Run the step on a batch on the device, with the same dropout and mixup each time; gradients flow as usual.

        For what needs a second pass (SAM, AWP). Without `model` the one that trains; `precision` is that of the run.
        """

    def train_batches(self) -> Batches:
        """The batches of the current epoch that are still to do, on the device."""

    def epoch_start(self) -> None:
        """Before the first batch of an epoch, or of the rest of one."""

    def train_batch(self, batch: Batch) -> Tensor:
        """Run the training step; returns the loss to be differentiated."""

    def gradients_ready(self) -> None:
        """Ask the callbacks, then clip. Of a vetoed step no gradients are left; `STOP` is raised as an exception."""

    def optimizer_step(self) -> None:
        """Unscale, `gradients_ready`, step and clear, for engines whose framework does not."""

    def batch_end(self) -> None:
        """Count batch and step, set the next learning rate; save when it is time, leave when it was asked for."""

    def valid_batch(self, batch: Batch) -> None:
        """Run the step without gradients and keep what the metrics need."""

    def epoch_end(self) -> None:
        """Metrics, logs, checkpoints; the next epoch may start."""


class StepModule(nn.Module):
    """The training step as a module, which is what frameworks know how to distribute: batch dict in, loss out."""

    def __init__(self, loop: Run) -> None:
        super().__init__()
        self.loop = loop
        self.model = loop.model

    def forward(self, batch: Batch) -> Tensor:
        return self.loop.train_batch(batch)
