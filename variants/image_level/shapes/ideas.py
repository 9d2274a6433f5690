"""Ideas of the competition's own. An experiment chooses them by name; keyword-only parameters are its `params`."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pipeline.callbacks import Callback
from pipeline.types import Batch, Run, Stage, StepResult


class Tiny(nn.Module):
    """An encoder: (B, C, H, W) to (B, num_features). A run that continues must bring its running statistics back."""

    num_features = 16

    def __init__(self, in_chans: int, pretrained: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_chans, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, self.num_features, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.norm(self.first(images)))
        return functional.relu(self.second(features)).mean(dim=(2, 3))


class PowerCut(Callback):
    """Stops the training with an error at each of some steps, once, and counts the batches it has seen."""

    def __init__(self, *, at: tuple[int, ...]) -> None:
        self.at = at
        self.seen = 0

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        step = run.progress.step
        trace = run.folder / f"power_cut_{step}"
        if stage == "train" and step in self.at and not trace.exists():
            trace.write_text(f"{self.seen} batches were seen\n")
            raise OSError(f"power cut at step {step}")
        self.seen += stage == "train"

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
