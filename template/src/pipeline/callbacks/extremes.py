"""The best and the worst of an epoch: batches and single samples, drawn as the model saw them.

In every `watch.figure_epochs`-th epoch and the last, for training and validation each: `best_batch/<stage>`,
`worst_batch/<stage>`, `best_samples/<stage>`, `worst_samples/<stage>`, and `non_finite_samples/<stage>` where there
are any.
A wrong label is a bad sample in every epoch, an augmentation that goes too far is one in training only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.callbacks.pictures import draw_figures
from pipeline.config import Experiment
from pipeline.errors import UserError, nearest
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_PARTNER, INPUT_ROW, INPUT_SHARE, LOSS, ROW_ID, TARGET_PREFIX
from pipeline.seam import Batch, Run, Stage, StageResult, StepResult
from pipeline.tasks.shared.drawing import visible
from pipeline.tasks.shared.seen import SeenSample
from pipeline.tracking import Overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.tasks import Task

MOST = 8  # samples in a picture
MOST_BYTES = 256 * 2**20  # of a stage; of huge samples fewer are kept
PICTURES = 5


class Extremes(Callback):
    """Keeps the best and worst batch and samples of an epoch by loss, and draws them at its end.

    A sample is ranked by the weighted sum of its losses, or by the term that `watch.extremes_by` names; the earlier one
    of two equal ones comes first. An epoch that continues after a kill has forgotten what it saw before. In epochs
    without pictures nothing is read back.

    Args:
        train_rows, valid_rows: the tables that `INPUT_ROW` counts in.

    Raises:
        UserError: when the run starts, `watch.extremes_by` is no term of the loss.
    """

    def __init__(self, task: "Task", train_rows: pd.DataFrame, valid_rows: pd.DataFrame) -> None:
        self.task = task
        self.tables: dict[Stage, pd.DataFrame] = {"train": train_rows, "valid": valid_rows}
        self.seen: dict[Stage, Seen] = {}

    def on_run_start(self, run: Run) -> None:
        by, terms = run.config.watch.extremes_by, [row.term for row in run.config.losses]
        if by not in (LOSS, *terms):
            raise UserError(
                f"watch.extremes_by names '{by}', which is no term of the loss; {nearest(by, [LOSS, *terms])}"
            )

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if run.config.watch.draws(run.progress.epoch, run.epochs):
            self.seen[stage] = Seen(self.tables[stage], run.config)

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage in self.seen and result["sample_losses"]:
            self.seen[stage].add(batch, result)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        seen = self.seen.pop(result.stage, None)
        if seen is not None:
            when = f"{result.stage}, epoch {result.epoch + 1}"
            for name, (heading, samples) in seen.pictures(when).items():
                draw_figures(run, partial(self._drawn, f"{name}/{result.stage}", heading, samples))
            self._export(run, f"worst_samples/{result.stage}", seen.worst)

    def _export(self, run: Run, name: str, samples: "Sequence[SeenSample]") -> None:
        """The worst samples for trackers that have tables, and masks that can be switched on and off."""
        if not samples:
            return
        step, images = run.progress.step, [visible(sample.image) for sample in samples]
        table = pd.DataFrame({"id": [one.id for one in samples], "loss": [one.loss for one in samples]})
        run.tracker.table(name, table, images, step)
        classes = dict(enumerate(run.heads[0].classes, start=1))
        for number, (sample, image) in enumerate(zip(samples, images, strict=True)):
            if masks := self.task.class_maps(sample):
                run.tracker.overlay(f"{name}_masks/{number}", Overlay(image, masks, classes), step)

    def _drawn(self, name: str, heading: str, samples: "Sequence[SeenSample]") -> "Mapping[str, Figure]":
        rows = self.tables["train" if name.endswith("/train") else "valid"].iloc[[sample.row for sample in samples]]
        return {name: self.task.draw_samples(rows, samples, heading)}


@dataclass(frozen=True, eq=False)
class SeenBatch:
    """A batch: its position in the epoch, its loss, how many samples it has, and some of them."""

    number: int
    loss: float
    size: int
    samples: list[SeenSample]


@dataclass(eq=False)
class Seen:
    """What is kept of one stage of an epoch. The lists are sorted, the most extreme first."""

    rows: pd.DataFrame
    config: Experiment
    best: list[SeenSample] = field(default_factory=list)
    worst: list[SeenSample] = field(default_factory=list)
    not_finite: list[SeenSample] = field(default_factory=list)
    best_batch: SeenBatch | None = None
    worst_batch: SeenBatch | None = None
    batches: int = 0
    samples: int = 0
    most: int = 0  # samples in a list; known once the first batch is

    def add(self, batch: Batch, result: StepResult) -> None:
        """Look at a batch, and copy what is kept of it to the CPU."""
        values, loss = ranked_by(result, self.config)
        tensors = _tensors(batch, result)
        self.most = self.most or _affordable(tensors.values())
        finite = np.isfinite(values)
        lowest, highest = (_first(np.where(finite, each, np.inf), finite, self.most) for each in (values, -values))
        better = [k for k in lowest if len(self.best) < self.most or values[k] < self.best[-1].loss]
        worse = [k for k in highest if len(self.worst) < self.most or values[k] > self.worst[-1].loss]
        broken = np.flatnonzero(~finite)[: self.most - len(self.not_finite)].tolist()
        is_best = math.isfinite(loss) and (self.best_batch is None or loss < self.best_batch.loss)
        is_worst = math.isfinite(loss) and (self.worst_batch is None or loss > self.worst_batch.loss)
        kept = sorted({*better, *worse, *broken, *(lowest if is_best else []), *(highest if is_worst else [])})
        taken = dict(zip(kept, self._take(batch, tensors, kept, values), strict=True))
        self.best = sorted([*self.best, *(taken[k] for k in better)], key=lambda one: one.loss)[: self.most]
        self.worst = sorted([*self.worst, *(taken[k] for k in worse)], key=lambda one: -one.loss)[: self.most]
        self.not_finite += [taken[k] for k in broken]
        self.batches, self.samples = self.batches + 1, self.samples + len(values)
        if is_best:
            self.best_batch = SeenBatch(self.batches, loss, len(values), [taken[k] for k in lowest])
        if is_worst:
            self.worst_batch = SeenBatch(self.batches, loss, len(values), [taken[k] for k in highest])

    def pictures(self, when: str) -> dict[str, tuple[str, list[SeenSample]]]:
        """Heading and samples of each picture, by name; those without a sample are left out."""
        by = self.config.watch.extremes_by
        found = {
            "best_samples": (f"Best {len(self.best)} of {self.samples:,} samples by {by} ({when})", self.best),
            "worst_samples": (f"Worst {len(self.worst)} of {self.samples:,} samples by {by} ({when})", self.worst),
            "non_finite_samples": (f"Samples whose loss is not finite ({when})", self.not_finite),
        }
        batches: dict[str, SeenBatch | None] = {"Best": self.best_batch, "Worst": self.worst_batch}
        for name, one in batches.items():
            if one is not None:
                shown = "" if len(one.samples) == one.size else f"; {name.lower()} {len(one.samples)} of its {one.size}"
                heading = (
                    f"{name} of {self.batches:,} batches: number {one.number}, {by} {one.loss:.3g}{shown} ({when})"
                )
                found[f"{name.lower()}_batch"] = (heading, one.samples)
        return {name: pair for name, pair in found.items() if pair[1]}

    def _take(
        self, batch: Batch, tensors: Mapping[str, Tensor], kept: Sequence[int], values: np.ndarray
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
            samples.append(SeenSample(batch[INPUT_ID][k], row, image, targets, outputs, float(values[k]), mixed))
        return samples


def ranked_by(result: StepResult, config: Experiment) -> tuple[np.ndarray, float]:
    """What each sample of a batch is ranked by, float32 (B,), and the batch itself; read back in one copy.

    A term that an intervention brings counts with the weight 1, and where it replaced the one that is asked for, all
    that are there are summed.
    """
    weights, by = {row.term: row.weight for row in config.losses}, config.watch.extremes_by
    terms = result["sample_losses"]
    if by in terms:
        values, loss = terms[by], result["losses"][by]
    else:
        values = torch.stack([weights.get(term, 1.0) * value.float() for term, value in terms.items()]).sum(dim=0)
        loss = result["loss"]
    *samples, batch = torch.cat([values.detach().float(), loss.detach().float().reshape(1)]).tolist()
    return np.array(samples, np.float32), batch


def _first(values: np.ndarray, counted: np.ndarray, most: int) -> list[int]:
    """Positions of the lowest values that are counted, the earlier one of two equal ones first."""
    found: list[int] = np.argsort(values, kind="stable")[: min(most, int(counted.sum()))].tolist()
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
