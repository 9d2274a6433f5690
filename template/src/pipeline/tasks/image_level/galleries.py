"""Images that are remembered, for kinds of heads that look others up among them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.competition import Head
from pipeline.errors import UserError
from pipeline.tasks import Decoder, Task
from pipeline.tasks.image_level.kinds import HeadKind

Kinds = Sequence[tuple[Head, HeadKind]]


def known(kinds: Kinds, rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows that are remembered for any of the heads; none where no head looks anything up.

    Raises:
        UserError: there are none to remember.
    """
    masks = [mask for _, kind in kinds if (mask := kind.in_gallery(rows)) is not None]
    if not masks:
        return None
    found = rows[np.any(masks, axis=0)].reset_index(drop=True)
    if found.empty:
        raise UserError(
            "the gallery is empty: no training row has a label to look images up by; correct the labels in "
            "src/competition/tables.py"
        )
    return found


def decoders(
    task: Task, kinds: Kinds, gallery: pd.DataFrame, outputs: Iterable[Sequence[Mapping[str, Tensor]]], own: bool
) -> list[Decoder]:
    """`Task.decoders`: the task's own decoding, with what the kinds look up in place of what the model says."""
    kept = [
        [{name: value for _, kind in kinds for name, value in kind.remembered(each).items()} for each in batch]
        for batch in outputs
    ]
    return [_decoder(task, kinds, gallery, of_model, own) for of_model in zip(*kept, strict=True)]


def _decoder(
    task: Task, kinds: Kinds, gallery: pd.DataFrame, outputs: Sequence[Mapping[str, Tensor]], own: bool
) -> Decoder:
    memories = [kind.memory(gallery, outputs, own) for _, kind in kinds]

    def decode(ids: Sequence[str], found: Mapping[str, Tensor]) -> pd.DataFrame:
        looked_up = {name: value for memory in memories for name, value in memory(ids, found).items()}
        return task.decode(ids, {**found, **looked_up})

    return decode
