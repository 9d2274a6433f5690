"""Pictures of a finished run: where it is wrong, and how it learned; and how predictions and embeddings are spread."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from pipeline.callbacks import Callback
from pipeline.competition import Head
from pipeline.keys import INPUT_IMAGE, ROW_ID, embedding_key
from pipeline.prediction_ids import by_prediction
from pipeline.tasks import Task
from pipeline.trackers import Points, say_left_out
from pipeline.trackers.local import METRICS_FILE
from pipeline.types import Batch, Run, SampleDataset, StageResult, StepResult
from toolkit.errors import Interrupted
from toolkit.plots.curves import learning_curves_figure
from toolkit.plots.images import RowImages, visible

MOST_COLUMNS = 20  # of predictions
MOST_POINTS, MOST_NAMED = 1000, 10  # embeddings, and classes with a colour of their own
SIDE = 32  # of the images beside them
UNKNOWN = "?"


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
            with may_fail(run):
                rows = by_prediction(self.rows.reset_index(drop=True))
                rows = rows.iloc[pd.Index(rows[ROW_ID]).get_indexer(predictions.index)]
                images = RowImages(self.dataset, rows.index.to_numpy())
                figures = self.task.figures.examples(rows, images, predictions)
                for head, figure in figures.items():
                    name = "samples" if len(figures) == 1 else f"samples/{head}"
                    run.tracker.figure(name, figure, run.progress.step)
            for name, (held, scores) in list(self.task.figures.curves(truth, predictions).items())[:MOST_COLUMNS]:
                if 0 < held.sum() < len(held):
                    run.tracker.pr_curve(f"pr/{name}", held, scores, run.progress.step)
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
    """The first embeddings of a stage with labels and small images, where heads have any."""

    def __init__(self) -> None:
        self.vectors: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        self.labels: defaultdict[str, list[str]] = defaultdict(list)
        self.images: list[np.ndarray] = []

    def add(self, heads: Sequence[Head], batch: Batch, result: StepResult) -> None:
        """Take up a batch, as long as there are few."""
        there = [head for head in heads if embedding_key(head.name) in result["outputs"]]
        left = MOST_POINTS - len(self.images)
        if left <= 0 or not there:
            return
        images = batch[INPUT_IMAGE][:left].cpu().numpy()
        self.images += [cv2.resize(visible(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images]
        for head in there:
            self.vectors[head.name].append(result["outputs"][embedding_key(head.name)][:left].float().cpu().numpy())
            target, names = batch.get(head.target_key), [UNKNOWN] * len(images)
            if target is not None and target.ndim == 1 and not target.is_floating_point():  # numbers of classes
                names = [head.classes[number] if number >= 0 else UNKNOWN for number in target[:left].tolist()]
            self.labels[head.name] += names

    def log(self, run: Run) -> None:
        """Log `embedding/<head>` of each head."""
        for name, parts in self.vectors.items():
            points = Points(np.concatenate(parts), self.labels[name], self.images)
            run.tracker.embedding(f"embedding/{name}", points, run.progress.step)
            run.tracker.figure(f"embedding/{name}", embedding_figure(points), run.progress.step)


def embedding_figure(points: Points) -> Figure:
    """Vectors in the plane of their first two principal components; the most frequent classes have colours."""
    figure = Figure(figsize=(8.5, 6.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{len(points.labels):,} embeddings", fontsize=11, fontweight="bold", loc="left")
    if len(points.labels) < 3:
        return figure
    labels, plane = pd.Series(list(points.labels), dtype="str"), PCA(2, random_state=0).fit(points.vectors)
    named = labels[labels != UNKNOWN].value_counts().index[:MOST_NAMED]
    table = pd.DataFrame(plane.transform(points.vectors)).groupby(labels.where(labels.isin(named), "others"))
    for name in ["others", *named]:
        if name in table.groups:
            across, up = table.get_group(name).to_numpy().T
            color, label = "#c4c4c4" if name == "others" else None, name[:30].replace("$", r"\$")
            axes.scatter(across, up, s=12, color=color, label=label)
    first, second = (f"{part:.0%} of the variance" for part in plane.explained_variance_ratio_)
    axes.set(xlabel=first, ylabel=second)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure
