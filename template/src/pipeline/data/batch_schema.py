"""The keys of a batch and of the outputs, as a table to print."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.keys import INPUT_IMAGE
from pipeline.types import Batch
from toolkit.errors import UserError


def contract_rows(batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
    """Rows of (key, dtype, shape, role).

    Raises:
        UserError: images of another form than (B, H, W, C), uint8 or float32.
    """
    image = batch[INPUT_IMAGE]
    if image.ndim != 4 or image.dtype not in (torch.uint8, torch.float32):
        raise UserError(
            f"'{INPUT_IMAGE}' is {image.dtype} {tuple(image.shape)}; uint8 or float32 (B, H, W, C) is expected"
        )
    return [
        (key, _dtype(value), str(tuple(value.shape)) if isinstance(value, Tensor) else f"{len(value)} strings", role)
        for role, values in (("batch", batch), ("output", outputs))
        for key, value in values.items()
    ]


def _dtype(value: object) -> str:
    return str(getattr(value, "dtype", "str")).removeprefix("torch.")
