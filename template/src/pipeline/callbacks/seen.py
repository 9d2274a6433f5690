"""What is kept of a stage of an epoch: the best and the worst batch, and single samples of both sorts."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.callbacks.ranking import MetricScores, ranked_by
from pipeline.config import Experiment
from pipeline.data.sample_record import SeenSample
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_PARTNER, INPUT_ROW, INPUT_SHARE, ROW_ID, TARGET_PREFIX
from pipeline.types import Batch, StepResult
from toolkit.distributed import Processes

MOST = 8  # samples in a picture
MOST_BYTES = 256 * 2**20  # of a stage; of huge samples fewer are kept
PICTURES = 5


@dataclass(frozen=True, eq=False)
class SeenBatch:
    """A batch, or one process's share of it: its position in the epoch, its loss, how many samples it has, some of
    them, and what a metric says of it where one ranks."""

    number: int
    loss: float
    size: int
    samples: list[SeenSample]
    scored: tuple[str, float] | None


@dataclass(eq=False)
class Seen:
    """What is kept of one stage of an epoch. The lists are sorted, the most extreme first.

    Attributes:
        scores: of the metric that ranks; none: the loss does, or a term.
        before: batches of the epoch that were trained before a kill. What was seen of them is gone: images are too
            large for a saved state, and they could not be seen again by the weights of then.
        undefined, undefined_batches: how many samples and batches have a finite loss, and no score.
        most: samples in a list; known once the first batch is.
    """

    rows: pd.DataFrame
    config: Experiment
    scores: MetricScores | None = None
    before: int = 0
    best: list[SeenSample] = field(default_factory=list)
    worst: list[SeenSample] = field(default_factory=list)
    not_finite: list[SeenSample] = field(default_factory=list)
    best_batch: SeenBatch | None = None
    worst_batch: SeenBatch | None = None
    batches: int = 0
    samples: int = 0
    undefined: int = 0
    undefined_batches: int = 0
    most: int = 0

    def add(self, batch: Batch, result: StepResult) -> None:
        """Look at a batch, and copy what is kept of it to the CPU."""
        losses, loss = ranked_by(result, self.config)
        scores, score = losses, loss
        if self.scores is not None:
            scores, score = self.scores(self.rows.iloc[batch[INPUT_ROW].tolist()], batch, result["outputs"])
        tensors = _tensors(batch, result)
        self.most = self.most or _affordable(tensors.values())
        finite, defined = np.isfinite(losses), np.isfinite(scores)
        lowest, highest = (_first(way * self._sign * scores, way * losses, self.most) for way in (1, -1))
        ranks, rank = self._ranks(scores, losses), (self._sign * score, loss)
        wrong = defined if self.scores is None else defined & ~self.scores.is_perfect(scores)
        better = [k for k in lowest if defined[k] and self._joins(self.best, ranks[k], operator.lt)]
        worse = [k for k in highest if wrong[k] and self._joins(self.worst, ranks[k], operator.gt)]
        broken = np.flatnonzero(~finite)[: self.most - len(self.not_finite)].tolist()
        is_ranked = math.isfinite(score) and math.isfinite(loss)
        is_best = is_ranked and (self.best_batch is None or rank < self._rank(self.best_batch))
        is_worst = is_ranked and (self.worst_batch is None or rank > self._rank(self.worst_batch))
        kept = sorted({*better, *worse, *broken, *(lowest if is_best else []), *(highest if is_worst else [])})
        taken = dict(zip(kept, self._take(batch, tensors, kept, scores, losses), strict=True))
        self.best = sorted([*self.best, *(taken[k] for k in better)], key=self._rank)[: self.most]
        self.worst = sorted([*self.worst, *(taken[k] for k in worse)], key=self._rank, reverse=True)[: self.most]
        self.not_finite += [taken[k] for k in broken]
        self.batches, self.samples = self.batches + 1, self.samples + len(losses)
        self.undefined += int((finite & ~defined).sum())
        self.undefined_batches += math.isfinite(loss) and not math.isfinite(score)
        for name, is_one, order in (("best_batch", is_best, lowest), ("worst_batch", is_worst, highest)):
            if is_one:
                samples = [taken[k] for k in order]
                setattr(
                    self, name, SeenBatch(self.before + self.batches, loss, len(losses), samples, self._scored(score))
                )

    def gather(self, processes: Processes) -> None:
        """Join what each process keeps of its shares, on the main one. All call it."""
        reason = "" if self.scores is None else self.scores.reason
        own = {name: value for name, value in vars(self).items() if name not in ("rows", "config", "scores")}
        shares = processes.gather((own, reason))
        if len(shares) < 2:
            return
        parts = [part for part, _ in shares]
        self.best = sorted((one for part in parts for one in part["best"]), key=self._rank)[: self.most]
        worst = sorted((one for part in parts for one in part["worst"]), key=self._rank, reverse=True)
        self.worst = worst[: self.most]
        self.not_finite = [one for part in parts for one in part["not_finite"]][: self.most]
        self.samples, self.undefined = (sum(part[name] for part in parts) for name in ("samples", "undefined"))
        self.undefined_batches = max(part["undefined_batches"] for part in parts)
        self.best_batch = self._joined([part["best_batch"] for part in parts], reverse=False)
        self.worst_batch = self._joined([part["worst_batch"] for part in parts], reverse=True)
        if self.scores is not None:
            self.scores.reason = next((said for _, said in shares if said), "")

    def pictures(self, when: str) -> dict[str, tuple[str, list[SeenSample]]]:
        """Heading and samples of each picture, by name; those without a sample are left out."""
        own = "loss" if self.scores is None else f"{self.scores.metric.name}, then loss"
        by = self.config.watch.extremes_by or own
        when += f"; since it continued at batch {self.before + 1}" if self.before else ""
        of = f"{self.samples:,} samples by {by}" + (f", undefined for {self.undefined:,}" if self.undefined else "")
        found = {
            "best_samples": (f"Best {len(self.best)} of {of} ({when})", self.best),
            "worst_samples": (f"Worst {len(self.worst)} of {of} ({when})", self.worst),
            "non_finite_samples": (f"Samples whose loss is not finite ({when})", self.not_finite),
        }
        batches: dict[str, SeenBatch | None] = {"Best": self.best_batch, "Worst": self.worst_batch}
        for name, one in batches.items():
            if one is not None:
                shown = "" if len(one.samples) == one.size else f"; {name.lower()} {len(one.samples)} of its {one.size}"
                value = one.loss if one.scored is None else one.scored[1]
                heading = f"{name} of {self.batches:,} batches: number {one.number}, {by} {value:.3g}{shown} ({when})"
                found[f"{name.lower()}_batch"] = (heading, one.samples)
        return {name: pair for name, pair in found.items() if pair[1]}

    def left_out(self) -> str | None:
        """What the metric did not rank, in a line, and why; none where it ranked all."""
        if self.scores is None or not (self.undefined or self.undefined_batches):
            return None
        samples = "every single sample" if self.undefined == self.samples else "some single samples"
        batches = "every batch" if self.undefined_batches == self.batches else "some batches"
        counts = {samples: self.undefined, batches: self.undefined_batches}
        what = " and ".join(words for words, count in counts.items() if count)
        by, reason = self.config.watch.extremes_by, self.scores.reason
        return f"watch.extremes_by: '{by}' is not defined for {what}, which it does not rank: {reason}"

    @property
    def _sign(self) -> int:
        """What turns a score into one of which less is better."""
        return -1 if self.scores is not None and self.scores.metric.greater_is_better else 1

    def _ranks(self, scores: np.ndarray, losses: np.ndarray) -> list[tuple[float, float]]:
        """What samples are compared by, the better ones less: score, then loss."""
        return list(zip((self._sign * scores).tolist(), losses.tolist(), strict=True))

    def _rank(self, one: SeenSample | SeenBatch) -> tuple[float, float]:
        return self._sign * (one.loss if one.scored is None else one.scored[1]), one.loss

    def _joined(self, batches: Sequence[SeenBatch | None], reverse: bool) -> SeenBatch | None:
        """The first of some processes' most extreme batches, with all shares of it that are there."""
        found = sorted((one for one in batches if one is not None), key=self._rank, reverse=reverse)
        shares = [one for one in found if (one.number, self._rank(one)) == (found[0].number, self._rank(found[0]))]
        if not shares:
            return None
        samples = sorted((sample for one in shares for sample in one.samples), key=self._rank, reverse=reverse)
        return replace(shares[0], size=sum(one.size for one in shares), samples=samples[: self.most])

    def _joins(self, kept: Sequence[SeenSample], rank: tuple[float, float], comes_before: Callable[..., bool]) -> bool:
        return len(kept) < self.most or comes_before(rank, self._rank(kept[-1]))

    def _scored(self, score: float) -> tuple[str, float] | None:
        return None if self.scores is None else (self.scores.metric.name, score)

    def _take(
        self, batch: Batch, tensors: Mapping[str, Tensor], kept: Sequence[int], scores: np.ndarray, losses: np.ndarray
    ) -> list[SeenSample]:
        """Copies of some samples of a batch."""
        if not kept:
            return []
        places = torch.tensor(kept)
        copied = {key: value[places.to(value.device)].cpu() for key, value in tensors.items()}
        samples = []
        for place, k in enumerate(kept):
            # Each its own memory: a view would keep the samples that came with it.
            own = {key: value[place].clone() for key, value in copied.items()}
            row, image, mixed = int(own.pop(INPUT_ROW)), own.pop(INPUT_IMAGE).numpy(), None
            if INPUT_PARTNER in own:
                partner, share = int(own.pop(INPUT_PARTNER)), float(own.pop(INPUT_SHARE))
                mixed = (str(self.rows[ROW_ID].iloc[partner]), share) if share < 1 else None
            targets = {key: value for key, value in own.items() if key.startswith(TARGET_PREFIX)}
            outputs = {key: value for key, value in own.items() if key not in targets}
            scored = self._scored(float(scores[k]))
            samples.append(
                SeenSample(batch[INPUT_ID][k], row, image, targets, outputs, float(losses[k]), mixed, scored)
            )
        return samples


