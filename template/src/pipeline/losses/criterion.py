"""Loss rows as one criterion, with every term per sample, and running sums of the terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import LossRow
from pipeline.keys import INPUT_PARTNER, INPUT_SHARE, INPUT_WEIGHT, TARGET_PREFIX, mask_key
from pipeline.registry import Registry
from pipeline.types import Batch, LossResult, StepResult
from toolkit.distributed import Processes
from toolkit.errors import UserError, nearest

Truths = Mapping[str, Callable[[], np.ndarray]]


class Term(nn.Module):
    """One loss row: called with outputs and batch, it gives the loss and the weight of each sample, (B,) each.

    A loss of a head is called with (logits, target), once for each dropout mask; a loss without a head with
    (outputs, batch). Either returns (B,). A loss of a head that has a method `fit` sees the truth of the rows that
    train by it first, (N, ...).
    """

    def __init__(
        self, row: LossRow, head: Head | None, names: Registry, counts: Mapping[str, Tensor], truths: Truths
    ) -> None:
        super().__init__()
        self.row, self.name, self.head = row, row.term, head
        self.function: Callable[..., Tensor] = names.bind("loss", row.loss)(head)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None)
        if head is None:
            return
        self.target_key = head.target_key
        self.output_key = f"{head.output_key}@{row.output}" if row.output else head.output_key
        self.first_mask = mask_key(self.output_key, 1)
        fit = getattr(self.function, "fit", None)
        if fit is not None and head.name in truths:
            fit(truths[head.name]())
        if row.class_weights is not None:
            if head.name not in counts:
                raise UserError(f"loss row '{self.name}': head '{head.name}' has no classes to weight")
            self.class_weights = class_weights(row.class_weights, head.classes, counts[head.name])

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        weights: Tensor = batch[INPUT_WEIGHT]
        if self.head is None:
            given: list[tuple[Any, Any]] = [(outputs, batch)]
            known = torch.ones_like(weights)
        else:
            if self.target_key not in batch or self.output_key not in outputs:
                wiring = f"loss row '{self.name}' of head '{self.head.name}'"
                take(batch, self.target_key, wiring, "the batch holds")
                take(outputs, self.output_key, wiring, "the model returns")
            target, known = known_truth(batch[self.target_key])
            given = [(outputs[self.output_key], target)]
            if self.first_mask in outputs:  # of further ones, under which it is trained as well
                while (key := mask_key(self.output_key, len(given))) in outputs:
                    given.append((outputs[key], target))
        values = [self.function(*each) for each in given]
        if any(each.shape != weights.shape for each in values):
            raise UserError(
                f"loss '{self.row.loss.name}' returned the shape {tuple(values[0].shape)}; "
                f"one value per sample is expected, ({len(weights)},): use reduction='none'"
            )
        weights = weights * known
        if self.class_weights is not None:
            truth = probabilities(target, len(self.class_weights))
            weights = weights * (truth * self.class_weights).sum(dim=1)  # not @, which autocast would round
        return (values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)) * known, weights


class WeightedLosses(nn.Module):
    """The weighted sum of the loss rows.

    A sample's loss is multiplied by the weight of its row and of its class. In a mixed batch (`INPUT_PARTNER`,
    `INPUT_SHARE`) it is the share of what the sample's own truth says, and for the rest what its partner's says, each
    side with its own weights: that is right for every loss, whatever the truth is. `sample_losses` are without weights.
    Of a row with `hardest`, only that share of a batch trains, at least one sample: those with the largest losses
    (Shrivastava et al., arXiv:1604.03540); held-out rows are scored as a whole.

    Args:
        counts: rows of each class that train, float (classes,) by name of head; only class weights need them.
        truths: what makes the truth of the rows that train, by name of head.
    """

    def __init__(
        self,
        rows: Sequence[LossRow],
        heads: Sequence[Head],
        names: Registry,
        counts: Mapping[str, Tensor] | None = None,
        truths: Truths | None = None,
    ) -> None:
        super().__init__()
        known = {head.name: head for head in heads}
        for row in rows:
            if row.head is not None and row.head not in known:
                raise UserError(f"a loss row names the head '{row.head}'; {nearest(row.head, known)}")
            if row.head is None and row.class_weights is not None:
                raise UserError(f"loss row '{row.term}' has class_weights and no head; name the head")
        terms = [row.term for row in rows]
        if len(set(terms)) < len(terms):
            raise UserError(f"two loss rows share a name ({', '.join(terms)}); give them a 'name' of their own")
        self.terms = [Term(row, known.get(row.head or ""), names, counts or {}, truths or {}) for row in rows]
        self.parts = nn.ModuleList(self.terms)  # what they hold goes where the criterion goes

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> LossResult:
        sample_losses: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch[INPUT_WEIGHT].device)
        if INPUT_PARTNER in batch:  # the truth and the row weights of every sample's partner
            own = [key for key in batch if key.startswith(TARGET_PREFIX) or key == INPUT_WEIGHT]
            partners = {**batch, **{key: batch[key][batch[INPUT_PARTNER]] for key in own}}
        for term in self.terms:
            values, weights = term(outputs, batch)
            weighted = values * weights
            if INPUT_PARTNER in batch:
                share = batch[INPUT_SHARE]
                others, their_weights = term(outputs, partners)
                weighted = share * weighted + (1 - share) * others * their_weights
                values = share * values + (1 - share) * others
            if term.row.hardest < 1 and weighted.requires_grad:
                weighted = weighted.topk(max(1, round(term.row.hardest * len(weighted)))).values
            mean = weighted.mean()
            total = total + term.row.weight * mean
            sample_losses[term.name] = values.detach()
            losses[term.name] = mean.detach()
        return {"loss": total, "losses": losses, "sample_losses": sample_losses}


def known_truth(target: Tensor) -> tuple[Tensor, Tensor]:
    """A head's targets with zeros where a row has no truth (-1, or NaN throughout), and float32 (B,) 0 for these rows.

    A row that has a part of its truth keeps the gaps: the losses of such truths leave them out.
    """
    if target.is_floating_point():
        known = ~target.isnan().reshape(len(target), -1).all(dim=1)
        return torch.where(known.view(-1, *[1] * (target.ndim - 1)), target, 0), known.float()
    return target.clamp(min=0), (target >= 0).reshape(len(target), -1).any(dim=1).float()


def take(mapping: Mapping[str, Tensor], key: str, wiring: str, holder: str) -> Tensor:
    """`mapping[key]`; a missing key is a `UserError` that names the wiring row and the keys there are."""
    if key not in mapping:
        raise UserError(f"{wiring} needs the key '{key}', but {holder} only: {', '.join(mapping)}")
    return mapping[key]


def class_weights(chosen: str | Mapping[str, float], classes: Sequence[str], counts: Tensor) -> Tensor:
    """Float32 (classes,), of mean 1 over the rows that train; a `UserError` where nothing is left to train.

    Args:
        chosen: `balanced` for 1 / count, `sqrt` for 1 / sqrt(count), or weights by name; a class that is not named
            counts 1. A class without rows is weighted like one with a single row.
        counts: rows of each class, float (classes,).
    """
    counts = counts.double()
    if isinstance(chosen, str):
        weights = counts.clamp(min=1).pow(-1.0 if chosen == "balanced" else -0.5)
    else:
        for name, value in chosen.items():
            if name not in classes:
                raise UserError(f"class_weights: there is no class '{name}'; {nearest(name, classes)}")
            check_range("class_weights", f"the weight of '{name}'", value)
        weights = torch.tensor([chosen.get(name, 1.0) for name in classes], dtype=torch.float64)
    total = (weights * counts).sum()
    if not total > 0:
        raise UserError("class_weights: every row that trains has the weight 0; give a class that has rows more")
    return (weights * counts.sum() / total).float()


def probabilities(target: Tensor, classes: int) -> Tensor:
    """Class numbers int64 (B,) or probabilities (B, classes) as float32 (B, classes)."""
    return target.float() if target.ndim == 2 else functional.one_hot(target, classes).float()


def check_range(loss: str, name: str, value: float, below: float = float("inf")) -> float:
    """`value`, if it is in [0, below)."""
    if not 0 <= value < below:
        limit = "at least 0" if below == float("inf") else f"in [0, {below})"
        raise UserError(f"loss '{loss}': {name} must be {limit} (it is {value})")
    return value


class LossSums:
    """Sums of each loss term over samples, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.count = 0
        self.total: dict[str, Tensor | float] = {}  # numbers where they were saved or gathered

    def add(self, result: StepResult, samples: int) -> None:
        """Add a batch's mean losses, weighted by its number of samples."""
        self.count += samples
        for name, value in {"loss": result["loss"], **result["losses"]}.items():
            exact = torch.float32 if value.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
            weighted = value.detach().to(exact) * samples
            self.total[name] = self.total[name] + weighted if name in self.total else weighted

    def means(self) -> dict[str, float]:
        """Mean per term; `loss` is the weighted sum that trains."""
        return {name: value / max(1, self.count) for name, value in self.state_dict()["total"].items()}

    def gather(self, processes: Processes) -> None:
        """Join the sums of all processes, on the main one. All call it."""
        shares = processes.gather(self.state_dict())
        if len(shares) > 1:
            total = {name: sum(share["total"][name] for share in shares) for name in self.total}
            self.load_state_dict({"count": sum(share["count"] for share in shares), "total": total})

    def state_dict(self) -> dict[str, Any]:
        """Numbers, read from the device together."""
        there = {name: value for name, value in self.total.items() if isinstance(value, Tensor)}
        read = torch.stack(list(there.values())).tolist() if there else []
        return {"count": self.count, "total": {**self.total, **dict(zip(there, read, strict=True))}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.total = state["count"], dict(state["total"])
