"""Averages of weights: over steps (EMA), over epochs (SWA), over the best epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.config import Averaging
from pipeline.inference.weights import load_weights
from toolkit.errors import UserError

Model = TypeVar("Model", bound=nn.Module)


class WeightAverages:
    """The averages that grow while a model trains.

    - EMA: `average = decay * average + (1 - decay) * weights` after each optimiser step (Polyak & Juditsky, 1992), by
      timm; with `ema_warmup` the decay is `1 - (1 + step) ** (-2 / 3)` until that exceeds `ema_decay`. Buffers, such
      as batch norm's statistics, are averaged alike.
    - SWA: the plain mean of the weights at the end of each epoch from `swa_start` on (Izmailov et al.,
      arXiv:1803.05407), by torch.

    Raises:
        UserError: `swa_start` is no epoch of this training.
    """

    def __init__(self, model: nn.Module, settings: Averaging, epochs: int) -> None:
        self.ema: ModelEmaV3 | None = None
        self.swa: AveragedModel | None = None
        if settings.ema_decay is not None:
            self.ema = ModelEmaV3(model, decay=settings.ema_decay, use_warmup=settings.ema_warmup)
        if settings.swa_start is not None:
            start = settings.swa_start
            self.first = start - 1 if start > 0 else epochs + start
            if not 0 <= self.first < epochs or start == 0:
                raise UserError(f"averaging.swa_start is {start}, and there are {epochs} epochs; count from 1 or -1")
            self.swa = AveragedModel(model)

    def epoch_ended(self, model: nn.Module, epoch: int) -> None:
        """After an epoch, counted from 0."""
        if self.swa is not None and epoch >= self.first:
            self.swa.update_parameters(model)

    def scored(self, model: Model) -> Model:
        """The weights that are evaluated and kept: the moving average where there is one."""
        averaged: Model = model if self.ema is None else self.ema.module
        return averaged

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        if self.swa is not None:
            state["swa"] = self.swa.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.swa is not None:
            self.swa.load_state_dict(state["swa"])


def load_mean(model: nn.Module, files: Sequence[Path]) -> None:
    """Load the mean of several epochs' weights and buffers, computed in float64; counters are the last file's."""
    total: dict[str, Tensor] = {}
    for file in files:
        load_weights(model, file)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                total[name] = total.get(name, 0) + value.double() / len(files)
    model.load_state_dict({**model.state_dict(), **total})
