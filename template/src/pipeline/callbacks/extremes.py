"""The best and the worst of an epoch: batches and single samples, drawn as the model saw them.

In every `watch.figure_epochs`-th epoch and the last, for training and validation each: `best_batch/<stage>`,
`worst_batch/<stage>`, `best_samples/<stage>`, `worst_samples/<stage>`, and `non_finite_samples/<stage>` where there
are any.
A wrong label is a bad sample in every epoch, an augmentation that goes too far is one in training only.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.callbacks import Callback
from pipeline.callbacks.pictures import draw_figures, may_fail
from pipeline.callbacks.ranking import MetricScores, ranking_metric, sample_scores
from pipeline.callbacks.seen import Seen
from pipeline.competition import Metric
from pipeline.data.sample_record import SeenSample
from pipeline.trackers import Overlay, say_once
from pipeline.types import Batch, Run, Stage, StageResult, StepResult
from toolkit.plots.images import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.tasks import Task


class Extremes(Callback):
    """Keeps the best and worst batch and samples of an epoch, and draws them at its end.

    A sample is ranked by the weighted sum of its losses, or by what `watch.extremes_by` names: a term, or a metric, of
    the sample alone and of the batch as a whole. Where that names nothing and a task says better than its losses how
    good a sample is (of masks the Dice: losses call a correctly empty one bad), that ranks, and what is perfect is none
    of the worst. Of two equal scores the smaller loss is the better one, and of two
    equal samples the earlier one comes first. What a metric is not defined for is left out, which is said. In epochs
    without pictures nothing is read back. An epoch that continues after a kill has forgotten what it saw before, and
    its headings say so.

    Args:
        train_rows, valid_rows: the tables that `INPUT_ROW` counts in.

    Raises:
        UserError: when the run starts, `watch.extremes_by` is neither a term of the loss nor a metric.
    """

    every_process = True
    changes_gradients = False

    def __init__(self, task: "Task", train_rows: pd.DataFrame, valid_rows: pd.DataFrame) -> None:
        self.task = task
        self.tables: dict[Stage, pd.DataFrame] = {"train": train_rows, "valid": valid_rows}
        self.metric: Metric | None = None
        self.seen: dict[Stage, Seen] = {}
        self.said = False  # what the metric leaves out

    def on_run_start(self, run: Run) -> None:
        self.metric = ranking_metric(run.config, run.metrics, self.task, self.tables["valid"])

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if run.config.watch.draws(run.progress.epoch, run.epochs):
            own = sample_scores(self.task, run.config)
            scores = own if self.metric is None else MetricScores(self.task, self.metric, run.heads)
            before = run.progress.batch if stage == "train" else 0  # held-out rows are always seen from the first on
            self.seen[stage] = Seen(self.tables[stage], run.config, scores, before)

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage in self.seen and result["sample_losses"]:
            self.seen[stage].add(batch, result)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        seen = self.seen.pop(result.stage, None)
        if seen is None:
            return
        seen.gather(run.processes)
        if run.processes.is_main:
            if (line := seen.left_out()) is not None and not self.said:
                self.said = True
                say_once(line)
            when = f"{result.stage}, epoch {result.epoch + 1}"
            for name, (heading, samples) in seen.pictures(when).items():
                draw_figures(run, partial(self._drawn, f"{name}/{result.stage}", heading, samples))
            if seen.worst:
                with may_fail(run, "a table"):
                    self._export(run, f"worst_samples/{result.stage}", seen.worst)

    def _export(self, run: Run, name: str, samples: "Sequence[SeenSample]") -> None:
        """The worst samples for trackers that have tables, and masks that can be switched on and off."""
        step, images = run.progress.step, [visible(sample.image) for sample in samples]
        scores = {} if self.metric is None else {self.metric.name: [one.scored[1] for one in samples if one.scored]}
        numbers = {"id": [one.id for one in samples], **scores, "loss": [one.loss for one in samples]}
        words = self.task.figures.captions(self._rows(name, samples), samples)
        table = pd.DataFrame({**numbers, "truth": words["truth"].tolist(), "prediction": words["prediction"].tolist()})
        run.tracker.table(name, table, images, step)
        classes = {head.name: dict(enumerate(head.classes, start=1)) for head in run.heads}
        for number, (sample, image) in enumerate(zip(samples, images, strict=True)):
            for head, masks in self.task.figures.class_maps(sample).items():
                of = f"{head}/" if len(run.heads) > 1 else ""
                run.tracker.overlay(f"{name}_masks/{of}{number}", Overlay(image, masks, classes[head]), step)

    def _drawn(self, name: str, heading: str, samples: "Sequence[SeenSample]") -> "Mapping[str, Figure]":
        return {name: self.task.figures.samples(self._rows(name, samples), samples, heading)}

    def _rows(self, name: str, samples: "Sequence[SeenSample]") -> pd.DataFrame:
        """The labelled rows of samples of a picture or table."""
        return self.tables["train" if name.endswith("/train") else "valid"].iloc[[sample.row for sample in samples]]
