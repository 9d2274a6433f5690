"""Pictures of a finished run: where it is wrong, and how it learned."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import pandas as pd

from pipeline.callbacks import Callback
from pipeline.callbacks.curves import learning_curves_figure
from pipeline.errors import Interrupted
from pipeline.keys import ROW_ID
from pipeline.prediction_ids import by_prediction
from pipeline.seam import Run, SampleDataset, StageResult
from pipeline.tracking.local import METRICS_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.tasks import Task


class Pictures(Callback):
    """The task's figures, a sample of predictions (`samples`) and `learning_curves`, drawn when the run ends.

    A picture that cannot be drawn is said and left out: the training it shows is done and stays.

    Args:
        rows: the held-out rows.
        dataset: their samples, asked for by (epoch, row).
    """

    def __init__(self, task: "Task", rows: pd.DataFrame, dataset: SampleDataset) -> None:
        self.task = task
        self.rows = rows
        self.dataset = dataset

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if result is not None and result.truth is not None and result.predictions is not None:
            truth, predictions = result.truth, result.predictions
            self._draw(run, lambda: self.task.figures(truth, predictions))
            self._draw(run, lambda: {"samples": self._sample(predictions)})
        self._draw(run, lambda: {"learning_curves": self._curves(run)})

    def _draw(self, run: Run, draw: "Callable[[], Mapping[str, Figure]]") -> None:
        try:
            for name, figure in draw().items():
                run.tracker.figure(name, figure, run.progress.step)
        except Interrupted:
            raise
        except Exception as error:
            print(f"note: a picture of fold {run.fold} was left out: {error}", file=sys.stderr, flush=True)

    def _sample(self, predictions: pd.DataFrame) -> "Figure":
        rows = by_prediction(self.rows.reset_index(drop=True))
        rows = rows.iloc[pd.Index(rows[ROW_ID]).get_indexer(predictions.index)]
        return self.task.sample_figure(rows, RowImages(self.dataset, rows.index.to_numpy()), predictions)

    def _curves(self, run: Run) -> "Figure":
        metrics = [metric.name for metric in run.metrics]
        best_epoch = run.best.epoch + 1 if run.best and len(self.rows) else None
        return learning_curves_figure(pd.read_csv(run.folder / METRICS_FILE), metrics, best_epoch)


class RowImages(Sequence[np.ndarray]):
    """The images of some rows as a person can see them, uint8 (H, W, 3). Each is read when it is asked for."""

    def __init__(self, dataset: SampleDataset, positions: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "RowImages": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | RowImages":
        if isinstance(index, slice):
            return RowImages(self.dataset, self.positions[index])
        return visible(self.dataset.picture(int(self.positions[index])))


def visible(image: np.ndarray) -> np.ndarray:
    """Any sample's image (H, W, C), uint8 or float in [0, 1], as uint8 (H, W, 3): grey from one or two channels."""
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return image[..., channels]
