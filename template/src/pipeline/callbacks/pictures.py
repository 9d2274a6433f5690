"""Pictures of a finished run: where it is wrong, and how it learned."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.callbacks import Callback
from pipeline.keys import ROW_ID
from pipeline.prediction_ids import by_prediction
from pipeline.trackers.local import METRICS_FILE
from pipeline.types import Run, SampleDataset, StageResult
from toolkit.errors import Interrupted
from toolkit.plots.curves import learning_curves_figure
from toolkit.plots.images import RowImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.tasks import Task


class Pictures(Callback):
    """The task's figures, a sample of predictions and `learning_curves`, drawn when the run ends.

    The sample is `samples`, or `samples/<head>` where there are several heads.

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
            draw_figures(run, lambda: self.task.figures.overview(truth, predictions))
            draw_figures(run, lambda: self._samples(predictions))
        draw_figures(run, lambda: {"learning_curves": self._curves(run)})

    def _samples(self, predictions: pd.DataFrame) -> "Mapping[str, Figure]":
        rows = by_prediction(self.rows.reset_index(drop=True))
        rows = rows.iloc[pd.Index(rows[ROW_ID]).get_indexer(predictions.index)]
        drawn = self.task.figures.examples(rows, RowImages(self.dataset, rows.index.to_numpy()), predictions)
        return {"samples" if len(drawn) == 1 else f"samples/{head}": figure for head, figure in drawn.items()}

    def _curves(self, run: Run) -> "Figure":
        metrics = [metric.name for metric in run.metrics]
        best_epoch = run.best.epoch + 1 if run.best and len(self.rows) else None
        return learning_curves_figure(pd.read_csv(run.folder / METRICS_FILE), metrics, best_epoch)


def draw_figures(run: Run, draw: "Callable[[], Mapping[str, Figure]]") -> None:
    """Draw and log figures by name. One that fails is said and left out."""
    with may_fail(run, "a picture"):
        for name, figure in draw().items():
            run.tracker.figure(name, figure, run.progress.step)


@contextlib.contextmanager
def may_fail(run: Run, what: str) -> Iterator[None]:
    """What fails inside is said and left out: no picture is worth a training."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        print(f"note: {what} of fold {run.fold} was left out: {error}", file=sys.stderr, flush=True)
