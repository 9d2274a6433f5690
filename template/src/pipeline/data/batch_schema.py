"""The keys of a batch and of the outputs, as a table to print."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.keys import INPUT_IMAGE
from pipeline.types import Batch
from toolkit.errors import UserError


def contract_rows(batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
    """Rows of (key, dtype, shape, role); images of another form than (B, H, W, C), uint8 or float32, are refused."""
    image = batch[INPUT_IMAGE]
    if image.ndim != 4 or image.dtype not in (torch.uint8, torch.float32):
        raise UserError(f"'{INPUT_IMAGE}' is {image.dtype} {tuple(image.shape)}, not uint8 or float32 (B, H, W, C)")
    rows = []
    for role, values in (("batch", batch), ("output", outputs)):
        for key, value in values.items():
            shape = str(tuple(value.shape)) if isinstance(value, Tensor) else f"{len(value)} strings"
            rows.append((key, str(getattr(value, "dtype", "str")).removeprefix("torch."), shape, role))
    return rows
