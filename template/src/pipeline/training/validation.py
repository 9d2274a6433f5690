"""What the held-out rows come to, batch by batch; and which result is the better one."""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.competition import Head, Metric, metric_values, rank
from pipeline.inference.weights import host_copy
from pipeline.keys import INPUT_ID, ROW_ID, embedding_key
from pipeline.losses.criterion import LossSums
from pipeline.tasks import Decoder, Finisher, Task
from pipeline.types import Batch, StageResult, StepResult
from toolkit.distributed import Processes


class Validation:
    """Losses and predictions of the held-out rows, batch by batch, by the task's `decoder` and `finisher`."""

    def __init__(
        self, task: Task, metrics: Sequence[Metric], rows: pd.DataFrame, decode: Decoder, finish: Finisher
    ) -> None:
        self.task, self.metrics, self.rows, self.decode, self.finish = task, metrics, rows, decode, finish
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
        predictions = self.finish(self.rows, pd.concat(self.parts))
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
    """What the best epoch is chosen by: the leaderboard's metric, or the loss (`training.monitor`). The loss decides
    between equal scores of the metric."""

    def __init__(self, metrics: Sequence[Metric], by: Literal["metric", "loss"]) -> None:
        self.metric, self.by_loss = metrics[0], by == "loss"
        self.greater_is_better = self.metric.greater_is_better and not self.by_loss

    def score(self, result: StageResult) -> float:
        """The number that is compared. Where everything trains there is nothing to choose by: the last epoch counts."""
        if result.stage == "train":
            return float(result.epoch)
        return result.losses["loss"] if self.by_loss else result.metrics[self.metric.name]

    def is_better(self, result: StageResult, than: StageResult) -> bool:
        """Whether one result on the held-out rows beats another; a NaN beats nothing."""
        one, other = (rank(self.score(each), each.losses["loss"], self.greater_is_better) for each in (result, than))
        return one > other
