"""What the best and worst samples and batches are ranked by, and what is remembered of them in a stage of an epoch."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pipeline import keys
from pipeline.callbacks import HostCopy
from pipeline.competition import Metric
from pipeline.config import Experiment
from pipeline.data.sample_record import SampleRecord
from pipeline.inference.weights import host_copy
from pipeline.tasks import Task
from pipeline.types import Batch, Index, StepResult
from toolkit.distributed import Processes
from toolkit.errors import Interrupted, UserError, listed

MOST = 8  # samples in a picture
TOGETHER = 16  # batches that are ranked at once: one by one that takes a millisecond each on a CPU
MOST_BYTES = 256 * 2**20  # of a stage's outputs; of huge ones fewer are kept
LISTS = ("best", "worst", "not_finite", "best_batch", "worst_batch")
WAYS = {"best": 1, "worst": -1}  # what badness and loss are multiplied by: the least comes first
# Of a kept sample: badness and loss, its own and its batch's, float64 (4,), what of them sorts it, and where it was.
BY, KEY, BATCH, NUMBER, INDEX = "by", "key", "batch", "number", "index"
Key = tuple[float, ...]
Entry = tuple[Key, Batch]  # what sorts a sample, and what is kept of it, on the CPU


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

    def __call__(self, rows: pd.DataFrame, batch: Batch, result: StepResult) -> tuple[Tensor, Tensor]:
        """What ranks, of which less is better, and the loss, of each sample of a batch and then of the batch itself,
        float64 (B + 1,) each, on the device; NaN where a metric is not defined. A metric is computed on the CPU, for
        which the outputs are read back. `rows` are the table that `INPUT_ROW` counts in.

        A term that an intervention brings counts with the weight 1, and where it replaced the one that is named, all
        that are there are summed.
        """
        terms = result["sample_losses"]
        if self.named in terms:
            values, loss = terms[self.named], result["losses"][self.named]
        else:
            weighted = [self.weights.get(term, 1.0) * value.float() for term, value in terms.items()]
            values, loss = torch.stack(weighted).sum(dim=0), result["loss"]
        losses = torch.cat([values.detach().float(), loss.detach().float().reshape(1)])
        losses = losses if losses.device.type == "mps" else losses.double()  # Apple's GPUs have no float64
        if not self.score:
            return losses, losses
        if self.metric is None:
            each = self.task.figures.sample_scores(batch, result["outputs"]).to(losses.dtype)
            return self.sign * torch.cat([each, each.mean().reshape(1)]), losses
        rows = rows.iloc[batch[keys.INPUT_ROW].tolist()]
        truth, predictions = self.task.figures.sample_tables(rows, batch, result["outputs"])
        parts = [*(slice(k, k + 1) for k in range(len(truth))), slice(None)]
        with warnings.catch_warnings():  # of a batch there may be as many as it has samples
            warnings.simplefilter("ignore")
            scores = [self._score(self.metric, truth.iloc[part], predictions.iloc[part]) for part in parts]
        return self.sign * losses.new_tensor(scores), losses

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

    They are ranked where the losses are, and nothing is read back before `gather`. Of a sample its outputs are kept;
    the rest is a function of its position, by which the dataset gives it once more.

    Attributes:
        counts: of `all` samples, and of `samples` and `batches` with a finite loss and no score.
        lists: the samples of each of the `LISTS`.
        extreme_batches: of the `best` and the `worst` batch, or a process's share of it, what it is compared by, its
            position in the epoch, how many samples it has, and some of them.

    Args:
        rows: the table that `INPUT_ROW` counts in.
        before: batches of the epoch that were trained before a kill. What was seen of them is gone: outputs are too
            large for a saved state, and they could not be seen again by the weights of then.
    """

    def __init__(self, ranking: Ranking, rows: pd.DataFrame, before: int = 0) -> None:
        self.ranking, self.rows, self.before = ranking, rows, before
        self.lists: dict[str, list[Entry]] = {name: [] for name in LISTS}
        self.extreme_batches: dict[str, tuple[Key, int, int, list[Entry]]] = {}
        self.counts, self.most = Counter[str](), MOST
        self.last: tuple[Any, ...] = ()  # a batch and its result, on their way to the CPU
        self.ends = [0]  # how many samples there are up to each batch
        self.waiting: list[Batch] = []  # values of batches that are not ranked yet, on the device
        self.kept: dict[str, Tensor] = {}  # the same of the samples of each list, one after the other

    def add(self, batch: Batch, result: StepResult) -> None:
        """Look at a batch; for a metric at the one before, whose copy on the CPU is there by now."""
        if self.ranking.metric is None:
            self._add(batch, result)
            return
        self._add_last()
        self.last = tree_map_only(Tensor, HostCopy, ({**batch, keys.INPUT_IMAGE: None}, dict(result)))

    def _add_last(self) -> None:
        last, self.last = self.last, ()
        if last:
            self._add(*tree_map_only(HostCopy, HostCopy.values, last))

    def _add(self, batch: Batch, result: StepResult) -> None:
        badness, losses = self.ranking(self.rows, batch, result)
        start, end = self.ends[-1], self.ends[-1] + len(losses) - 1
        self.ends.append(end)
        if self.ranking.metric is not None:  # otherwise all is defined
            *samples, whole = (losses.isfinite() & ~badness.isfinite()).tolist()
            self.counts.update(samples=sum(samples), batches=whole)
        # `output_label@1` are the logits under another dropout mask, which are never decoded.
        outputs = {key: value for key, value in result["outputs"].items() if not key.rpartition("@")[2].isdigit()}
        unmixed = {keys.INPUT_PARTNER: batch[keys.INPUT_ROW], keys.INPUT_SHARE: torch.ones_like(losses[1:])}
        pairs, values = torch.stack([badness, losses]), {**outputs, **unmixed, **result.get("mixed", {})}
        values[BY] = torch.cat([pairs[:, :-1], pairs[:, -1:].expand(-1, end - start)]).T
        values[BATCH] = losses.new_full((end - start,), len(self.ends) - 1)
        values[NUMBER] = torch.arange(start, end, device=losses.device)
        size = sum(value.nbytes for value in values.values())
        if self.waiting and len(self.waiting) >= min(TOGETHER, MOST_BYTES // 4 // size):
            self._rank()
        self.waiting.append({key: value.detach() for key, value in values.items()})

    def _rank(self) -> None:
        """Take up the batches that wait. A list always has as many: of what it does not take the key is infinite."""
        parts, self.waiting = [self.kept, *self.waiting] if self.kept else self.waiting, []
        values = {key: torch.cat([each[key] for each in parts]) for key in parts[-1]}
        by, batch, count, lists = values[BY].T, values[BATCH], len(values[BY]), len(LISTS)
        self.most = max(1, min(MOST, MOST_BYTES * count // (lists * sum(value.nbytes for value in values.values()))))
        known, of_batch = by[:2].isfinite().all(dim=0), by[1:].isfinite().all(dim=0)
        # Where nothing is wrong with a sample it is none of the worst, however few there are.
        flawed = by[0] > (-1 if self.ranking.score and self.ranking.metric is None else -math.inf)
        nothing = torch.zeros_like(by)
        offered = (by, known), (-by, known & flawed), (nothing, ~by[1].isfinite()), (by, of_batch), (-by, of_batch)
        held, found, source = len(self.kept[BY]) if self.kept else 0, [], []
        places = torch.arange(-held, count - held, device=by.device)
        for number, (key, taken) in enumerate(offered):
            own = (places >= 0) | (places // max(1, held // lists) == number - lists)
            key = key.where(key.isfinite() & taken & own, math.inf)
            order = key[1].argsort(stable=True)
            for before in (key[0], batch, key[3], key[2])[: 4 if number > 2 else 1]:  # the last of them sorts first
                order = order[before[order].argsort(stable=True)]
            source.append(order[: self.most])
            found.append(key.T[source[-1]])
        rows = torch.cat(source)
        self.kept = {KEY: torch.cat(found), **{key: value[rows] for key, value in values.items()}}

    def gather(self, processes: Processes, positions: Sequence[Index]) -> None:
        """Read back what is kept, and join what each process has of its shares, on the main one. All call it.

        Args:
            positions: those of the stage's samples, as the sampler gave them to this process.
        """
        self._add_last()
        self._rank()
        kept = host_copy(self.kept)
        for place, key in enumerate(kept.pop(KEY).tolist()):
            if math.isfinite(key[1]):
                sample: Batch = {name: value[place].clone() for name, value in kept.items()}
                sample[INDEX] = positions[int(sample[NUMBER])]
                self.lists[LISTS[place * len(LISTS) // len(kept[BY])]].append((tuple(key[:2]), sample))
        for name, way in WAYS.items():
            if entries := self.lists[f"{name}_batch"]:
                number, of_batch = int(entries[0][1][BATCH]), way * entries[0][1][BY][2:]
                entries = [one for one in entries if one[1][BATCH] == number]
                size = self.ends[number] - self.ends[number - 1]
                self.extreme_batches[name] = tuple(of_batch.tolist()), self.before + number, size, entries
        self.counts["all"] = self.ends[-1]
        shares = processes.gather((self.lists, self.extreme_batches, self.counts))
        if len(shares) < 2:
            return
        for name, own in self.lists.items():
            entries = [entry for lists, _, _ in shares for entry in lists[name]]
            own[:] = sorted(entries, key=itemgetter(0))[: self.most]
        for name in WAYS:
            found = sorted((batches[name] for _, batches, _ in shares if name in batches), key=itemgetter(0))
            same = [one for one in found if one[:2] == found[0][:2]]  # all shares of it that are there
            if same:
                entries = sorted((entry for one in same for entry in one[3]), key=itemgetter(0))
                size = sum(one[2] for one in same)
                self.extreme_batches[name] = *same[0][:2], size, entries[: self.most]
        self.counts = sum((counts for _, _, counts in shares), Counter())

    def pictures(self, when: str) -> dict[str, tuple[str, list[Batch]]]:
        """Heading, and what is kept of the samples, of each picture, by name; those without a sample are left out."""
        by, undefined = self.ranking.by, self.counts["samples"]
        when += f"; since it continued at batch {self.before + 1}" if self.before else ""
        of = f"{self.counts['all']:,} samples by {by}" + (f", undefined for {undefined:,}" if undefined else "")
        found = {"non_finite_samples": (f"Samples whose loss is not finite ({when})", self.lists["not_finite"])}
        for name in WAYS:
            found[f"{name}_samples"] = f"{name.title()} {len(self.lists[name])} of {of} ({when})", self.lists[name]
        for name, (key, number, size, entries) in self.extreme_batches.items():
            part = "" if len(entries) == size else f"; {name} {len(entries)} of its {size}"
            text = f"number {number}, {by} {WAYS[name] * self.ranking.sign * key[0]:.3g}{part} ({when})"
            found[f"{name}_batch"] = (f"{name.title()} of {len(self.ends) - 1:,} batches: {text}", entries)
        return {name: (text, [one for _, one in entries]) for name, (text, entries) in found.items() if entries}

    def record(self, kept: Batch, read: Callable[[Index], Batch]) -> SampleRecord:
        """A kept sample as figures take it; `read` gives it once more by its position, as a batch of its own."""
        one, mixed, score = {key: value[0] for key, value in read(kept[INDEX]).items()}, None, self.ranking.score
        if float(kept[keys.INPUT_SHARE]) < 1:
            mixed = str(self.rows[keys.ROW_ID].iloc[int(kept[keys.INPUT_PARTNER])]), float(kept[keys.INPUT_SHARE])
        return SampleRecord(
            id=one[keys.INPUT_ID],
            row=int(one[keys.INPUT_ROW]),
            image=one[keys.INPUT_IMAGE].numpy(),
            targets={key: value for key, value in one.items() if key.startswith(keys.TARGET_PREFIX)},
            outputs={key: value for key, value in kept.items() if key.startswith(keys.OUTPUT_PREFIX)},
            loss=float(kept[BY][1]),
            mixed=mixed,
            scored=(score, self.ranking.sign * float(kept[BY][0])) if score else None,
        )
