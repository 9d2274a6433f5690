"""NaN and Inf, caught before the optimiser steps: found, explained, kept for a second look.

Losses, outputs and gradients are looked at in every step, with one number read back. When one of them is not finite,
the step is run again on the same weights with the same random numbers, operation by operation, and what was found is
said in words. A dump holds all of it; `scripts/replay.py` runs it alone.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.callbacks.non_finite.replay import Finding, fits_fp32, replay, save_dump
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, Stage, StageResult, StepResult, Verdict
from toolkit.debug.non_finite import broken_rows, is_finite
from toolkit.errors import UserError, listed

MOST_DUMPS = 3  # of a run: a dump is as large as the weights
DETECTED = "returned nan values"  # what torch says under `watch.anomaly`
Window = list[tuple[int, Batch]]  # batches whose gradients are summed, by position in the epoch


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
        self.window: Window = []
        self.sums: list[Tensor] = []  # of all losses and outputs of each batch of it
        self.buffers: list[Tensor] = []  # as they were before it, such as the statistics of batch norm
        self.skipped = self.dumps = self.overflows = 0
        self.held_out: dict[str, None] = {}  # ids of held-out samples without a finite loss or output

    def on_run_start(self, run: Run) -> None:
        torch.autograd.set_detect_anomaly(run.config.watch.anomaly)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        torch.autograd.set_detect_anomaly(False)

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "train":
            self.buffers = [buffer.detach().clone() for buffer in run.model.buffers()]

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        values = [result["loss"], *result["losses"].values(), *result["outputs"].values()]
        total = torch.stack([each.detach().sum(dtype=torch.float32) for each in values if each.is_floating_point()])
        if stage == "train":
            self.window.append((run.progress.batch, batch))
            self.sums.append(total.sum())
        elif not math.isfinite(float(total.sum())):
            rows = broken_rows([*result["sample_losses"].values(), *result["outputs"].values()], len(batch[INPUT_ID]))
            self.held_out |= dict.fromkeys(str(batch[INPUT_ID][row]) for row in rows)

    def on_gradients_ready(self, run: Run) -> Verdict:
        window, forward = self.window, torch.stack(self.sums).sum()
        self.window, self.sums, verdict = [], [], Verdict.GO
        gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        if not math.isfinite(float(forward + norm.to(forward.device))):
            verdict = self._judge(run, window, math.isfinite(float(forward)), gradients)
        now = [buffer.detach() for buffer in run.model.buffers()]
        if len(now) != len(self.buffers):  # a module has made one in its first step
            self.buffers = [buffer.clone() for buffer in now]
        for dtype in {buffer.dtype for buffer in now}:  # of each dtype at once
            before, after = ([each for each in buffers if each.dtype == dtype] for buffers in (self.buffers, now))
            torch._foreach_copy_(before, after)
        return verdict

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.stage == "train" and run.scaler.is_enabled():
            run.tracker.scalars({"fp16/overflows": float(self.overflows)}, run.progress.step)
        if self.held_out and result.stage == "valid":
            samples = f"{len(self.held_out)} held-out samples ({listed(self.held_out)})"
            _warn(f"epoch {result.epoch + 1}: {samples} have a loss or an output that is not finite")
            self.held_out = {}

    def on_exception(self, run: Run, error: BaseException) -> None:
        torch.autograd.set_detect_anomaly(False)
        if isinstance(error, RuntimeError) and DETECTED in str(error) and self.window:
            self._act(run, *self._find(run, self.window), stop=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "dumps": self.dumps, "overflows": self.overflows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.dumps = state.get("skipped", 0), state.get("dumps", 0)
        self.overflows = state.get("overflows", 0)

    def _judge(self, run: Run, window: Window, forward_is_finite: bool, gradients: Sequence[Tensor]) -> Verdict:
        """What to do with a step whose sums are not finite. A veto leaves buffers as they were before the step."""
        if forward_is_finite and all(map(is_finite, gradients)):
            return Verdict.GO  # they are large, and their sum is not a float any more
        if forward_is_finite and run.scaler.is_enabled():
            after = [buffer.detach().clone() for buffer in run.model.buffers()]
            _restore(run, self.buffers)
            # As far as the memory allows to tell; then the scaler leaves the step out, and lowers its scale.
            if all(fits_fp32(run, batch, position) is not False for position, batch in window):
                _restore(run, after)
                self.overflows += 1
                return Verdict.GO
        finding, batch, position = self._find(run, window)
        if finding.is_shown or run.processes.size == 1:
            return self._act(run, finding, batch, position)
        # Gradients are averaged: another process finds the cause in its share, and says it.
        self.skipped += 1
        goes_on = run.config.watch.non_finite == "skip" and self.skipped <= run.config.watch.max_skips
        return Verdict.SKIP if goes_on else Verdict.STOP

    def _find(self, run: Run, window: Window) -> tuple[Finding, Batch, int]:
        """What went wrong, and in which batch of the window: the last one, where none shows it again."""
        _restore(run, self.buffers)
        for position, batch in window:
            finding = replay(run, batch, position)
            if finding.is_shown:
                break
        _restore(run, self.buffers)
        return finding, batch, position

    def _act(self, run: Run, finding: Finding, batch: Batch, position: int, stop: bool = False) -> Verdict:
        """Say what was found and keep the step; stop, or veto it."""
        settings, now, origin = run.config.watch, run.progress, finding.origin
        words = f"step {now.step} (epoch {now.epoch + 1}, batch {position + 1}) of fold {run.fold}: {finding.words}"
        self.dumps, self.skipped, look = self.dumps + 1, self.skipped + 1, ""
        if self.dumps <= MOST_DUMPS:
            lines = f"\n\n{origin.traceback}" if origin is not None and origin.traceback else ""
            path = save_dump(run, batch, position, f"{words}{lines}\n")
            path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            look = f"; look at it again with: python scripts/replay.py {path}"
        stop = stop or settings.non_finite == "stop" or self.skipped > settings.max_skips
        if stop or (origin is not None and origin.phase == "weights"):
            spent = f"; {settings.max_skips} steps were skipped before it" if settings.non_finite == "skip" else ""
            raise UserError(f"{words}{spent}{look}")
        _warn(f"{words}; skipped, {self.skipped} of at most {settings.max_skips}{look}")
        return Verdict.SKIP


def _restore(run: Run, buffers: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(run.model.buffers(), buffers, strict=False):
            buffer.copy_(value)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
