"""Pictures of a finished run: where it is wrong, and how it learned; and how predictions and embeddings are spread."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.callbacks import Callback
from pipeline.competition import Head
from pipeline.keys import INPUT_IMAGE, ROW_ID, embedding_key
from pipeline.rows import by_prediction
from pipeline.tasks import Task
from pipeline.trackers import Points, say_left_out
from pipeline.trackers.local import METRICS_FILE
from pipeline.types import Batch, Run, SampleDataset, StageResult, StepResult
from toolkit.errors import Interrupted
from toolkit.plots.curves import learning_curves_figure
from toolkit.plots.embeddings import UNKNOWN, embedding_figure
from toolkit.plots.images import RowImages, visible

MOST_COLUMNS = 20  # of predictions
MOST_POINTS = 1000  # embeddings
SIDE = 32  # of the images beside them


class Pictures(Callback):
    """At `watch.figure_epochs` the histograms `predictions/<column>` of held-out rows. When the run ends, the task's
    figures, a sample of predictions (`samples`, or `samples/<head>` where there are several), `learning_curves`, and
    `pr/<head>:<class>`, precision against recall. `rows` are the held-out ones, and `dataset` has their images.
    """

    def __init__(self, task: Task, rows: pd.DataFrame, dataset: SampleDataset) -> None:
        self.task, self.rows, self.dataset = task, rows, dataset

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.predictions is not None and run.config.watch.draws(result.epoch, run.epochs):
            numbers = result.predictions.select_dtypes("number")
            for column in numbers.columns[:MOST_COLUMNS]:
                values = numbers[column].to_numpy(float)
                if len(values := values[np.isfinite(values)]):
                    run.tracker.histogram(f"predictions/{column}", values, run.progress.step)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if result is not None and result.truth is not None and result.predictions is not None:
            truth, predictions = result.truth, result.predictions
            with may_fail(run):
                for name, figure in self.task.figures.overview(truth, predictions).items():
                    run.tracker.figure(name, figure, run.progress.step)
                for name, (held, scores) in list(self.task.figures.curves(truth, predictions).items())[:MOST_COLUMNS]:
                    if 0 < held.sum() < len(held):
                        run.tracker.pr_curve(f"pr/{name}", held, scores, run.progress.step)
            with may_fail(run):
                rows = by_prediction(self.rows.reset_index(drop=True))
                rows = rows.iloc[pd.Index(rows[ROW_ID]).get_indexer(predictions.index)]
                images = RowImages(self.dataset, rows.index.to_numpy())
                figures = self.task.figures.examples(rows, images, predictions)
                for head, figure in figures.items():
                    name = "samples" if len(figures) == 1 else f"samples/{head}"
                    run.tracker.figure(name, figure, run.progress.step)
        with may_fail(run):
            best_epoch = run.best.epoch + 1 if run.best and len(self.rows) else None
            metrics = [metric.name for metric in run.metrics]
            curves = partial(learning_curves_figure, pd.read_csv(run.folder / METRICS_FILE), metrics, best_epoch)
            run.tracker.figure("learning_curves", curves, run.progress.step)


@contextlib.contextmanager
def may_fail(run: Run) -> Iterator[None]:
    """A picture that fails inside is said and left out: none is worth a training."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        say_left_out(run.fold, error)


class Embeddings:
    """The first embeddings of a stage with labels and small images, where heads have any; read back at the end."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []  # float32 (B, SIDE, SIDE, C) in [0, 1]
        self.vectors: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.targets: defaultdict[str, list[Tensor]] = defaultdict(list)  # numbers of classes

    def add(self, heads: Sequence[Head], batch: Batch, result: StepResult) -> None:
        """Take up a batch, as long as there are few."""
        there = [head for head in heads if embedding_key(head.name) in result["outputs"]]
        left = MOST_POINTS - sum(map(len, self.images))
        if left <= 0 or not there:
            return
        images, white = batch[INPUT_IMAGE][:left], 1 if batch[INPUT_IMAGE].is_floating_point() else 255
        small = functional.interpolate(images.movedim(3, 1).float() / white, (SIDE, SIDE), mode="area")
        self.images.append(small.movedim(1, 3))
        for head in there:
            vectors, target = result["outputs"][embedding_key(head.name)][:left], batch.get(head.target_key)
            if target is None or target.ndim > 1 or target.is_floating_point():
                target = torch.full_like(vectors[:, 0], -1, dtype=torch.int64)
            self.vectors[head.name].append(vectors.float())
            self.targets[head.name].append(target[:left])

    def log(self, run: Run) -> None:
        """Log `embedding/<head>` of each head."""
        images = [visible(image) for part in self.images for image in part.cpu().numpy()]
        for head in (head for head in run.heads if head.name in self.vectors):
            numbers = torch.cat(self.targets[head.name]).tolist()
            labels = [head.classes[number] if number >= 0 else UNKNOWN for number in numbers]
            points = Points(torch.cat(self.vectors[head.name]).cpu().numpy(), labels, images)
            run.tracker.embedding(f"embedding/{head.name}", points, run.progress.step)
            figure = partial(embedding_figure, points.vectors, labels)
            run.tracker.figure(f"embedding/{head.name}", figure, run.progress.step)
