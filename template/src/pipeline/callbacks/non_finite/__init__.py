"""NaN and Inf, caught before the optimiser steps: found, explained, kept for a second look.

Losses, outputs and gradients are looked at in every step, with one number read back. When one of them is not finite,
the step is run again on the same weights with the same random numbers, operation by operation (`finder`), and what was
found is said in words (`causes`). A `dump` holds all of it; `scripts/replay.py` runs it alone.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.callbacks.non_finite.replay import Dump, Finding, fits_fp32, losses_of, replay
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, Stage, StepResult, Verdict
from toolkit.debug.non_finite import is_finite
from toolkit.errors import UserError, listed

MOST_DUMPS = 3  # of a run: a dump is as large as the weights
DETECTED = "returned nan values"  # what torch says under `watch.anomaly`


class NonFinite(Callback):
    """Stops a training, or skips the step, when a loss, an output or a gradient is not finite: `watch` says which.

    Gradients that overflow under the loss scaling of fp16 are no fault: the scaler lowers its scale and leaves the
    step out by itself. They are told apart by the same step in fp32.

    Raises:
        UserError: when the gradients are ready, with what was found, where the policy is to stop, or skips run out.
    """

    every_process = True  # each looks at its own share
    changes_gradients = False

    def __init__(self) -> None:
        self.window: list[tuple[int, Batch]] = []  # whose gradients are being gathered, by position in the epoch
        self.sums: list[Tensor] = []  # of all losses and outputs of each
        self.buffers: list[Tensor] = []  # as they were before the window
        self.skipped = 0
        self.dumps = 0
        self.overflows = 0
        self.held_out: dict[str, None] = {}  # ids of held-out samples without a finite loss or output

    def on_run_start(self, run: Run) -> None:
        if run.config.watch.anomaly:
            torch.autograd.set_detect_anomaly(True)

    def on_run_end(self, run: Run, result: Any) -> None:
        if run.config.watch.anomaly:
            torch.autograd.set_detect_anomaly(False)

    def on_batch_start(self, run: Run, stage: Stage, batch: Batch) -> None:
        if stage == "train" and not self.window:
            now = list(run.model.buffers())
            if len(self.buffers) != len(now):
                self.buffers = [buffer.detach().clone() for buffer in now]
            else:
                _copy(self.buffers, now)
        if stage == "train":
            self.window.append((run.progress.batch, batch))

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        values = [*losses_of(result).values(), *result["outputs"].values()]
        total = torch.stack([value.detach().sum(dtype=torch.float32) for value in values if value.is_floating_point()])
        if stage == "train":
            self.sums.append(total.sum())
        elif not math.isfinite(float(total.sum())):
            self._remember(batch, result)

    def on_gradients_ready(self, run: Run) -> Verdict:
        window, self.window = self.window, []
        sums, self.sums = self.sums, []
        gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        forward = torch.stack(sums).sum() if sums else torch.zeros(())
        if math.isfinite(float(forward + norm.to(forward.device))):
            return Verdict.GO
        only_gradients = math.isfinite(float(forward))
        if only_gradients and all(is_finite(gradient) for gradient in gradients):
            return Verdict.GO  # they are large, and their sum is not a float any more
        buffers = list(run.model.buffers())  # such as the statistics of batch norm
        after = [buffer.detach().clone() for buffer in buffers]
        _copy(buffers, self.buffers)
        if only_gradients and run.scaler.is_enabled() and self._fits_fp32(run, window):
            _copy(buffers, after)
            self.overflows += 1
            return Verdict.GO  # the scaler leaves the step out, and lowers its scale
        finding, batch, position = self._look(run, window)
        _copy(buffers, self.buffers)
        if not finding.wrong and run.processes.size > 1:
            return self._of_another(run)
        return self._act(run, finding, batch, position)

    def on_epoch_end(self, run: Run, result: Any) -> None:
        if result.stage == "train" and run.scaler.is_enabled():
            run.tracker.scalars({"fp16/overflows": float(self.overflows)}, run.progress.step)
        if self.held_out and result.stage == "valid":
            samples = f"{len(self.held_out)} held-out samples ({listed(self.held_out)})"
            _say(f"epoch {result.epoch + 1}: {samples} have a loss or an output that is not finite")
            self.held_out = {}

    def on_exception(self, run: Run, error: BaseException) -> None:
        torch.autograd.set_detect_anomaly(False)
        if isinstance(error, RuntimeError) and DETECTED in str(error) and self.window:
            _copy(list(run.model.buffers()), self.buffers)
            finding, batch, position = self._look(run, self.window)
            self._act(run, finding, batch, position, stop=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "dumps": self.dumps, "overflows": self.overflows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.dumps = state.get("skipped", 0), state.get("dumps", 0)
        self.overflows = state.get("overflows", 0)

    def _fits_fp32(self, run: Run, window: list[tuple[int, Batch]]) -> bool:
        """Whether the scaling alone is to blame, as far as the memory allows to tell."""
        return all(fits_fp32(run, batch, position) is not False for position, batch in window)

    def _look(self, run: Run, window: list[tuple[int, Batch]]) -> tuple[Finding, Batch, int]:
        """What went wrong, and in which batch of the window: the last one, where none shows it again."""
        for position, batch in window:
            finding = replay(run, batch, position)
            if finding.wrong:
                break
        return finding, batch, position

    def _of_another(self, run: Run) -> Verdict:
        """Gradients are averaged: another process finds the cause in its share, and says it."""
        self.skipped += 1
        settings = run.config.watch
        goes_on = settings.non_finite == "skip" and self.skipped <= settings.max_skips
        return Verdict.SKIP if goes_on else Verdict.STOP

    def _act(self, run: Run, finding: Finding, batch: Batch, position: int, stop: bool = False) -> Verdict:
        settings, now = run.config.watch, run.progress
        if not finding.wrong:  # the step alone does not show it
            parameters = run.model.named_parameters()
            seen = [name for name, one in parameters if one.grad is not None and not is_finite(one.grad)]
            wrong = tuple(f"the gradient of {name}" for name in seen) or ("a loss or an output",)
            finding = replace(finding, wrong=wrong)
        where = f"step {now.step} (epoch {now.epoch + 1}, batch {position + 1}) of fold {run.fold}"
        said = f"{where}: {finding.words()}"
        kept = self._dump(run, finding, batch, position, said)
        broken = finding.origin is not None and finding.origin.phase == "weights"
        self.skipped += 1
        if stop or broken or settings.non_finite == "stop" or self.skipped > settings.max_skips:
            spent = f"; {settings.max_skips} steps were skipped before it" if settings.non_finite == "skip" else ""
            raise UserError(f"{said}{spent}{kept}")
        _say(f"{said}; skipped, {self.skipped} of at most {settings.max_skips}{kept}")
        return Verdict.SKIP

    def _dump(self, run: Run, finding: Finding, batch: Batch, position: int, said: str) -> str:
        """Keep the step; says how to look at it."""
        self.dumps += 1
        if self.dumps > MOST_DUMPS:
            return ""
        now = run.progress
        trace = f"\n\n{finding.origin.traceback}" if finding.origin is not None and finding.origin.traceback else ""
        path = Dump(
            experiment=run.experiment,
            fold=run.fold,
            config=run.config.model_dump(mode="json"),
            epoch=now.epoch,
            batch_number=position,
            step=now.step,
            rank=run.processes.rank,
            precision=run.precision,
            rate=max(float(group["lr"]) for group in run.optimizer.param_groups),
            batch={key: value.cpu() if isinstance(value, Tensor) else value for key, value in batch.items()},
            weights={name: value.cpu() for name, value in run.model.state_dict().items()},
            said=f"{said}{trace}\n",
        ).save(run.folder)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"; look at it again with: python scripts/replay.py {shown}"

    def _remember(self, batch: Batch, result: StepResult) -> None:
        for value in (*result["sample_losses"].values(), *result["outputs"].values()):
            if value.is_floating_point() and value.ndim and len(value) == len(batch[INPUT_ID]):
                wrong = ~torch.isfinite(value).reshape(len(value), -1).all(dim=1)
                self.held_out.update(
                    {str(name): None for name, bad in zip(batch[INPUT_ID], wrong.tolist(), strict=True) if bad}
                )


def _copy(into: list[Tensor], source: list[Tensor]) -> None:
    """Buffers of each dtype at once."""
    for dtype in {buffer.dtype for buffer in into}:
        pairs = [(one, other) for one, other in zip(into, source, strict=True) if one.dtype == dtype]
        with torch.no_grad():
            torch._foreach_copy_([one for one, _ in pairs], [other.detach() for _, other in pairs])


def _say(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
