"""What the held-out rows come to, batch by batch; and which result is the better one."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.competition import Head, Metric, metric_values, rank
from pipeline.inference.weights import host_copy
from pipeline.keys import INPUT_ID, ROW_ID, embedding_key
from pipeline.losses.criterion import LossSums
from pipeline.tasks import Aggregator, Decoder, Task
from pipeline.types import Batch, StageResult, StepResult
from toolkit.distributed import Processes
from toolkit.errors import UserError, nearest


class Validation:
    """Losses and predictions of the held-out rows, batch by batch, by the task's `decoder` and `aggregator`."""

    def __init__(
        self, task: Task, metrics: Sequence[Metric], rows: pd.DataFrame, decode: Decoder, aggregate: Aggregator
    ) -> None:
        self.task, self.metrics, self.rows, self.decode, self.aggregate = task, metrics, rows, decode, aggregate
        self.sums = LossSums()
        self.parts: list[pd.DataFrame] = []
        self.among = task.predictions.looks_among(rows)
        self.outputs: list[tuple[list[str], dict[str, Tensor]]] = []  # what is decoded once all rows are there

    def add(self, batch: Batch, result: StepResult) -> None:
        """Take up what a batch came to."""
        self.sums.add(result, len(batch[INPUT_ID]))
        outputs = result["outputs"]
        if self.among:  # cosines to the classes that train would fill the memory, and say nothing about these rows
            unused = {head.output_key for head in self.task.heads if embedding_key(head.name) in outputs}
            self.outputs.append((batch[INPUT_ID], {key: value for key, value in outputs.items() if key not in unused}))
        elif len(found := self.decode(batch, outputs)):
            self.parts.append(found)

    def gather(self, processes: Processes) -> None:
        """Join what the processes have of their rows, on the main one. All call it."""
        self.sums.gather(processes)
        if processes.size > 1:
            shares = processes.gather((self.parts, host_copy(self.outputs)))
            self.parts = [part for parts, _ in shares for part in parts]
            self.outputs = [batch for _, batches in shares for batch in batches]

    def result(self, epoch: int) -> StageResult:
        """Losses, metrics and predictions once all batches are in.

        What the metrics decide is decided by the thresholds that suit the leaderboard's metric best on these rows, as
        far as they are quickly found: so the best epoch is chosen by what is used in the end.
        """
        if self.among:
            gallery = self.rows.set_index(ROW_ID, drop=False).loc[[name for ids, _ in self.outputs for name in ids]]
            passes = (("", batch) for _, batch in self.outputs)
            [decode] = self.task.predictions.decoders(gallery, passes, own=True).values()
            self.parts = [decode({INPUT_ID: ids}, batch) for ids, batch in self.outputs]
        predictions = self.aggregate(self.rows, pd.concat(self.parts))
        truth = self.task.predictions.truth(self.rows).loc[predictions.index]
        heads = quickly_tuned(self.task, self.metrics[0], truth, predictions)
        metrics = metric_values(self.metrics, truth, predictions, heads)
        return StageResult("valid", epoch, self.sums.means(), metrics, truth, predictions)


def quickly_tuned(task: Task, metric: Metric, truth: pd.DataFrame, predictions: pd.DataFrame) -> Sequence[Head]:
    """The heads with thresholds that suit these rows; as they are where the metric asks for none."""
    tuner = task.predictions.tuner(truth, predictions, metric, quick=True)
    if tuner is None:
        return task.heads
    with warnings.catch_warnings():  # of thresholds that are only tried
        warnings.simplefilter("ignore")
        return tuner(np.ones(len(truth), bool))


class Monitor:
    """What the best epoch is chosen by: `training.monitor` names the leaderboard's `metric`, another by its name, or
    the `loss`. Between equal scores the next name decides, and after the last one the loss.

    Raises:
        UserError: no name, or one of no metric.
    """

    def __init__(self, metrics: Sequence[Metric], by: str | Sequence[str]) -> None:
        known = {**{metric.name: metric for metric in metrics}, "metric": metrics[0], "loss": None}
        names = [by] if isinstance(by, str) else by
        if wrong := [name for name in names if name not in known] or ([] if names else [""]):
            raise UserError(f"training.monitor: there is no metric '{wrong[0]}'; {nearest(wrong[0], known)}")
        self.by = [known[name] for name in names]
        self.greater_is_better = self._sign(self.by[0]) > 0

    def score(self, result: StageResult) -> float:
        """The number that is compared. Where everything trains there is nothing to choose by: the last epoch counts."""
        return float(result.epoch) if result.stage == "train" else self._value(self.by[0], result)

    def ties(self, result: StageResult) -> tuple[float, ...]:
        """What decides between equal scores, each greater when it is better."""
        further = self.by[1:] if result.stage != "train" else []
        return tuple(self._sign(metric) * self._value(metric, result) for metric in further)

    def is_better(self, result: StageResult, than: StageResult) -> bool:
        """Whether one result on the held-out rows beats another; a NaN beats nothing."""
        one, other = (
            rank(self.score(each), each.losses["loss"], self.greater_is_better, self.ties(each))
            for each in (result, than)
        )
        return one > other

    @staticmethod
    def _value(metric: Metric | None, result: StageResult) -> float:
        return result.losses["loss"] if metric is None else result.metrics[metric.name]

    @staticmethod
    def _sign(metric: Metric | None) -> int:
        return 1 if metric is not None and metric.greater_is_better else -1
