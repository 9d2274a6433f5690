"""What a `Task` is put together from: its predictions as tables, its figures, its submission.

Tables of truth and of predictions are indexed by the id of what is predicted, in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Head, Metric
from pipeline.submission_schema import Rules

if TYPE_CHECKING:  # an argument error needs no torch, and no figure
    from matplotlib.figure import Figure
    from torch import Tensor

    from pipeline.data.explain_target import Explained
    from pipeline.data.sample_record import SampleRecord
    from pipeline.types import Batch
    from toolkit.plots.figures import Drawing

Table = pd.DataFrame
Outputs = Mapping[str, "Tensor"]
# (batch, outputs) -> predictions of what is complete after this batch, as batches come in their order
Decoder = Callable[["Batch", Outputs], Table]
# (rows, their predictions by id) -> predictions by the id of what is predicted
Aggregator = Callable[[Table, Table], Table]
# bool (N,), the rows of a table that count -> the heads with the thresholds that score best on them
Tuner = Callable[[np.ndarray], tuple[Head, ...]]


class Predictions(ABC):
    """Predictions and truth as tables."""

    has_gallery: bool = False  # whether rows are looked up among others to predict them
    columns: Sequence[Any] = ()  # of the heads, each a `pipeline.heads.columns.Columns`; none of maps

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        self.competition, self.heads = competition, tuple(heads)

    @abstractmethod
    def empty(self) -> Table:
        """The predictions of no rows: the columns alone."""

    @abstractmethod
    def truth(self, rows: Table) -> Table:
        """The truth of labelled rows, as the metrics read it."""

    @abstractmethod
    def constants(self, rows: Table, held_out: Table) -> dict[str, Table]:
        """Predictions that look at no image, for rows that are held out, by name; `rows` are those that train."""

    @abstractmethod
    def average(self, tables: Sequence[Table]) -> Table:
        """The mean of several models' predictions."""

    def as_numbers(self, table: Table) -> np.ndarray:
        """Predictions as numbers by which models are likened, float64 (N, K)."""
        return table.select_dtypes("number").to_numpy(np.float64)

    @abstractmethod
    def logits(self) -> dict[Head, str]:
        """What the logits of each head are: `softmax`, `sigmoid`, `cumulative` (of ordered classes), `number`, or
        empty."""

    @abstractmethod
    def pseudo_labels(self, predictions: Table, above: float, soft: bool) -> Table:
        """What predictions say, in the columns of rows, by id: labels at least `above` probable, or probabilities. What
        is less sure is missing; a `UserError` where a kind of head cannot be labelled so."""

    def labelled(self, rows: Table) -> Table:
        """Rows with the columns of `pseudo_labels` as they train."""
        return rows

    @abstractmethod
    def tuner(self, truth: Table, predictions: Table, metric: Metric, quick: bool = False) -> Tuner | None:
        """What tunes thresholds on some of these rows, `quick` enough for every epoch; none where none decide."""

    @abstractmethod
    def threshold_counts(self) -> dict[str, int]:
        """How many thresholds decide a head, by its name."""

    def looks_among(self, rows: Table) -> bool:
        """Whether held-out rows are looked up among themselves, since none that trains shows the same."""
        return False

    def gallery(self, rows: Table, held_out: Table | None = None) -> Table | None:
        """The rows among whose images others are looked up, given those that train; none where outputs say all."""
        return None

    def decoders(self, gallery: Table, outputs: Iterable[tuple[Any, Outputs]], own: bool) -> dict[Any, Decoder]:
        """What decodes each model's outputs, by model, given (model, outputs) for each batch of the gallery; with `own`
        the gallery itself is predicted, each row by the others."""
        return {}


class Figures(ABC):
    """What a person sees: pictures of predictions and samples, suspected labels, and what is explained."""

    sample_score = ""  # what `sample_scores` are called; empty where a sample is as good as its loss is low

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.heads = predictions, predictions.heads

    @abstractmethod
    def overview(self, truth: Table, predictions: Table) -> dict[str, Drawing]:
        """Pictures of predictions against the truth, by name; a function is called beside the training."""

    @abstractmethod
    def examples(self, rows: Table, images: Sequence[Any], predictions: Table) -> dict[str, Drawing]:
        """For each head, by its name, a few of the labelled rows (N,) with truth and prediction; only their images, of
        (N,), uint8 (H, W, 3), are asked for."""

    @abstractmethod
    def samples(self, rows: Table, samples: Sequence[SampleRecord], heading: str) -> Drawing:
        """Samples (N,) as the model saw them, with truth, prediction and loss; `rows` are their labelled rows, (N,). A
        function is called beside the training."""

    @abstractmethod
    def captions(self, rows: Table, samples: Sequence[SampleRecord]) -> Table:
        """`truth` and `prediction` of such samples as text; `HEAD: ...; HEAD: ...` where there are several heads."""

    def sample_scores(self, batch: Batch, outputs: Outputs) -> Tensor:
        """How good a batch's predictions are, float32 (B,) on the device, 1 at best; only where `sample_score` is."""
        raise NotImplementedError

    @abstractmethod
    def sample_tables(self, rows: Table, batch: Batch, outputs: Outputs) -> tuple[Table, Table]:
        """Truth and predictions (N,) of the samples of a batch, each by itself, indexed by the ids of their labelled
        `rows`, (N,)."""

    @abstractmethod
    def label_errors(self, truth: Table, predictions: Table) -> Table:
        """Rows whose labels out-of-fold predictions speak against, the most suspicious first of each head: columns id,
        head, given, suggested, score, and the model's probability of what is suggested (NaN where it says none)."""

    @abstractmethod
    def label_errors_figure(self, found: Table, images: Sequence[Any], truth: Table, predictions: Table) -> Figure:
        """A picture of some `label_errors` (N,), with their images (N,), uint8 (H, W, 3)."""

    @abstractmethod
    def explain_target(self, batch: Batch, outputs: Outputs, name: str | None = None) -> Explained:
        """What of the outputs for a batch of one sample should be explained: what the first head says, or of `name`,
        `HEAD` or `HEAD:CLASS`; a `UserError` where there is none."""

    def curves(self, truth: Table, predictions: Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By `HEAD:CLASS`, whether rows are of a class, bool (N,), and its probability, (N,), where there is one."""
        return {}

    def class_maps(self, sample: SampleRecord) -> dict[str, dict[str, np.ndarray]]:
        """By name of head, `truth` and `prediction` as class numbers from 1 on, uint8 (H, W), 0 for none, if any."""
        return {}


class Submission(ABC):
    """What a submission holds, and how it is read again."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.heads, self.competition = predictions, predictions.heads, predictions.competition

    @abstractmethod
    def rules(self, sample: Table, metric: Metric, images: Mapping[str, Path] | None = None) -> Rules:
        """What may stand in the columns of this sample's submission; `images` are those of the test ids, as known."""

    @abstractmethod
    def read(self, table: Table, rules: Any, metric: Metric) -> Table | None:
        """A submission, indexed by id, as a table of predictions; none where it does not tell what the metric needs."""

    @abstractmethod
    def shares(self, predictions: Table) -> dict[str, pd.Series]:
        """For each head how often each class is decided for, share of rows, or the quartiles of numbers, by name."""
