"""Samples and batches that are worth a look, drawn as the model saw them.

In every `watch.figure_epochs`-th epoch and the last, for training and validation each: `best_batch/<stage>`,
`worst_batch/<stage>`, `best_samples/<stage>`, `worst_samples/<stage>`, and `non_finite_samples/<stage>` where there
are any. A wrong label is a bad sample in every epoch, an augmentation that goes too far is one in training only.
Of held-out samples also `grad_cam/fixed`, `grad_cam/random` and `grad_cam/worst`: where decisions are made, at the end
by the weights that are kept; and of the last epoch `embedding/<head>`, where a head has one.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from pipeline.callbacks import Callback
from pipeline.callbacks.grad_cam import grad_cam_figure
from pipeline.callbacks.pictures import Embeddings, may_fail
from pipeline.callbacks.ranking import INDEX, Ranking, StageSamples
from pipeline.data.explain_target import class_to_explain
from pipeline.data.sample_record import SampleRecord
from pipeline.tasks import Task
from pipeline.trackers import Overlay, say_once
from pipeline.types import Batch, Index, Run, SampleDataset, Stage, StageResult, StepResult
from toolkit.plots.images import visible

MOST_EXPLAINED = 4  # samples of each sort


class Extremes(Callback):
    """Remembers the best and worst batch and samples of an epoch, and draws them at its end.

    In epochs without pictures nothing is read back, and in the others once a stage. An epoch that continues after a
    kill has forgotten what it saw before, and its headings say so. The rows are the tables that `INPUT_ROW` counts in.
    """

    every_process = True
    changes_gradients = False
    ranking: Ranking

    def __init__(self, task: Task, train_rows: pd.DataFrame, valid_rows: pd.DataFrame) -> None:
        self.task = task
        self.tables: dict[Stage, pd.DataFrame] = {"train": train_rows, "valid": valid_rows}
        self.stages: dict[Stage, StageSamples] = {}  # of this epoch, where it is drawn
        self.samples: dict[Stage, tuple[SampleDataset, list[Index]]] = {}  # of these stages, and their positions
        self.explained: dict[str, list[Batch]] = {}  # by Grad-CAM, batches of one sample
        self.embeddings = Embeddings()

    def on_run_start(self, run: Run) -> None:
        self.ranking = Ranking(self.task, run.config, run.metrics, self.tables["valid"])
        if run.config.watch.explain is not None:
            class_to_explain(run.heads, run.config.watch.explain)  # a name that is none is said before the first step

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if not run.config.watch.draws(run.progress.epoch, run.epochs):
            return
        before = run.progress.batch if stage == "train" else 0
        self.stages[stage] = StageSamples(self.ranking, self.tables[stage], before)

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage not in self.stages:
            return
        if result["sample_losses"]:
            if stage not in self.samples:  # now: at the end the sampler stands in the next epoch already
                self.samples[stage] = run.samples(stage)
            self.stages[stage].add(batch, result)
        if stage == "valid" and run.progress.epoch == run.epochs - 1 and run.processes.is_main:
            self.embeddings.add(run.heads, batch, result)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        seen, stage, step = self.stages.pop(result.stage, None), result.stage, run.progress.step
        if seen is None or stage not in self.samples:
            return
        dataset, positions = self.samples.pop(stage)
        seen.gather(run.processes, positions)
        if not run.processes.is_main:
            return
        read = cache(lambda index: self.task.collate([dataset[index]]))
        if seen.counts["samples"] or seen.counts["batches"]:
            say_once(f"watch.extremes_by: '{seen.ranking.by}' is not defined for some samples or batches; left out")
        for name, (heading, kept) in seen.pictures(f"{stage}, epoch {result.epoch + 1}").items():
            with may_fail(run):
                samples = [seen.record(one, read) for one in kept]
                rows = self.tables[stage].iloc[[sample.row for sample in samples]]
                run.tracker.figure(f"{name}/{stage}", self.task.figures.samples(rows, samples, heading), step)
                if name == "worst_samples":
                    self._export(run, f"{name}/{stage}", samples, self.task.figures.captions(rows, samples))
        if stage == "valid":
            drawn = np.random.default_rng((run.config.seed, result.epoch)).random(len(dataset))
            worst: Sequence[Index | int] = [one[INDEX] for _, one in seen.lists["worst"]]
            sorts = {"fixed": dataset.starts(), "random": np.argsort(-drawn).tolist(), "worst": worst}
            with may_fail(run):
                self.explained = {name: list(map(read, found[:MOST_EXPLAINED])) for name, found in sorts.items()}
            if result.epoch < run.epochs - 1:  # those of the last epoch wait for the weights that are kept
                self._explain(run)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        self._explain(run)
        with may_fail(run):
            self.embeddings.log(run)

    def _explain(self, run: Run) -> None:
        for name, samples in self.explained.items():
            with may_fail(run):
                if samples:
                    figure = grad_cam_figure(run.model, self.task, samples, run.config.watch.explain)
                    run.tracker.figure(f"grad_cam/{name}", figure, run.progress.step)

    def _export(self, run: Run, name: str, samples: Sequence[SampleRecord], words: pd.DataFrame) -> None:
        """The worst samples for trackers that have tables, and masks that can be switched on and off."""
        step, images, metric = run.progress.step, [visible(sample.image) for sample in samples], self.ranking.metric
        scores = {} if metric is None else {metric.name: [one.scored[1] for one in samples if one.scored]}
        numbers = {"id": [one.id for one in samples], **scores, "loss": [one.loss for one in samples]}
        table = pd.DataFrame({**numbers, "truth": words["truth"].tolist(), "prediction": words["prediction"].tolist()})
        run.tracker.table(name, table, images, step)
        classes = {head.name: dict(enumerate(head.classes, start=1)) for head in run.heads}
        for number, (sample, image) in enumerate(zip(samples, images, strict=True)):
            for head, masks in self.task.figures.class_maps(sample).items():
                of = f"{head}/" if len(run.heads) > 1 else ""
                run.tracker.overlay(f"{name}_masks/{of}{number}", Overlay(image, masks, classes[head]), step)
