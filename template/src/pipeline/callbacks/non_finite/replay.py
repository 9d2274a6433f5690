"""A training step in a file, and run again on the same weights and random numbers to see where it goes wrong."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, StepResult
from toolkit.debug.causes import cause
from toolkit.debug.non_finite import Finder, Origin, is_finite
from toolkit.errors import UserError, listed
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


@dataclass(frozen=True)
class Finding:
    """What a replayed step came to.

    Attributes:
        wrong: names of losses, outputs and gradients that are not finite; empty if all are.
        origin: where the first of it came from; none if that cannot be told.
        samples: ids of those that it came from; empty if it came from all, or none in particular.
        cause: one sentence in words.
        fits_fp32: whether the same step in fp32 is finite; none where it was fp32 already.
    """

    wrong: tuple[str, ...]
    origin: Origin | None
    samples: tuple[str, ...]
    cause: str
    fits_fp32: bool | None = None

    def words(self) -> str:
        """One line: what is wrong, where it came from, why, and in which samples."""
        if self.origin is None:
            return f"{listed(self.wrong, 2)} not finite; {self.cause}"
        origin = self.origin
        if origin.phase == "batch":
            where = f"the batch's '{origin.operation}'"
        elif origin.phase == "weights":
            where = f"the weights '{origin.operation}'"
        else:
            gradient = "the gradient of " if origin.phase == "backward" else ""
            module = f" in {origin.module}" if origin.module else ""
            line = f" ({origin.line}: `{origin.code}`)" if origin.line else ""
            where = f"{gradient}'{origin.operation}'{module}{line}"
        samples = f"; samples: {listed(self.samples)}" if self.samples else ""
        return f"{listed(self.wrong, 2)} not finite, first in {where}: {self.cause}{samples}"


def replay(run: Run, batch: Batch, position: int) -> Finding:
    """Run a training step again and look at every operation of it. The gradients that are there stay.

    Args:
        batch: as it came from the loader, on the device.
        position: of the batch in the epoch; with the seed and the epoch it gives the random numbers.
    """
    ids, finder = [str(name) for name in batch[INPUT_ID]], Finder(run.model, len(batch[INPUT_ID]))
    finder.start_from("weights", {**dict(run.model.named_buffers()), **dict(run.model.named_parameters())})
    finder.start_from("batch", {key: value for key, value in batch.items() if isinstance(value, Tensor)})
    with _at(run, position), _own_gradients(run.model):
        with finder:
            result = run.run_step("train", batch)
            if result["loss"].requires_grad:
                result["loss"].backward()
        gradients = _gradients(run.model)
        losses, outputs = losses_of(result), result["outputs"]
        found = {**losses, **outputs, **gradients}
        wrong = tuple(name for name, value in found.items() if not is_finite(value))
        origin = finder.origin_of([*losses.values(), *outputs.values(), *gradients.values()])
        rows = origin.rows if origin is not None and origin.rows else _rows(result, len(ids))
    fits = fits_fp32(run, batch, position) if wrong and run.precision != "fp32" else None
    return Finding(wrong, origin, tuple(ids[row] for row in rows), _words(run, wrong, origin, fits), fits)


def losses_of(result: StepResult) -> dict[str, Tensor]:
    """The terms and their sum, by names that a person reads."""
    terms = {f"loss term '{term}'": value for term, value in result["losses"].items()}
    return {**terms, "the loss": result["loss"].detach()}


def _words(run: Run, wrong: tuple[str, ...], origin: Origin | None, fits_fp32: bool | None) -> str:
    if not wrong:
        return (
            "the same step, run again, is finite: what went wrong does not depend on the batch and the weights alone "
            "(a callback that changes gradients, an operation that is not deterministic, the share of another process)"
        )
    if origin is None:
        return "where it came from cannot be told"
    rate = max(float(group["lr"]) for group in run.optimizer.param_groups)
    words = cause(origin, rate, has_trained=run.progress.step > 0)
    if fits_fp32:
        return f"{words} (the same step in fp32 is finite: {run.precision} overflowed)"
    return words


def fits_fp32(run: Run, batch: Batch, position: int) -> bool | None:
    """Whether a training step is finite in fp32; none where that needs more memory than there is."""
    try:
        with _at(run, position), _own_gradients(run.model):
            result = run.run_step("train", batch, precision="fp32")
            result["loss"].backward()
            found: Mapping[str, Tensor] = {**losses_of(result), **result["outputs"], **_gradients(run.model)}
            return all(is_finite(value) for value in found.values())
    except torch.OutOfMemoryError:
        return None


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"the gradient of {name}": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _rows(result: StepResult, count: int) -> list[int]:
    """Samples whose losses or outputs are not finite; none if it is all of them, which says nothing."""
    wrong = torch.zeros(count, dtype=torch.bool)
    for value in (*result["sample_losses"].values(), *result["outputs"].values()):
        if value.ndim and len(value) == count and value.is_floating_point():
            wrong |= ~torch.isfinite(value).reshape(count, -1).all(dim=1).cpu()
    rows: list[int] = torch.nonzero(wrong).flatten().tolist()
    return rows if len(rows) < count else []


@contextmanager
def _at(run: Run, position: int) -> Iterator[None]:
    """The batch of an accumulation window may be an earlier one than the last."""
    now, run.progress.batch = run.progress.batch, position
    try:
        yield
    finally:
        run.progress.batch = now


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
