"""What a batch and the outputs hold, as the heads expect it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.competition import Head
from pipeline.data.batch_schema import contract_rows
from pipeline.heads.base import HeadKind
from pipeline.heads.columns import has_truth
from pipeline.keys import INPUT_ID, ROW_ID
from pipeline.losses.criterion import take
from pipeline.types import Batch
from toolkit.errors import UserError, listed

Kinds = Sequence[tuple[Head, HeadKind]]


def all_targets(rows: pd.DataFrame, kinds: Kinds) -> dict[str, np.ndarray]:
    """The truth of all heads, a gap where a row has none for one. A row that has none at all is a `UserError`."""
    targets = {head.target_key: kind.targets(rows) for head, kind in kinds}
    gaps = [np.isnan(values) if values.dtype.kind == "f" else values < 0 for values in targets.values()]
    nothing = np.all([gap.all(axis=tuple(range(1, gap.ndim))) for gap in gaps], axis=0)
    if nothing.any():  # a truth that trains nothing is one all the same
        by_id = rows.set_index(ROW_ID)
        nothing &= ~np.any([has_truth(kind.truth(by_id), head) for head, kind in kinds], axis=0)
    if nothing.any():
        raise UserError(
            f"{int(nothing.sum())} rows (id {listed(rows.loc[nothing, ROW_ID])}) have no truth for any of "
            f"{', '.join(head.name for head, _ in kinds)}; fill or drop them in src/competition/tables.py"
        )
    return targets


def check_contract(batch: Batch, outputs: Mapping[str, Tensor], kinds: Kinds) -> list[tuple[str, str, str, str]]:
    """See `Task.batch_schema`."""
    table, size = contract_rows(batch, outputs), len(batch[INPUT_ID])
    for head, kind in kinds:
        target = take(batch, head.target_key, f"head '{head.name}'", "the batch holds")
        output = take(outputs, head.output_key, f"head '{head.name}'", "the model returns")
        expected, forms = (size, kind.width), kind.target_forms(size)
        if tuple(output.shape) != expected or (target.dtype, tuple(target.shape)) not in forms:
            targets = " or ".join(f"{dtype} {shape}".removeprefix("torch.") for dtype, shape in forms)
            raise UserError(
                f"head '{head.name}': output {tuple(output.shape)} and target {target.dtype} "
                f"{tuple(target.shape)}; expected are {expected} and {targets}"
            )
    return table
