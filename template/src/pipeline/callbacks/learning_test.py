"""Can this pipeline learn at all? It should be able to know a few rows by heart (`experiments/debug.yaml`)."""

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.keys import INPUT_IMAGE
from pipeline.types import Batch, Run, Stage, StageResult, StepResult, Verdict
from toolkit.errors import UserError, listed
from toolkit.terminal import console


class LearningTest(Callback):
    """Watches a training on a single batch, and says at its end whether the pipeline is broken or sound.

    A network with as many parameters as images have pixels can memorise a few dozen of them whatever they show. If the
    loss of one batch that is seen again and again does not fall, the problem is not hard: something is broken. If it
    does fall, images, labels, loss and optimiser are wired together, and what is left is a matter of the problem.

    Args:
        drop: the share of its first value to which the loss has to fall.

    Raises:
        UserError: at the end of the run, if it is broken; with what was seen of the cause.
    """

    def __init__(self, *, drop: float = 0.2) -> None:
        self.drop = drop
        self.losses: list[float] = []
        self.largest: dict[str, Tensor] = {}  # parameter -> largest gradient seen
        self.batch: Batch = {}

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage == "train":
            self.losses.append(float(result["loss"].detach()))
            self.batch = batch

    def on_gradients_ready(self, run: Run) -> Verdict:
        for name, parameter in run.model.named_parameters():
            if parameter.requires_grad:
                zero = torch.zeros((), device=parameter.device)
                size = zero if parameter.grad is None else parameter.grad.abs().max()
                self.largest[name] = torch.maximum(self.largest.get(name, zero), size)
        return Verdict.GO

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        first, last = self.losses[0], sum(self.losses[-3:]) / len(self.losses[-3:])
        evaluated = self._evaluated(run)
        out = console()
        out.print(f"\nlearning test: the same {self._rows()} rows, {len(self.losses)} steps")
        out.print(f"  loss of the first step    {first:.4f}")
        out.print(f"  loss of the last steps    {last:.4f}")
        out.print(f"  in evaluation mode        {evaluated:.4f}")
        findings = self._findings(evaluated, last)
        for finding in findings:
            out.print(f"  - {finding}", soft_wrap=True)
        if not last <= self.drop * first:  # written so that NaN fails
            causes = findings or [
                "labels that change between two readings of a row, a rate that is too small or too large"
            ]
            raise UserError(
                f"the learning test failed: the loss of the same rows went from {first:.4f} to {last:.4f}, and "
                f"{self.drop:g} of the first is expected; before any idea, look for: {'; '.join(causes)}"
            )
        out.print(
            f"passed: the loss fell to {last / first:.1%} of the first. Images, labels, loss, optimiser work together: "
            "if an experiment does not learn now, the problem is hard, and the pipeline is not what is broken.",
            soft_wrap=True,
        )

    def _findings(self, evaluated: float, last: float) -> list[str]:
        """What was seen that may explain a failure, or that bears watching after a success."""
        found = []
        images = self.batch.get(INPUT_IMAGE)
        if isinstance(images, Tensor) and len(images) > 1 and bool((images == images[:1]).all()):
            found.append("every image of the batch is the same: look at image paths, reader and augmentations")
        still = [name for name, size in self.largest.items() if float(size) == 0]
        if still:
            found.append(f"{len(still)} of {len(self.largest)} parameters never got a gradient: {listed(still)}")
        broken = [name for name, size in self.largest.items() if not bool(torch.isfinite(size))]
        if broken:
            found.append(f"gradients that are not finite: {listed(broken)}")
        if evaluated > max(2 * last, self.drop * self.losses[0]):
            found.append(
                "the loss is much higher in evaluation mode: batch norm has not settled in so few steps, or the model "
                "does something else while training"
            )
        return found

    def _evaluated(self, run: Run) -> float:
        if not self.batch:  # the run was cut off after its last step, and goes on from there
            return math.nan
        run.model.eval()
        with torch.no_grad():
            return float(run.run_step("valid", self.batch)["loss"])

    def _rows(self) -> int:
        return next((len(value) for value in self.batch.values()), 0)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state.get("losses", []))
