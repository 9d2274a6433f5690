"""What an experiment may set for this room: `task: {params: {view: crops}}`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """How images become windows, and windows maps."""

    view: Literal["whole", "crops"] = "crops"
    scale: float = 1.0
    overlap: float = 0.25
    foreground: float = 0.5
    tta: tuple[str, ...] = ()
    store: Literal["probabilities", "masks", "none"] = "probabilities"
    store_scale: float = 1.0
