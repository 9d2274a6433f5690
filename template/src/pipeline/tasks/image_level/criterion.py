"""Loss rows as one criterion. Every term is kept per sample, so that the worst ones can be shown."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import LossRow
from pipeline.errors import UserError, nearest
from pipeline.keys import INPUT_WEIGHT
from pipeline.names import Names
from pipeline.seam import Batch, LossResult

HeadLoss = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy(nn.Module):
    """Cross entropy per sample: logits (B, classes) and class numbers int64 (B,) to float32 (B,)."""

    def __init__(self, head: Head, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss 'cross_entropy': label_smoothing must be in [0, 1) (it is {label_smoothing})")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), target, reduction="none", label_smoothing=self.label_smoothing)


class WeightedLosses(nn.Module):
    """The weighted sum of the loss rows. A row's sample losses are multiplied by the row weights of the batch.

    A loss of a head is called with (logits, target); a loss without a head with (outputs, batch). Either returns (B,).
    """

    def __init__(self, rows: Sequence[LossRow], heads: Sequence[Head], names: Names) -> None:
        super().__init__()
        known = {head.name: head for head in heads}
        for row in rows:
            if row.head is not None and row.head not in known:
                raise UserError(f"a loss row names the head '{row.head}'; {nearest(row.head, known)}")
        terms = [row.term for row in rows]
        if len(set(terms)) < len(terms):
            raise UserError(f"two loss rows share a name ({', '.join(terms)}); give them a 'name' of their own")
        self.rows = list(zip(rows, [known.get(row.head or "") for row in rows], strict=True))
        self.losses = [names.bind("loss", row.loss)(known.get(row.head or "")) for row in rows]

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> LossResult:
        sample_losses: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch[INPUT_WEIGHT].device)
        for (row, head), function in zip(self.rows, self.losses, strict=True):
            values = self._values(row, head, function, outputs, batch)
            mean = (values * batch[INPUT_WEIGHT]).mean()
            total = total + row.weight * mean
            sample_losses[row.term] = values.detach()
            losses[row.term] = mean.detach()
        return {"loss": total, "losses": losses, "sample_losses": sample_losses}

    def _values(
        self,
        row: LossRow,
        head: Head | None,
        function: Callable[..., Tensor],
        outputs: Mapping[str, Tensor],
        batch: Batch,
    ) -> Tensor:
        if head is None:
            values = function(outputs, batch)
        else:
            wiring = f"loss row '{row.term}' of head '{head.name}'"
            values = function(
                take(outputs, head.output_key, wiring, "the model returns"),
                take(batch, head.target_key, wiring, "the batch holds"),
            )
        if values.shape != batch[INPUT_WEIGHT].shape:
            raise UserError(
                f"loss '{row.loss.name}' returned the shape {tuple(values.shape)}; "
                f"one value per sample is expected, ({len(batch[INPUT_WEIGHT])},): use reduction='none'"
            )
        return values


def take(mapping: Mapping[str, Tensor], key: str, wiring: str, holder: str) -> Tensor:
    """`mapping[key]`; a missing key is a `UserError` that names the wiring row and the keys there are."""
    if key not in mapping:
        raise UserError(f"{wiring} needs the key '{key}', but {holder} only: {', '.join(mapping)}")
    return mapping[key]
