"""What the best and worst samples and batches are ranked by, and what is remembered of them in a stage of an epoch."""

import math
import warnings
from bisect import insort
from collections import Counter
from collections.abc import Sequence
from functools import cache
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline import keys
from pipeline.competition import Metric
from pipeline.config import Experiment
from pipeline.data.sample_record import SampleRecord
from pipeline.tasks import Task
from pipeline.types import Batch, StepResult
from toolkit.distributed import Processes
from toolkit.errors import Interrupted, UserError, listed

MOST = 8  # samples in a picture
MOST_BYTES = 256 * 2**20  # of a stage; of huge samples fewer are kept
PICTURES = 5
MOST_EXPLAINED = 4  # samples of each sort
BADNESS = "badness"  # what ranks a sample, beside its `LOSS`
WAYS = {"best": 1, "worst": -1}  # what badness and loss are multiplied by: the least comes first
Key = tuple[float, ...]
Entry = tuple[Key, Batch]  # what sorts a sample, and the sample: a batch of its own on the CPU, with its outputs


class Ranking:
    """How bad the samples of a batch are, and the batch as a whole.

    It is the loss, or what `watch.extremes_by` names: a term, or a metric. Where that names nothing and a task says
    better than its losses how good a sample is (of masks the Dice: losses call a correctly empty one bad), that ranks.
    `score` is the name of such a metric or score, and `sign` -1 where it is better when greater; `by` is for people.

    Raises:
        UserError: `watch.extremes_by` names none of these, or a metric where held-out rows are looked up among all of
            them, so that no batch can be decoded by itself.
    """

    def __init__(self, task: Task, config: Experiment, metrics: Sequence[Metric], valid_rows: pd.DataFrame) -> None:
        self.task, self.named = task, config.watch.extremes_by
        self.weights = {row.term: row.weight for row in config.losses}
        known = {metric.name: metric for metric in metrics}
        if self.named in known and len(valid_rows) and task.predictions.looks_among(valid_rows):
            known = {}
        names = dict.fromkeys([keys.LOSS, *self.weights, *known])
        if self.named is not None and self.named not in names:
            raise UserError(f"watch.extremes_by names '{self.named}', which cannot rank; it may be {listed(names, 40)}")
        self.metric = None if self.named in (keys.LOSS, *self.weights) else known.get(self.named or "")
        own = task.figures.sample_score if self.named is None else ""
        self.score = self.metric.name if self.metric else own
        self.by = self.named or (f"{own}, then loss" if own else keys.LOSS)
        self.sign = -1 if own or (self.metric and self.metric.greater_is_better) else 1

    def __call__(self, rows: pd.DataFrame, batch: Batch, result: StepResult) -> tuple[np.ndarray, np.ndarray]:
        """What ranks, of which less is better, and the loss, of each sample of a batch and then of the batch itself,
        float64 (B + 1,) each; NaN where a metric is not defined. `rows` are the table that `INPUT_ROW` counts in.

        A term that an intervention brings counts with the weight 1, and where it replaced the one that is named, all
        that are there are summed.
        """
        terms = result["sample_losses"]
        if self.named in terms:
            values, loss = terms[self.named], result["losses"][self.named]
        else:
            weighted = [self.weights.get(term, 1.0) * value.float() for term, value in terms.items()]
            values, loss = torch.stack(weighted).sum(dim=0), result["loss"]
        losses = torch.cat([values.detach().float(), loss.detach().float().reshape(1)]).cpu().double().numpy()
        if not self.score:
            return losses, losses
        if self.metric is None:
            each = self.task.figures.sample_scores(batch, result["outputs"]).cpu().double().numpy()
            return self.sign * np.append(each, each.mean()), losses
        rows = rows.iloc[batch[keys.INPUT_ROW].tolist()]
        truth, predictions = self.task.figures.sample_tables(rows, batch, result["outputs"])
        parts = [*(slice(k, k + 1) for k in range(len(truth))), slice(None)]
        with warnings.catch_warnings():  # of a batch there may be as many as it has samples
            warnings.simplefilter("ignore")
            scores = [self._score(self.metric, truth.iloc[part], predictions.iloc[part]) for part in parts]
        return self.sign * np.array(scores), losses

    def is_perfect(self, badness: float) -> bool:
        """Whether nothing is wrong with a sample: it is none of the worst, however few there are. Of a metric the best
        score is not known."""
        return bool(self.score) and self.metric is None and badness <= -1

    def _score(self, metric: Metric, truth: pd.DataFrame, predictions: pd.DataFrame) -> float:
        try:
            return float(metric.function(truth, predictions, self.task.heads))
        except Interrupted:
            raise
        except Exception:  # many metrics refuse a single row; pictures are no reason to end a training
            return math.nan


