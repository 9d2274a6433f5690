"""Everything that one training step depends on, in a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.types import Batch
from toolkit.errors import UserError
from toolkit.files import atomic, write_text

FOLDER = "non_finite"  # runs/<experiment>/fold_<k>/non_finite/step_000123.pt, and .txt
FORMAT = 1


@dataclass(frozen=True)
class Dump:
    """One step that went wrong; its random numbers follow from seed, epoch, batch and rank.

    Attributes:
        weights: the model's state as it was before the step.
        rate: the learning rate of the last optimiser step.
        said: what was found, in words, and the lines that led there.
    """

    experiment: str
    fold: str
    config: dict[str, Any]
    epoch: int
    batch_number: int
    step: int
    rank: int
    precision: str
    rate: float
    batch: Batch
    weights: dict[str, Tensor]
    said: str
    format: int = field(default=FORMAT)

    def save(self, folder: Path) -> Path:
        """Write `step_<number>.pt`, and `.txt` for people; returns the first."""
        of_rank = f"_rank_{self.rank}" if self.rank else ""
        target = folder / FOLDER / f"step_{self.step:06d}{of_rank}.pt"
        with atomic(target) as path:
            torch.save(dict(vars(self)), path)
        write_text(target.with_suffix(".txt"), self.said)
        return target

    @classmethod
    def load(cls, path: Path) -> "Dump":
        """Read a dump, on the CPU.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise UserError(f"there is no dump {path}; a run writes it to its fold's folder {FOLDER}/") from None
        except Exception as error:  # a file of anything else fails in many ways
            raise UserError(f"{path} is no dump of a training step ({type(error).__name__})") from error
