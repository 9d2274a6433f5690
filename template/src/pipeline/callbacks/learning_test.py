"""Can this pipeline learn at all? It should be able to know a few rows by heart (`experiments/debug.yaml`)."""

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.types import Batch, Run, Stage, StageResult, StepResult, Verdict
from toolkit.errors import UserError, listed
from toolkit.terminal import console

SAME_IMAGES = "every image of the batch is the same: look at image paths, reader and augmentations"
MODES = "the loss is much higher in evaluation mode: batch norm has not settled, or the model differs while training"
OTHERWISE = "labels that change between two readings of a row, a rate that is too small or too large"


class LearningTest(Callback):
    """Watches a training on a single batch, whose loss has to fall to the share `drop` of its first value.

    A network with as many parameters as images have pixels can memorise a few dozen of them whatever they show. Where
    it does not, the problem is not hard: something is broken, and the run ends in a `UserError` that says so.
    """

    def __init__(self, *, drop: float = 0.2) -> None:
        self.drop = drop
        self.losses: list[Tensor | float] = []
        self.reached: set[str] = set()  # parameters that got a gradient
        self.batch: Batch = {INPUT_ID: []}

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage == "train":
            self.losses.append(result["loss"].detach())
            self.batch = batch

    def on_gradients_ready(self, run: Run) -> Verdict:
        left = [(name, one.grad) for name, one in run.model.named_parameters() if name not in self.reached]
        self.reached |= {name for name, gradient in left if gradient is not None and bool(gradient.any())}
        return Verdict.GO

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        losses = self.state_dict()["losses"]
        first, last, evaluated = losses[0], sum(losses[-3:]) / len(losses[-3:]), math.nan
        if self.batch[INPUT_ID]:  # otherwise the run was cut off after its last step, and goes on from there
            run.model.eval()
            with torch.no_grad():
                evaluated = float(run.run_step("valid", self.batch)["loss"])
        images = self.batch.get(INPUT_IMAGE, ())
        trained = [name for name, one in run.model.named_parameters() if one.requires_grad]
        still = [name for name in trained if name not in self.reached]
        findings = [SAME_IMAGES] if len(images) > 1 and bool((images == images[:1]).all()) else []
        if still and self.batch[INPUT_ID]:
            findings.append(f"{len(still)} of {len(trained)} parameters never got a gradient: {listed(still)}")
        if evaluated > max(2 * last, self.drop * first):
            findings.append(MODES)
        out = console()
        out.print(f"\nlearning test: the same {len(self.batch[INPUT_ID])} rows, {len(self.losses)} steps")
        out.print(f"  loss of the first step    {first:.4f}\n  loss of the last steps    {last:.4f}")
        lines = [f"  in evaluation mode        {evaluated:.4f}", *(f"  - {finding}" for finding in findings)]
        out.print("\n".join(lines), soft_wrap=True)
        if not last <= self.drop * first:  # written so that NaN fails
            raise UserError(
                f"the learning test failed: the loss of the same rows went from {first:.4f} to {last:.4f}, more than "
                f"{self.drop:g} of the first; before any idea, look for: {'; '.join(findings or [OTHERWISE])}"
            )
        out.print(
            f"passed: the loss fell to {last / first:.1%} of the first. Images, labels, loss, optimiser work together: "
            "if an experiment does not learn now, the problem is hard, and the pipeline is not what is broken.",
            soft_wrap=True,
        )

    def state_dict(self) -> dict[str, Any]:
        self.losses = list(map(float, self.losses))
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state.get("losses", []))
