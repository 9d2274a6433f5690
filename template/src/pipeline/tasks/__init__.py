"""Kinds of tasks, one room each, behind one interface.

A room says which kinds of heads it knows. A competition's heads therefore choose the room, and nothing outside the
rooms asks what kind of task it is working for.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.competition import Competition, Head, Metric
from pipeline.config import Experiment, LossRow
from pipeline.registry import Names, References, load
from pipeline.submission_schema import Rules
from pipeline.tasks.shown import Shown
from toolkit.errors import UserError, listed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

    from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
    from toolkit.images.row_reader import Reader

# (batch, outputs) -> predictions of what is complete after this batch, as batches come in their order
Decoder = Callable[["Batch", Mapping[str, "Tensor"]], "pd.DataFrame"]
# (rows, their predictions by id) -> predictions by the id of what is predicted
Finisher = Callable[["pd.DataFrame", "pd.DataFrame"], "pd.DataFrame"]
# bool (N,), the rows of a table that count -> the task with the thresholds that score best on them
Tuner = Callable[["np.ndarray"], "Task"]


class Task(Shown):
    """What one kind of task does with rows, batches and outputs."""

    KINDS: ClassVar[frozenset[str]]
    NAMES: ClassVar[References]

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        self.competition = competition
        self.heads = tuple(heads)

    def check_settings(self, experiment: Experiment, names: Names) -> None:
        """Raise a `UserError` for settings that do not go together, before anything is read or written."""

    @abstractmethod
    def dataset(
        self,
        rows: pd.DataFrame,
        root: Path,
        experiment: Experiment,
        names: Names,
        stage: str,
        reader: Reader | None = None,
    ) -> SampleDataset:
        """Rows as sample dicts.

        Args:
            stage: `train`, `valid` or `test`; a test sample has no targets.
            reader: what `open_cache` gave for these rows; none: each image is decoded when it is asked for.
        """

    @abstractmethod
    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """Sample dicts as one batch dict."""

    @abstractmethod
    def model(self, experiment: Experiment, names: Names, pretrained: bool) -> PreparedModel:
        """`Prepare` and network as one module: batch dict in, output dict out."""

    @abstractmethod
    def begin(self, network: nn.Module, rows: pd.DataFrame) -> None:
        """Tell the layers of a new network, before its first step, what they have to know of the rows that train."""

    @abstractmethod
    def default_losses(self) -> tuple[LossRow, ...]:
        """The usual loss of each head."""

    @abstractmethod
    def criterion(self, losses: Sequence[LossRow], names: Names, rows: pd.DataFrame) -> Criterion:
        """The weighted sum of the loss rows; `rows` are those that train, for what depends on how many there are."""

    @abstractmethod
    def predictor(self, model: nn.Module, experiment: Experiment, names: Names) -> nn.Module:
        """The model as it predicts: batch dict in, output dict out."""

    @abstractmethod
    def decoder(self, experiment: Experiment, names: Names) -> Decoder:
        """Makes predictions, indexed by id, of the logits of one model. Those of several are averaged by `average`."""

    @abstractmethod
    def kept(self, predictions: pd.DataFrame, experiment: Experiment, names: Names) -> pd.DataFrame:
        """What of out-of-fold predictions goes into the file that is scored later."""

    @property
    def has_gallery(self) -> bool:
        """Whether rows are looked up among others to predict them."""
        return False

    def looks_among(self, rows: pd.DataFrame) -> bool:
        """Whether held-out rows are looked up among themselves, since none that trains shows the same."""
        return False

    def gallery(self, rows: pd.DataFrame, held_out: pd.DataFrame | None = None) -> pd.DataFrame | None:
        """The rows among whose images others are looked up to predict them; none where the outputs say all.

        Args:
            rows: those that train.
            held_out: what is predicted; none: the test rows.

        Raises:
            UserError: there should be some, and are none.
        """
        return None

    def decoders(
        self, gallery: pd.DataFrame, outputs: Iterable[Sequence[Mapping[str, Tensor]]], own: bool
    ) -> list[Decoder]:
        """What decodes the outputs of each model, given what it says of the gallery.

        Args:
            outputs: for each batch of the gallery those of each model.
            own: the gallery itself is predicted, each row by the others.
        """
        return []

    @abstractmethod
    def no_predictions(self) -> pd.DataFrame:
        """The predictions of no rows: the columns alone."""

    @abstractmethod
    def constants(self, rows: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Predictions that look at no image, for rows that are held out, by name; `rows` are those that train."""

    @abstractmethod
    def tuner(
        self, truth: pd.DataFrame, predictions: pd.DataFrame, metric: Metric, quick: bool = False
    ) -> Tuner | None:
        """What tunes thresholds on some of these rows; none where nothing is decided by any.

        Args:
            quick: fewer are tried, so that it can be asked in every epoch.
        """

    @abstractmethod
    def with_thresholds(self, thresholds: Mapping[str, Sequence[float]]) -> Task:
        """This task with thresholds by name of head.

        Raises:
            UserError: there is no such head, or it has another number of thresholds.
        """

    @abstractmethod
    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean of several models' predictions for the same ids in the same order."""

    @abstractmethod
    def finisher(self, experiment: Experiment, names: Names) -> Finisher:
        """Makes of the predictions of rows, indexed by id, what is scored and handed in."""

    @abstractmethod
    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The truth of labelled rows, indexed by id (of what is predicted), as the metrics read it."""

    @abstractmethod
    def check_contract(self, batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
        """Check dtypes and shapes of the first batch; rows of (key, dtype, shape, role) to print.

        Raises:
            UserError: a key is missing (the wiring row and the keys there are, are named) or has the wrong form.
        """

    @abstractmethod
    def submission_rules(self, sample: pd.DataFrame, metric: Metric, images: Mapping[str, Path] | None = None) -> Rules:
        """What may stand in the columns of this sample's submission; `images` are those of the test ids, as known."""

    @abstractmethod
    def read_submission(self, table: pd.DataFrame, rules: Any, metric: Metric) -> pd.DataFrame | None:
        """A submission, indexed by id, as a table of predictions; none where it does not tell what the metric needs."""

    @abstractmethod
    def shares(self, predictions: pd.DataFrame) -> dict[str, pd.Series]:
        """How often each class is decided for, per head: share of rows, indexed by class. Of numbers, their quartiles
        by name."""


def rooms() -> dict[str, type[Task]]:
    """Every room of this repository: kind of head -> its `Task`."""
    found: dict[str, type[Task]] = {}
    for room in room_packages():
        task: type[Task] = load(room.TASK, f"the room '{room.__name__}'")
        found.update(dict.fromkeys(task.KINDS, task))
    return found


def room_packages() -> list[Any]:
    """The packages that say which `Task` is theirs."""
    found = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [module for module in found if hasattr(module, "TASK")]


def task_for(competition: Competition, heads: Sequence[Head]) -> Task:
    """The room for these heads.

    Raises:
        UserError: a head of a kind no room knows, or heads that belong to different rooms.
    """
    known = rooms()
    for head in heads:
        if head.kind not in known:
            raise UserError(f"head '{head.name}' is of the kind '{head.kind}'; known: {listed(sorted(known), 9)}")
    chosen = {known[head.kind] for head in heads}
    if len(chosen) != 1:
        raise UserError(f"{competition.package}.targets must name at least one head, all of them for one room")
    return chosen.pop()(competition, heads)
