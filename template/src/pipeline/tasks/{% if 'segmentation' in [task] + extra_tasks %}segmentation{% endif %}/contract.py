"""What a batch and the outputs hold, as the heads expect it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.competition import Head
from pipeline.errors import UserError
from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.seam import Batch
from pipeline.tasks.segmentation.kinds import kind_of
from pipeline.tasks.shared.contract import contract_rows
from pipeline.tasks.shared.criterion import take


def check_contract(
    batch: Batch, outputs: Mapping[str, Tensor], heads: Sequence[Head]
) -> list[tuple[str, str, str, str]]:
    """See `Task.check_contract`."""
    table, count, size = contract_rows(batch, outputs), len(batch[INPUT_ID]), tuple(batch[INPUT_IMAGE].shape[1:3])
    for head in heads:
        kind, classes = kind_of(head), len(head.classes)
        target = take(batch, head.target_key, f"head '{head.name}'", "the batch holds")
        output = take(outputs, head.output_key, f"head '{head.name}'", "the model returns")
        expected = (count, *kind.target_shape(classes, size))
        width = (count, kind.width(classes))
        if (
            output.ndim != 4
            or output.shape[:2] != width
            or (target.dtype, tuple(target.shape)) != (torch.uint8, expected)
        ):
            raise UserError(
                f"head '{head.name}': output {tuple(output.shape)} and target {target.dtype} {tuple(target.shape)}; "
                f"expected are {(*width, 'h', 'w')} and uint8 {expected}"
            )
    return table