class StageSamples:
    """The extremes of one stage of an epoch. Of two equal samples the earlier one comes first; what a metric is not
    defined for is left out, and counted.

    Attributes:
        counts: of `all` samples, and of `samples` and `batches` with a finite loss and no score.
        lists: the `best`, `worst` and `not_finite` samples, the `first` ones, and some at `random`.
        extreme_batches: of the `best` and the `worst` batch, or a process's share of it, what it is compared by, its
            position in the epoch, how many samples it has, and some of them.

    Args:
        rows: the table that `INPUT_ROW` counts in.
        before: batches of the epoch that were trained before a kill. What was seen of them is gone: images are too
            large for a saved state, and they could not be seen again by the weights of then.
        generator: chooses samples at random; none: neither these nor the first ones are remembered.
    """

    def __init__(
        self, ranking: Ranking, rows: pd.DataFrame, before: int = 0, generator: np.random.Generator | None = None
    ) -> None:
        self.ranking, self.rows, self.before, self.generator = ranking, rows, before, generator
        self.lists: dict[str, list[Entry]] = {name: [] for name in ("best", "worst", "not_finite", "first", "random")}
        self.extreme_batches: dict[str, tuple[Key, int, int, list[Entry]]] = {}
        self.batches, self.counts = 0, Counter[str]()
        self.most: dict[str, int] = {}  # entries of a list; known once the first batch is

    def add(self, batch: Batch, result: StepResult) -> None:
        """Look at a batch, and copy what is remembered of it to the CPU."""
        badness, losses = self.ranking(self.rows, batch, result)
        *ranks, whole = zip(badness.tolist(), losses.tolist(), strict=True)
        # `output_label@1` are the logits under another dropout mask, which are never decoded.
        outputs = {key: value for key, value in result["outputs"].items() if not key.rpartition("@")[2].isdigit()}
        values = {**batch, **result.get("mixed", {}), **outputs, BADNESS: badness, keys.LOSS: losses}
        if not self.most:
            size = sum(value[:1].nbytes for value in values.values() if isinstance(value, Tensor))
            most = max(1, min(MOST, MOST_BYTES // (PICTURES * size)))
            self.most = {name: MOST_EXPLAINED if name in ("first", "random") else most for name in self.lists}
        finite = {k: rank for k, rank in enumerate(ranks) if math.isfinite(rank[1])}
        orders = {name: {k: _key(rank, way) for k, rank in finite.items()} for name, way in WAYS.items()}
        ranked = [k for k, rank in finite.items() if math.isfinite(rank[0])]
        offered: dict[str, dict[int, Key]] = {
            "best": {k: orders["best"][k] for k in ranked},
            "worst": {k: orders["worst"][k] for k in ranked if not self.ranking.is_perfect(ranks[k][0])},
            "not_finite": {k: () for k in range(len(ranks)) if k not in finite},
        }
        if self.generator is not None:
            there, ids = [sample[keys.INPUT_ID][0] for _, sample in self.lists["first"]], batch[keys.INPUT_ID]
            offered["first"] = {k: () for k, name in enumerate(ids) if name not in (*there, *ids[:k])}
            offered["random"] = {k: (-number,) for k, number in enumerate(self.generator.random(len(ranks)).tolist())}

        @cache
        def copied(k: int) -> Batch:  # a view would keep all samples of the batch
            parts = {key: value[k : k + 1] for key, value in values.items()}
            return {n: p.detach().to("cpu", copy=True) if isinstance(p, Tensor) else p for n, p in parts.items()}

        for name, found in offered.items():
            entries, most = self.lists[name], self.most[name]
            for k in sorted(found, key=found.__getitem__)[:most]:
                if len(entries) < most or found[k] < entries[-1][0]:
                    insort(entries, (found[k], copied(k)), key=itemgetter(0))
                    del entries[most:]
        self.batches += 1
        for name, order in orders.items():
            key, now = _key(whole, WAYS[name]), self.extreme_batches.get(name)
            if math.isfinite(key[0]) and math.isfinite(key[1]) and (now is None or key < now[0]):
                samples = [(order[k], copied(k)) for k in sorted(order, key=order.__getitem__)[: self.most[name]]]
                self.extreme_batches[name] = key, self.before + self.batches, len(ranks), samples
        self.counts.update(all=len(ranks), samples=len(finite) - len(ranked))
        self.counts["batches"] += math.isfinite(whole[1]) and not math.isfinite(whole[0])

    def gather(self, processes: Processes) -> None:
        """Join what each process remembers of its shares, on the main one. All call it."""
        shares = processes.gather((self.lists, self.extreme_batches, self.counts))
        if len(shares) < 2:
            return
        for name in self.lists:
            entries = [entry for lists, _, _ in shares for entry in lists[name]]
            self.lists[name] = sorted(entries, key=itemgetter(0))[: self.most[name]]
        for name in WAYS:
            found = sorted((batches[name] for _, batches, _ in shares if name in batches), key=itemgetter(0))
            same = [one for one in found if one[:2] == found[0][:2]]  # all shares of it that are there
            if same:
                entries = sorted((entry for one in same for entry in one[3]), key=itemgetter(0))
                size = sum(one[2] for one in same)
                self.extreme_batches[name] = *same[0][:2], size, entries[: self.most[name]]
        self.counts = sum((counts for _, _, counts in shares), Counter())

    def pictures(self, when: str) -> dict[str, tuple[str, list[SampleRecord]]]:
        """Heading and samples of each picture, by name; those without a sample are left out."""
        by, undefined = self.ranking.by, self.counts["samples"]
        when += f"; since it continued at batch {self.before + 1}" if self.before else ""
        of = f"{self.counts['all']:,} samples by {by}" + (f", undefined for {undefined:,}" if undefined else "")
        found = {"non_finite_samples": (f"Samples whose loss is not finite ({when})", self.lists["not_finite"])}
        for name in WAYS:
            found[f"{name}_samples"] = f"{name.title()} {len(self.lists[name])} of {of} ({when})", self.lists[name]
        for name, (key, number, size, entries) in self.extreme_batches.items():
            part = "" if len(entries) == size else f"; {name} {len(entries)} of its {size}"
            text = f"number {number}, {by} {WAYS[name] * self.ranking.sign * key[0]:.3g}{part} ({when})"
            found[f"{name}_batch"] = (f"{name.title()} of {self.batches:,} batches: {text}", entries)
        drawn = {name: (text, entries) for name, (text, entries) in found.items() if entries}
        return {name: (text, [self.record(one) for _, one in entries]) for name, (text, entries) in drawn.items()}

    def record(self, sample: Batch) -> SampleRecord:
        """A sample as figures take it."""
        one, mixed = {key: value[0] for key, value in sample.items()}, None
        if float(one.get(keys.INPUT_SHARE, 1)) < 1:
            mixed = str(self.rows[keys.ROW_ID].iloc[int(one[keys.INPUT_PARTNER])]), float(one[keys.INPUT_SHARE])
        return SampleRecord(
            id=one[keys.INPUT_ID],
            row=int(one[keys.INPUT_ROW]),
            image=one[keys.INPUT_IMAGE].numpy(),
            targets={key: value for key, value in one.items() if key.startswith(keys.TARGET_PREFIX)},
            outputs={key: value for key, value in one.items() if key.startswith(keys.OUTPUT_PREFIX)},
            loss=float(one[keys.LOSS]),
            mixed=mixed,
            scored=(self.ranking.score, self.ranking.sign * float(one[BADNESS])) if self.ranking.score else None,
        )


def _key(rank: tuple[float, float], way: int) -> Key:
    """What sorts by badness, then loss; what has no score comes behind."""
    return (way * rank[0] if math.isfinite(rank[0]) else math.inf, way * rank[1])
