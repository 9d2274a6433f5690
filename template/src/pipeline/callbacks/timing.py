"""Where the time goes: waiting for data, or in the model; and an alarm when it is the first.

After every epoch: `time/data_share` (of the training stage), `time/images_per_second`, and on a GPU
`memory/gpu_gib`, the most that was allocated.
"""

import torch

from pipeline.callbacks import Callback
from pipeline.config import Experiment
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, Stage, StageResult, StepResult
from toolkit.terminal import console

MUCH = 0.3  # of the time
FEWEST_SECONDS = 1.0  # a shorter wait is not worth a word


class Timing(Callback):
    """Logs how fast the training is, and says once in a run when the loader is what holds it up."""

    def __init__(self) -> None:
        self.images = 0
        self.said = False

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "train":
            self.images = 0

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        self.images += len(batch[INPUT_ID]) * run.processes.size if stage == "train" else 0

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.stage != "train" or not result.seconds:
            return
        share, speed = result.waited / result.seconds, self.images / result.seconds
        values = {"epoch": result.epoch + 1.0, "time/data_share": share, "time/images_per_second": speed}
        if torch.cuda.is_available():
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        run.tracker.scalars(values, run.progress.step)
        if share > MUCH and result.waited > FEWEST_SECONDS and not self.said:
            self.said = True
            console().print(_alarm(run.config, result.epoch, share, speed), style="yellow", soft_wrap=True)


def _alarm(config: Experiment, epoch: int, share: float, speed: float) -> str:
    """What a person should know, and can try."""
    advice = []
    if config.machine.workers == 0:
        advice.append("let other processes load (machine.workers)")
    if not config.image.cache:
        advice.append("decode once (image.cache=true)")
    advice += ["keep smaller images on disk", "take heavy augmentations out or put them on the device"]
    alone = speed / max(1 - share, 0.01)
    return (
        f"the loader holds the training up: {share:.0%} of epoch {epoch + 1} was spent waiting for batches "
        f"({speed:,.0f} images/s; the model alone could do {alone:,.0f}). Try: {'; '.join(advice)}"
    )
