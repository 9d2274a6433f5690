"""What the best and the worst are ranked by: the loss, one of its terms, a metric of the run, or what a task says."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.competition import Head, Metric
from pipeline.config import Experiment
from pipeline.keys import LOSS
from pipeline.types import Batch, StepResult
from toolkit.errors import Interrupted, UserError, listed

if TYPE_CHECKING:
    from pipeline.tasks import Task


class MetricScores:
    """What a metric says of a batch, and of each of its samples alone.

    Attributes:
        reason: why it last said nothing; empty as long as it always did.
    """

    def __init__(self, task: "Task", metric: Metric, heads: Sequence[Head]) -> None:
        self.task, self.metric, self.heads = task, metric, heads
        self.reason = ""

    def __call__(self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[np.ndarray, float]:
        """The scores of the samples, float64 (B,), and that of the batch; NaN where the metric is not defined.

        Args:
            rows: those of the samples, (B,).
        """
        truth, predictions = self.task.figures.sample_tables(rows, batch, outputs)
        with warnings.catch_warnings(record=True) as warned:  # of a batch there may be as many as it has samples
            warnings.simplefilter("always")
            whole = self._score(truth, predictions)
            each = [self._score(truth.iloc[[k]], predictions.iloc[[k]]) for k in range(len(truth))]
        if warned and not np.isfinite([whole, *each]).all():
            self.reason = str(warned[-1].message)
        return np.array(each, np.float64), whole

    def is_perfect(self, scores: np.ndarray) -> np.ndarray:
        """What a metric's best score is, is not known."""
        return np.zeros(len(scores), bool)

    def _score(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> float:
        try:
            return float(self.metric.function(truth, predictions, self.heads))
        except Interrupted:
            raise
        except Exception as error:  # many metrics refuse a single row; pictures are no reason to end a training
            self.reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            return math.nan


class SampleScores(MetricScores):
    """The same by what a task says of each sample (`Figures.sample_scores`); of a batch the mean."""

    def __init__(self, task: "Task", name: str) -> None:
        super().__init__(task, Metric(name, lambda truth, predictions, heads: math.nan), task.heads)

    def __call__(self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[np.ndarray, float]:
        each = self.samples(batch, outputs)
        return each, float(each.mean())

    def samples(self, batch: Batch, outputs: Mapping[str, Tensor]) -> np.ndarray:
        """The scores of the samples, float64 (B,)."""
        return np.array(self.task.figures.sample_scores(batch, outputs).tolist(), np.float64)

    def is_perfect(self, scores: np.ndarray) -> np.ndarray:
        """Which samples have nothing wrong, bool (B,): they are none of the worst, however few there are."""
        return scores >= 1


def sample_scores(task: "Task", config: Experiment) -> SampleScores | None:
    """The task's own ranking of samples, where it has one and `watch.extremes_by` names nothing."""
    name = task.figures.sample_score
    return SampleScores(task, name) if config.watch.extremes_by is None and name else None


def ranking_metric(
    config: Experiment, metrics: Sequence[Metric], task: "Task", valid_rows: pd.DataFrame
) -> Metric | None:
    """The metric that `watch.extremes_by` names; none where it names nothing, or the loss or a term, which come first.

    Raises:
        UserError: it is none of these, or a metric where no batch of held-out rows can be decoded by itself.
    """
    by, terms, known = config.watch.extremes_by, [row.term for row in config.losses], {one.name: one for one in metrics}
    if by in (None, LOSS, *terms):
        return None
    if by not in known:
        raise UserError(
            f"watch.extremes_by names '{by}', which is neither a term of the loss nor a metric; it may be "
            f"{listed(dict.fromkeys([LOSS, *terms, *known]), 40)}"
        )
    if len(valid_rows) and task.predictions.looks_among(valid_rows):
        raise UserError(
            f"watch.extremes_by names the metric '{by}', and held-out rows are looked up among all of them, so no "
            f"batch of them can be scored; rank by {listed([LOSS, *terms], 40)}"
        )
    return known[by]


def ranked_by(result: StepResult, config: Experiment) -> tuple[np.ndarray, float]:
    """The loss of each sample of a batch, or the term that ranks them, float32 (B,), and that of the batch itself; read
    back in one copy.

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
