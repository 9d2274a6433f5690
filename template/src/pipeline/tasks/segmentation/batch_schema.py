"""What a batch and the outputs hold, as the heads expect it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.competition import Head
from pipeline.data.batch_schema import contract_rows
from pipeline.heads.mask import kind_of
from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.losses.criterion import take
from pipeline.tasks.segmentation.windows import INPUT_WINDOW
from pipeline.types import Batch
from toolkit.errors import UserError


def check_contract(
    batch: Batch, outputs: Mapping[str, Tensor], heads: Sequence[Head]
) -> list[tuple[str, str, str, str]]:
    """See `Task.check_contract`."""
    table, count, image = contract_rows(batch, outputs), len(batch[INPUT_ID]), batch[INPUT_IMAGE]
    window = take(batch, INPUT_WINDOW, "a room of masks", "the batch holds")
    if (window.dtype, tuple(window.shape)) != (torch.int64, (count, 9)):
        raise UserError(f"'{INPUT_WINDOW}' is {form(window)}; int64 {(count, 9)} is expected")
    size = (image.shape[1], image.shape[2])
    for head in heads:
        kind, classes = kind_of(head), len(head.classes)
        target = take(batch, head.target_key, f"head '{head.name}'", "the batch holds")
        output = take(outputs, head.output_key, f"head '{head.name}'", "the model returns")
        wanted = (count, *kind.target_shape(classes, size))
        if target.dtype != torch.uint8 or tuple(target.shape) != wanted:
            raise UserError(f"head '{head.name}': the target is {form(target)}; uint8 {wanted} is expected")
        if output.ndim != 4 or output.shape[:2] != (count, kind.width(classes)) or not output.is_floating_point():
            raise UserError(
                f"head '{head.name}': the output is {form(output)}; float ({count}, {kind.width(classes)}, h, w) is "
                "expected"
            )
        presence = outputs.get(f"{head.output_key}@presence")
        if presence is not None and tuple(presence.shape) != (count, classes):
            raise UserError(f"head '{head.name}': presence is {form(presence)}; float {(count, classes)} is expected")
    return table


def form(value: Tensor) -> str:
    """`uint8 (4, 1, 64, 64)`."""
    return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
