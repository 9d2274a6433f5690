"""NaN and Inf, caught before the optimiser steps: found, explained, kept for a second look.

Of the losses, outputs and gradients of each step the device makes flags. torch's fused optimisers leave a step out by
themselves when one is raised, and the host looks a step later, at a copy that it never waits for; before the other
optimisers step it waits. Then the step is run again on the same weights with the same random numbers, operation by
operation, and what was found is said in words. A dump holds all of it; `scripts/replay.py` runs it alone.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors as unflatten

from pipeline.callbacks import Callback, HostCopy
from pipeline.callbacks.non_finite.replay import Finding, fits_fp32, replay, save_dump
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Progress, Run, Stage, StageResult, StepResult, Verdict
from toolkit.debug.non_finite import broken_rows
from toolkit.errors import Interrupted, UserError, listed

MOST_DUMPS = 3  # of a run: a dump is as large as the weights
DETECTED = "returned nan values"  # what torch says under `watch.anomaly`
Batches = list[tuple[int, Batch]]  # whose gradients are summed, by position in the epoch


@dataclass(frozen=True)
class Step:
    """An optimiser step: where the run stood, at which rate, and what of it is not finite."""

    batches: Batches
    progress: Progress
    rate: float
    names: Sequence[str] = ()  # of parameters with a gradient
    found: HostCopy | None = None  # float32: flags of losses and outputs and of gradients, norm of each gradient


class NonFinite(Callback):
    """Stops a training, or skips the step, when a loss, an output or a gradient is not finite: `watch` says which.

    Gradients that overflow under the loss scaling of fp16 are no fault: the scaler lowers its scale and leaves the
    step out by itself. They are told apart by the same step in fp32.

    Raises:
        UserError: with what was found, where the policy is to stop, or skips run out. Weights, moments and averages are
            those of before the step then, and nothing of a later one was applied.
    """

    every_process = True  # each looks at its own share
    changes_gradients = False

    def __init__(self) -> None:
        self.batches: Batches = []
        self.sums: list[Tensor] = []  # of all losses and outputs of each of these batches
        self.last: Step | None = None  # the one whose flags are on their way
        self.before: dict[torch.dtype, Tensor] = {}  # buffers before these batches (batch norm's statistics), flat
        self.parameters: dict[str, Tensor] = {}  # of the model, by name
        self.by_flag = False  # the optimiser leaves a step out by itself
        self.skipped = self.dumps = self.overflows = 0
        self.held_out: dict[str, None] = {}  # ids of held-out samples without a finite loss or output

    def on_run_start(self, run: Run) -> None:
        torch.autograd.set_detect_anomaly(run.config.watch.anomaly)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        torch.autograd.set_detect_anomaly(False)

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "train":
            self.by_flag, self.before = knows_flags(run.optimizer), _flat_buffers(run)
            self.parameters = dict(run.model.named_parameters())

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        values = [result["loss"], *result["losses"].values(), *result["outputs"].values()]
        total = torch.stack([each.detach().sum(dtype=torch.float32) for each in values if each.is_floating_point()])
        if stage == "train":
            self.batches.append((run.progress.batch, batch))
            self.sums.append(total.sum())
        elif not torch.isfinite(total.sum()):
            rows = broken_rows([*result["sample_losses"].values(), *result["outputs"].values()], len(batch[INPUT_ID]))
            self.held_out |= dict.fromkeys(str(batch[INPUT_ID][row]) for row in rows)

    def on_gradients_ready(self, run: Run) -> Verdict:
        self._look(run)  # at the step before: a whole forward and backward pass is queued behind its flags
        forward, optimizer = sum(self.sums[1:], self.sums[0]), run.optimizer
        gradients = {name: each.grad for name, each in self.parameters.items() if each.grad is not None}
        norms = torch.stack(torch._foreach_norm(list(gradients.values()))) if gradients else forward.new_zeros(1)
        run.gradient_norm = torch.linalg.vector_norm(norms)
        if forward.is_cpu and run.processes.size == 1 and math.isfinite(forward + run.gradient_norm):
            self.batches, self.sums, self.before = [], [], _flat_buffers(run)  # on a CPU nobody waits to know
            optimizer.found_inf = None  # type: ignore[attr-defined]
            return Verdict.GO
        flags = torch.stack([(~torch.isfinite(forward)).float(), forward.new_zeros(())])
        for dtype in {each.dtype for each in gradients.values()}:  # a norm may overflow by itself
            some = [each for each in gradients.values() if each.dtype == dtype]
            # What `GradScaler` looks with; the scale is 1, so values stay what they are.
            torch._amp_foreach_non_finite_check_and_unscale_(some, flags[1], forward.new_ones(()))
        run.processes.maximum(flags)
        rate, found = max(float(group["lr"]) for group in optimizer.param_groups), torch.cat([flags, norms.float()])
        self.last = Step(self.batches, replace(run.progress), rate, list(gradients), HostCopy(found))
        self.batches, self.sums, verdict = [], [], Verdict.GO
        left_out = flags.amax()
        if not self.by_flag:
            verdict = self._look(run)
        elif run.scaler.is_enabled():  # which hands its own flag to the optimiser
            for flag in run.scaler._found_inf_per_device(optimizer).values():
                flag.copy_(torch.maximum(flag, left_out))
            left_out = flags[0]  # when gradients overflow, no batch is to blame
        else:
            optimizer.found_inf = left_out  # type: ignore[attr-defined]
        for dtype, some in _buffers(run).items():
            after = torch.cat([each.flatten() for each in some])
            before = self.before.get(dtype, after)
            if len(before) != len(after):  # a module has made one in its first step
                before = after
            if self.by_flag or verdict is Verdict.SKIP:
                after = torch.where(left_out > 0, before, after)
                torch._foreach_copy_(some, list(unflatten(after, some)))
            self.before[dtype] = after
        return verdict

    def on_sync(self, run: Run) -> None:
        self._look(run)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.stage == "train" and run.scaler.is_enabled():
            run.tracker.scalars({"fp16/overflows": float(self.overflows)}, run.progress.step)
        if self.held_out and result.stage == "valid":
            samples = f"{len(self.held_out)} held-out samples ({listed(self.held_out)})"
            _warn(f"epoch {result.epoch + 1}: {samples} have a loss or an output that is not finite")
            self.held_out = {}

    def on_exception(self, run: Run, error: BaseException) -> None:
        torch.autograd.set_detect_anomaly(False)
        if not isinstance(error, Exception) or isinstance(error, Interrupted):
            return
        with run.processes.alone():  # the others may be anywhere
            with suppress(RuntimeError):  # a GPU that has failed tells nothing more
                self._look(run)
            if DETECTED in str(error) and self.batches:
                rate = max(float(group["lr"]) for group in run.optimizer.param_groups)
                self._act(run, *self._find(run, Step(self.batches, run.progress, rate)), stop=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "dumps": self.dumps, "overflows": self.overflows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.dumps = state.get("skipped", 0), state.get("dumps", 0)
        self.overflows = state.get("overflows", 0)

    def _look(self, run: Run) -> Verdict:
        """What becomes of the last step, once its flags are there. Outside of it the run stands where it stood."""
        step, self.last = self.last, None
        if step is None or step.found is None:
            return Verdict.GO
        in_forward, in_gradients = (step.found.values()[:2] > 0).tolist()
        if not (in_forward or in_gradients):
            return Verdict.GO
        run.progress, now = step.progress, run.progress
        after = _flat_buffers(run)
        _put_back(run, self.before)
        try:
            return self._judge(run, step, in_forward)
        finally:
            run.progress = now
            _put_back(run, after)

    def _judge(self, run: Run, step: Step, in_forward: bool) -> Verdict:
        """Whether a step that is not finite is skipped, with weights and buffers of before it."""
        # As far as the memory allows to tell; then the scaler leaves the step out, and lowers its scale.
        of_scale = run.scaler.is_enabled() and not in_forward
        if of_scale and all(fits_fp32(run, batch, number) is not False for number, batch in step.batches):
            self.overflows += 1
            return Verdict.GO
        finding, batch, position = self._find(run, step)
        if finding.is_shown or run.processes.size == 1:
            return self._act(run, finding, batch, position)
        # Another process finds the cause in its share, and says it.
        self.skipped += 1
        if run.config.watch.non_finite == "skip" and self.skipped <= run.config.watch.max_skips:
            return Verdict.SKIP
        run.processes.highest(Verdict.STOP)  # which that one never answers
        raise UserError(f"step {run.progress.step} of fold {run.fold}: {finding.words}")

    def _find(self, run: Run, step: Step) -> tuple[Finding, Batch, int]:
        """What went wrong, and in which batch of a step: the last one, where none shows it again."""
        _put_back(run, self.before)
        for position, batch in step.batches:
            finding = replay(run, batch, position, step.rate)
            if finding.is_shown:
                break
        _put_back(run, self.before)
        if finding.is_shown:
            return finding, batch, position
        norms = [] if step.found is None else step.found.values()[2:].tolist()
        wrong = [name for name, norm in zip(step.names, norms, strict=False) if not math.isfinite(norm)]
        words = f"the gradient of {listed(wrong, 2)} {finding.words}" if wrong else finding.words
        return replace(finding, words=words), batch, position

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


def knows_flags(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser leaves a step out by itself when its `found_inf` says so: torch's fused ones."""
    fused = all(group.get("fused") for group in optimizer.param_groups)  # also after a state was loaded
    return fused and getattr(optimizer, "_step_supports_amp_scaling", False)


def _buffers(run: Run) -> dict[torch.dtype, list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = {}
    for buffer in run.model.buffers():
        found.setdefault(buffer.dtype, []).append(buffer.detach())
    return found


def _flat_buffers(run: Run) -> dict[torch.dtype, Tensor]:
    """A copy of the model's buffers, one vector of each dtype."""
    return {dtype: torch.cat([each.flatten() for each in buffers]) for dtype, buffers in _buffers(run).items()}


def _put_back(run: Run, flat: dict[torch.dtype, Tensor]) -> None:
    """Write a copy of the buffers back; where some were not there yet, they stay."""
    for dtype, buffers in _buffers(run).items():
        if dtype in flat and sum(map(Tensor.numel, buffers)) == len(flat[dtype]):
            torch._foreach_copy_(buffers, list(unflatten(flat[dtype], buffers)))


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
