"""Kinds of tasks, a folder each, behind one interface.

A task says which kinds of heads it knows. A competition's heads therefore choose the task, and nothing outside these
folders asks what kind of task it is working for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, LossRow
from pipeline.registry import References, Registry, load, modules_of
from pipeline.tasks.components import Aggregator, Decoder, Figures, Outputs, Predictions, Submission, Table
from toolkit.errors import UserError, listed

if TYPE_CHECKING:  # an argument error needs no torch
    from torch import nn

    from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
    from toolkit.images.readers import Reader


class Task(ABC):
    """How one kind of task learns and predicts; `predictions`, `figures` and `submission` are made of its outputs."""

    KINDS: ClassVar[frozenset[str]]
    NAMES: ClassVar[References]
    predictions: Predictions
    figures: Figures
    submission: Submission

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        self.competition = competition
        self.heads = tuple(heads)

    def check_settings(self, experiment: Experiment, names: Registry) -> None:  # noqa: B027, most have none to check
        """Raise a `UserError` for settings that do not go together, before anything is read or written."""

    @abstractmethod
    def dataset(
        self, rows: Table, root: Path, experiment: Experiment, names: Registry, stage: str, reader: Reader | None = None
    ) -> SampleDataset:
        """Rows as sample dicts; those of the stage `test` have no targets. Without a `reader`, which is what
        `open_cache` gave for these rows, each image is decoded when it is asked for."""

    @abstractmethod
    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """Sample dicts as one batch dict."""

    @abstractmethod
    def model(self, experiment: Experiment, names: Registry, pretrained: bool) -> PreparedModel:
        """`Prepare` and network as one module: batch dict in, output dict out."""

    def fit_statistics(self, network: nn.Module, rows: Table) -> None:  # noqa: B027, most layers need none
        """Tell the layers of a new network, before its first step, what they have to know of the rows that train."""

    @abstractmethod
    def default_losses(self) -> tuple[LossRow, ...]:
        """The usual loss of each head."""

    @abstractmethod
    def criterion(self, losses: Sequence[LossRow], names: Registry, rows: Table) -> Criterion:
        """The weighted sum of the loss rows; `rows` are those that train, for what depends on how many there are."""

    def average_views(self, views: Iterable[tuple[Outputs, Callable[[Outputs], Outputs]]]) -> Sequence[Outputs]:
        """What is decoded of a model's outputs for some views of a batch, each with what undoes its view: all of them,
        whose predictions are then averaged as several models' are."""
        return [undo(outputs) for outputs, undo in views]

    @abstractmethod
    def decoder(self, experiment: Experiment, names: Registry) -> Decoder:
        """Makes predictions, indexed by id, of the logits of one model; `Predictions.average` merges several."""

    def stored(self, predictions: Table, experiment: Experiment, names: Registry) -> Table:
        """What of out-of-fold predictions goes into the file that is scored later."""
        return predictions

    @abstractmethod
    def aggregator(self, experiment: Experiment, names: Registry) -> Aggregator:
        """Makes of the predictions of rows, indexed by id, what is scored and handed in."""

    @abstractmethod
    def batch_schema(self, batch: Batch, outputs: Outputs) -> list[tuple[str, str, str, str]]:
        """Check dtypes and shapes of the first batch, by a `UserError`; rows of (key, dtype, shape, role) to print."""


def task_kinds() -> dict[str, type[Task]]:
    """Every kind of task of this repository: kind of head -> its `Task`."""
    found: dict[str, type[Task]] = {}
    for name, reference in modules_of(__name__, "TASK").items():
        if name != "components":
            task: type[Task] = load(load(reference, name), name)
            found.update(dict.fromkeys(task.KINDS, task))
    return found


def task_for(competition: Competition, heads: Sequence[Head]) -> Task:
    """The task of these heads; a `UserError` where none knows one of them, or they belong to different ones."""
    known = task_kinds()
    for head in heads:
        if head.kind not in known:
            raise UserError(f"head '{head.name}' is of the kind '{head.kind}'; known: {listed(sorted(known), 9)}")
    tasks = {known[head.kind] for head in heads}
    if len(tasks) != 1:
        raise UserError(f"{competition.package}.targets must name at least one head, all of them for one kind of task")
    return tasks.pop()(competition, heads)


def with_thresholds(task: Task, thresholds: Mapping[str, Sequence[float]]) -> Task:
    """The task with thresholds by name of head; a `UserError` where it has no such head, or another number of them."""
    counts = task.predictions.threshold_counts()
    for name, values in thresholds.items():
        if len(values) != counts.get(name):
            raise UserError(f"there are {len(values)} thresholds for the head '{name}', which has none or others")
    heads = [replace(head, thresholds=tuple(thresholds.get(head.name, ()))) for head in task.heads]
    return type(task)(task.competition, heads)
