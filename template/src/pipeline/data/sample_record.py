"""A sample as the model saw it, which callbacks keep and figures draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from toolkit.plots.images import shortened


@dataclass(frozen=True, eq=False)
class SampleRecord:
    """One sample of a batch, on the CPU.

    Attributes:
        id: of its row.
        row: position of its row in the table.
        image: (H, W, C), augmented and not yet prepared: uint8, or float32 in [0, 1].
        targets, outputs: by key, as in a batch and what the model returned, without the dimension of the batch.
        loss: the weighted sum of its losses, or the term that it is ranked by.
        mixed: where it was mixed, the id of its partner and the share that is left of the sample itself.
        scored: the metric that ranks it, where one does, and what it says of this sample alone; NaN: nothing.
    """

    id: str
    row: int
    image: np.ndarray
    targets: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    loss: float
    mixed: tuple[str, float] | None = None
    scored: tuple[str, float] | None = None

    def caption(self) -> str:
        """`loss 1.23`, with the metric where one ranks, and whom it is mixed with."""
        name, score = self.scored or ("", math.nan)
        line = f"{f'{name} {score:.3g}, ' if math.isfinite(score) else ''}loss {self.loss:.3g}"
        return f"{line}\nmixed: {self.mixed[1]:.0%}, rest {shortened(self.mixed[0], 14)}" if self.mixed else line
