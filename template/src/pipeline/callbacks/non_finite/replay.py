"""A training step in a file, and run again on the same weights and random numbers to see where it goes wrong."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Precision, Run, StepResult
from toolkit.debug.causes import cause
from toolkit.debug.non_finite import Finder, Origin, broken_rows, is_finite
from toolkit.errors import UserError, listed
from toolkit.files import atomic, write_text

FOLDER = "non_finite"  # runs/<experiment>/fold_<k>/non_finite/step_000123.pt, and .txt
NOT_SHOWN = (
    "not finite; the same step, run again, is finite: it does not depend on batch and weights alone (a callback that "
    "changes gradients, an operation that is not deterministic, another process's share)"
)

NO_MEMORY = "the cause is not named: there is not enough memory to run the step again operation by operation"


def save_dump(run: Run, batch: Batch, position: int, found: str) -> Path:
    """Keep a training step, with the weights of before it; its random numbers follow from seed, epoch, batch and rank.

    Args:
        position: of the batch in the epoch.
        found: what was, in words, and the lines that led there; it is written beside as `.txt`.
    """
    of_rank = f"_rank_{run.processes.rank}" if run.processes.rank else ""
    target = run.folder / FOLDER / f"step_{run.progress.step:06d}{of_rank}.pt"
    dump = {
        "experiment": run.experiment,
        "fold": run.fold,
        "config": run.config.model_dump(mode="json"),
        "epoch": run.progress.epoch,
        "batch_number": position,
        "step": run.progress.step,
        "rank": run.processes.rank,
        "precision": run.precision,
        "device": run.device.type,
        "batch": {key: value.cpu() if isinstance(value, Tensor) else value for key, value in batch.items()},
        "weights": {name: value.cpu() for name, value in run.model.state_dict().items()},
        "found": found,
    }
    with atomic(target) as path:
        torch.save(dump, path)
    write_text(target.with_suffix(".txt"), found)
    return target


def load_dump(path: Path) -> SimpleNamespace:
    """What was saved of a step, on the CPU.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        dump = torch.load(path, map_location="cpu", weights_only=True)
        return SimpleNamespace(**{"found": dump["found"], "device": "cpu", **dump})
    except FileNotFoundError:
        raise UserError(f"there is no dump {path}; a run writes it to its fold's folder {FOLDER}/") from None
    except Exception as error:  # a file of anything else fails in many ways
        raise UserError(f"{path} is no dump of a training step ({type(error).__name__})") from error


@dataclass(frozen=True)
class Finding:
    """What a step came to that was run again."""

    is_shown: bool  # it is not finite again
    origin: Origin | None  # of the first value that is not finite; none if that cannot be told
    words: str  # one line: what is wrong, where it came from, why, and in which samples


def replay(run: Run, batch: Batch, position: int, rate: float) -> Finding:
    """Run a training step again and look at every operation of it, as far as the memory allows. The gradients that are
    there stay.

    Args:
        batch: as it came from the loader, on the device.
        position: of the batch in the epoch; with the seed and the epoch it gives the random numbers.
        rate: the learning rate.
    """
    # Not in an `except` clause, which would hold on to the tensors of what has failed.
    with suppress(torch.OutOfMemoryError):
        return _explain(run, batch, position, rate)
    torch.cuda.empty_cache()
    with suppress(torch.OutOfMemoryError):
        values = _run(run, batch, position, nullcontext())[1]
        wrong = [name for name, value in values.items() if not is_finite(value)]
        return Finding(bool(wrong), None, f"{listed(wrong, 2)} not finite; {NO_MEMORY}" if wrong else NOT_SHOWN)
    torch.cuda.empty_cache()
    return Finding(True, None, f"a loss, an output or a gradient is not finite; {NO_MEMORY}")


def _explain(run: Run, batch: Batch, position: int, rate: float) -> Finding:
    ids = [str(name) for name in batch[INPUT_ID]]
    finder = Finder(run.model, len(ids))
    finder.start_from("weights", {**dict(run.model.named_buffers()), **dict(run.model.named_parameters())})
    finder.start_from("batch", {key: value for key, value in batch.items() if isinstance(value, Tensor)})
    result, values = _run(run, batch, position, finder)
    wrong = [name for name, value in values.items() if not is_finite(value)]
    origin = finder.origin_of(values.values())
    if not wrong:
        return Finding(False, None, NOT_SHOWN)
    if origin is None:
        return Finding(True, None, f"{listed(wrong, 2)} not finite; where it came from cannot be told")
    why = cause(origin, rate, has_trained=run.progress.step > 0)
    if run.precision != "fp32" and fits_fp32(run, batch, position):
        why += f" (the same step in fp32 is finite: {run.precision} overflowed)"
    rows = origin.rows or broken_rows([*result["sample_losses"].values(), *result["outputs"].values()], len(ids))
    samples = f"; samples: {listed(ids[row] for row in rows)}" if 0 < len(rows) < len(ids) else ""
    return Finding(True, origin, f"{listed(wrong, 2)} not finite, first in {origin.where()}: {why}{samples}")


def fits_fp32(run: Run, batch: Batch, position: int) -> bool | None:
    """Whether a training step is finite in fp32; none where that needs more memory than there is."""
    try:
        return all(map(is_finite, _run(run, batch, position, nullcontext(), "fp32")[1].values()))
    except torch.OutOfMemoryError:
        return None


def _run(
    run: Run, batch: Batch, position: int, context: AbstractContextManager[Any], precision: Precision | None = None
) -> tuple[StepResult, dict[str, Tensor]]:
    """A training step and its backward pass inside a context: the result, and losses, outputs and gradients by names
    that a person reads. The batch of an accumulation window may be an earlier one than the last."""
    now, gradients = run.progress.batch, [parameter.grad for parameter in run.model.parameters()]
    run.progress.batch = position
    run.model.zero_grad(set_to_none=True)
    try:
        with context:
            result = run.run_step("train", batch, precision=precision)
            if result["loss"].requires_grad:
                result["loss"].backward()
        terms = {f"loss term '{term}'": value for term, value in result["losses"].items()}
        found = {name: one.grad for name, one in run.model.named_parameters() if one.grad is not None}
        slopes = {f"the gradient of {name}": gradient for name, gradient in found.items()}
        return result, {**terms, "the loss": result["loss"].detach(), **result["outputs"], **slopes}
    finally:
        run.progress.batch = now
        for parameter, gradient in zip(run.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
