"""Averages of weights that grow while a model trains: over steps (EMA), over epochs (SWA)."""

from typing import TypeVar

from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.config import Averaging
from toolkit.errors import UserError

Model = TypeVar("Model", bound=nn.Module)


class WeightAverages(nn.Module):
    """The averages of `averaging`, each none where it is off.

    - `ema`: `average = decay * average + (1 - decay) * weights` after each optimiser step (Polyak & Juditsky, 1992), by
      timm; with `ema_warmup` the decay is `1 - (1 + step) ** (-2 / 3)` until that exceeds `ema_decay`. Buffers, such
      as batch norm's statistics, are averaged alike.
    - `swa`: the plain mean of the weights at the end of each epoch from `swa_start` on (Izmailov et al.,
      arXiv:1803.05407), by torch.
    """

    def __init__(self, model: nn.Module, settings: Averaging, epochs: int) -> None:
        super().__init__()
        decay, start = settings.ema_decay, settings.swa_start
        self.ema = None if decay is None else ModelEmaV3(model, decay=decay, use_warmup=settings.ema_warmup)
        self.swa = None if start is None else AveragedModel(model)
        if start is not None:
            self.first = start - 1 if start > 0 else epochs + start
            if not 0 <= self.first < epochs or start == 0:
                raise UserError(f"averaging.swa_start is {start}, and there are {epochs} epochs; count from 1 or -1")

    def epoch_ended(self, model: nn.Module, epoch: int) -> None:
        """Take an epoch, counted from 0, into the mean."""
        if self.swa is not None and epoch >= self.first:
            self.swa.update_parameters(model)

    def scored(self, model: Model) -> Model:
        """The weights that are evaluated and stored: the moving average where there is one."""
        averaged: Model = model if self.ema is None else self.ema.module
        return averaged
