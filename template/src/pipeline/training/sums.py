"""Running means of losses that do not make the device wait."""

from typing import Any

import torch

from pipeline.types import StepResult
from toolkit.distributed import Processes


class LossSums:
    """Sums of each loss term over samples, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.count = 0
        self.total: dict[str, torch.Tensor] = {}

    def add(self, result: StepResult, samples: int) -> None:
        """Add a batch's mean losses, weighted by its number of samples."""
        self.count += samples
        for name, value in {"loss": result["loss"], **result["losses"]}.items():
            exact = torch.float32 if value.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
            weighted = value.detach().to(exact) * samples
            before = self.total.get(name)
            self.total[name] = weighted if before is None else before.to(weighted.device, exact) + weighted

    def means(self) -> dict[str, float]:
        """Mean per term; `loss` is the weighted sum that trains."""
        return {name: value.item() / max(1, self.count) for name, value in self.total.items()}

    def gather(self, processes: Processes) -> None:
        """Join the sums of all processes, on the main one. All call it."""
        shares = processes.gather(self.state_dict())
        if len(shares) > 1:
            total = {name: sum(share["total"][name] for share in shares) for name in self.total}
            self.load_state_dict({"count": sum(share["count"] for share in shares), "total": total})

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "total": {name: value.item() for name, value in self.total.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.total = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["total"].items()}
