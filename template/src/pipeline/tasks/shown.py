"""What a person sees of a task: pictures of predictions and samples, suspected labels, and what is explained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from pipeline.data.explain_target import Explained
    from pipeline.data.sample_record import SeenSample
    from pipeline.types import Batch


class Shown(ABC):
    """The part of a `Task` that callbacks and reports ask for pictures."""

    @abstractmethod
    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        """Pictures of predictions against the truth, by name."""

    @abstractmethod
    def sample_figures(self, rows: pd.DataFrame, images: Sequence[Any], predictions: pd.DataFrame) -> dict[str, Figure]:
        """For each head, by its name, a few of the labelled rows (N,) with truth and prediction, (N,) as well. Of the
        images (N,), uint8 (H, W, 3), only those that are shown are asked for."""

    @abstractmethod
    def draw_samples(self, rows: pd.DataFrame, samples: Sequence[SeenSample], heading: str) -> Figure:
        """Samples (N,) as the model saw them, with truth, prediction and loss; `rows` are their labelled rows, (N,)."""

    @abstractmethod
    def words(self, rows: pd.DataFrame, samples: Sequence[SeenSample]) -> pd.DataFrame:
        """`truth` and `prediction` of samples (N,) as a person reads them, text; `rows` as above. Where there are
        several heads, `HEAD: ...; HEAD: ...`."""

    @property
    def sample_score(self) -> str:
        """What `sample_scores` are called; empty where a sample is as good as its loss is low."""
        return ""

    def sample_scores(self, batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
        """How good the predictions of a batch's samples are, float32 (B,) on the device, 1 where nothing is wrong.
        Asked for only where `sample_score` names them."""
        raise NotImplementedError

    @abstractmethod
    def sample_tables(
        self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Truth and predictions (N,) of the samples of a batch, each by itself, as metrics read them.

        Both are indexed by the ids of their labelled `rows`, (N,). Of a part of an image the truth is that part's, of a
        mixed sample its own.
        """

    @abstractmethod
    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Rows whose labels out-of-fold predictions speak against, the most suspicious first of each head: columns id,
        head, given, suggested, score, and the model's probability of what is suggested (NaN where it says none)."""

    @abstractmethod
    def suspects_figure(
        self, found: pd.DataFrame, images: Sequence[Any], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        """A picture of some `suspects` (N,), with their images (N,), uint8 (H, W, 3), truth and predictions (N,)."""

    @abstractmethod
    def explained(self, batch: Batch, outputs: Mapping[str, Tensor], chosen: str | None = None) -> Explained:
        """What of the outputs for a batch of one sample should be explained: what the first head says, or of `chosen`,
        `HEAD` or `HEAD:CLASS`; a `UserError` where there is none."""

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By `HEAD:CLASS`, whether rows are of a class, bool (N,), and its probability, (N,): what a curve of precision
        over recall is made of. None where predictions are no such thing."""
        return {}

    def class_maps(self, sample: SeenSample) -> dict[str, dict[str, np.ndarray]]:
        """For each head, by its name, `truth` and `prediction` as class numbers from 1 on, uint8 (H, W), 0 for none;
        empty where classes have no place in an image."""
        return {}