def _first(scores: np.ndarray, losses: np.ndarray, most: int) -> list[int]:
    """Positions of the lowest scores, of equal ones of the lowest losses, and the earlier one of those. Samples without
    a score come behind, and those whose loss is not finite not at all."""
    counted = np.isfinite(losses)
    order = np.lexsort((losses, np.where(np.isfinite(scores), scores, np.inf), ~counted))
    found: list[int] = order[: min(most, int(counted.sum()))].tolist()
    return found


def _tensors(batch: Batch, result: StepResult) -> dict[str, Tensor]:
    """What a picture of a sample needs, on the device, (B, ...) by key."""
    targets = {key: value for key, value in batch.items() if key.startswith(TARGET_PREFIX)}
    # `output_label@1` are the logits under another dropout mask, which are never decoded.
    outputs = {key: value for key, value in result["outputs"].items() if not key.rpartition("@")[2].isdigit()}
    inputs = {key: batch[key] for key in (INPUT_ROW, INPUT_IMAGE)}
    return {**inputs, **targets, **{key: value.detach() for key, value in outputs.items()}, **result.get("mixed", {})}


def _affordable(tensors: Iterable[Tensor]) -> int:
    """How many samples a picture may keep, given those of a batch."""
    size = sum(value[0].nbytes for value in tensors)
    return max(1, min(MOST, MOST_BYTES // (PICTURES * size)))
