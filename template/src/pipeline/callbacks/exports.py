"""What trackers show by means of their own: histograms, curves, and embeddings in a projector.

At `watch.figure_epochs` `predictions/<column>`, how the held-out predictions are spread, and `weights/<block>` and
`gradients/<block>` of the epoch's last step, before the optimiser takes it. At the end of a run
`pr/<head>:<class>`, precision against recall; and where a head has an embedding, `embedding/<head>`: points for
projectors, and a picture of them in two dimensions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pipeline.callbacks import Callback
from pipeline.callbacks.gradients import blocks
from pipeline.competition import Head
from pipeline.keys import INPUT_IMAGE, embedding_key
from pipeline.trackers import Points
from pipeline.types import Batch, Run, Stage, StageResult, StepResult, Verdict
from toolkit.plots.images import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.tasks import Task

MOST_COLUMNS = 20  # of predictions
MOST_VALUES = 4096  # of a block, about
MOST_POINTS = 1000  # of an embedding
MOST_NAMED = 10  # classes with a colour of their own
SIDE = 32  # of the images beside points
UNKNOWN = "?"


class Exports(Callback):
    """Histograms of the network, and histograms, curves and embeddings of the held-out rows. Holds the embeddings of
    some samples of one epoch."""

    def __init__(self, task: "Task") -> None:
        self.task = task
        self.vectors: dict[str, list[np.ndarray]] = {}
        self.labels: dict[str, list[str]] = {}
        self.images: list[np.ndarray] = []

    def on_gradients_ready(self, run: Run) -> Verdict:
        is_last = run.progress.batch == run.batches_per_epoch - 1
        if is_last and run.config.watch.draws(run.progress.epoch, run.epochs):
            network = run.model.network
            parameters = dict(network.named_parameters())
            for block, names in blocks(network).items():
                both = spread([parameters[name] for name in names])
                for name, values in zip(("weights", "gradients"), both, strict=True):
                    if len(values):
                        run.tracker.histogram(f"{name}/{block}", values, run.progress.step)
        return Verdict.GO

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "valid":
            self.vectors, self.labels, self.images = {}, {}, []

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage != "valid" or run.progress.epoch != run.epochs - 1:
            return
        there = [head for head in run.heads if embedding_key(head.name) in result["outputs"]]
        room = MOST_POINTS - len(self.images)
        if not there or room <= 0:
            return
        self.images += [_small(image) for image in batch[INPUT_IMAGE][:room].cpu().numpy()]
        for head in there:
            found = result["outputs"][embedding_key(head.name)][:room].float().cpu().numpy()
            self.vectors.setdefault(head.name, []).append(found)
            self.labels.setdefault(head.name, []).extend(_labels(head, batch.get(head.target_key), len(found)))

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.predictions is not None and run.config.watch.draws(result.epoch, run.epochs):
            numbers = result.predictions.select_dtypes("number")
            for column in numbers.columns[:MOST_COLUMNS]:
                values = numbers[column].to_numpy(float)
                if len(values := values[np.isfinite(values)]):
                    run.tracker.histogram(f"predictions/{column}", values, run.progress.step)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if result is not None and result.truth is not None and result.predictions is not None:
            ranked = self.task.figures.curves(result.truth, result.predictions)
            for name, (truth, scores) in list(ranked.items())[:MOST_COLUMNS]:
                if 0 < truth.sum() < len(truth):
                    run.tracker.pr_curve(f"pr/{name}", truth, scores, run.progress.step)
        for name, parts in self.vectors.items():
            points = Points(np.concatenate(parts), self.labels[name], self.images)
            run.tracker.embedding(f"embedding/{name}", points, run.progress.step)
            run.tracker.figure(f"embedding/{name}", embedding_figure(points), run.progress.step)


def spread(parameters: Sequence[nn.Parameter]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a block, and gradients of those that have one, float32 (N,): what of them is finite, evenly spaced
    over the block where there are more than `MOST_VALUES`."""
    every = max(1, -(-sum(value.numel() for value in parameters) // MOST_VALUES))
    weights = [value.detach().flatten()[::every] for value in parameters]
    gradients = [value.grad.detach().flatten()[::every] for value in parameters if value.grad is not None]
    both = torch.cat([part.float() for part in (*weights, *gradients)]).cpu().numpy()  # one copy of both
    parts = np.split(both, [sum(map(len, weights))])
    first, second = (part[np.isfinite(part)] for part in parts)
    return first, second


def embedding_figure(points: Points) -> Figure:
    """Vectors in the plane of their first two principal components; the most frequent classes have colours."""
    from sklearn.decomposition import PCA

    labels = pd.Series(list(points.labels), dtype="str")
    named = labels[labels != UNKNOWN].value_counts().index[:MOST_NAMED]
    figure = Figure(figsize=(8.5, 6.5), dpi=110, layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(f"{len(labels):,} embeddings", fontsize=11, fontweight="bold", loc="left")
    if len(labels) < 3:
        return figure
    plane = PCA(2, random_state=0).fit(points.vectors)
    places = plane.transform(points.vectors)
    others = ~labels.isin(named).to_numpy()
    axes.scatter(places[others, 0], places[others, 1], s=9, color="#c4c4c4", label="others" if others.any() else None)
    for name in named:
        of_class = places[(labels == name).to_numpy()]
        axes.scatter(of_class[:, 0], of_class[:, 1], s=16, label=name[:30].replace("$", r"\$"))
    first, second = plane.explained_variance_ratio_
    axes.set_xlabel(f"first component, {first:.0%} of the variance")
    axes.set_ylabel(f"second component, {second:.0%}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _labels(head: Head, target: Tensor | None, count: int) -> list[str]:
    """Names of class numbers; a truth of another form says nothing here."""
    if target is None or target.ndim != 1 or target.is_floating_point():
        return [UNKNOWN] * count
    return [head.classes[number] if number >= 0 else UNKNOWN for number in target[:count].tolist()]


def _small(image: np.ndarray) -> np.ndarray:
    small: np.ndarray = cv2.resize(visible(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small
