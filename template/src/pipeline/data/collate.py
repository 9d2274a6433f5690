"""Samples as a batch."""

from typing import Any

import numpy as np
import torch

from pipeline.types import Batch


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Stack arrays and numbers into tensors, keep strings as lists."""
    return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], str):
        return values
    return torch.from_numpy(np.stack(values))
