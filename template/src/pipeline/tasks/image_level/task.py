"""What image-level tasks do with rows, batches and outputs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.competition import Competition, Head, Metric
from pipeline.config import Experiment, LossRow
from pipeline.data.cache import reader_for
from pipeline.data.collate import collate
from pipeline.data.explain_target import Explained, chosen_class
from pipeline.data.sample_record import SeenSample
from pipeline.data.side_columns import chosen_columns, input_names, side_inputs
from pipeline.heads.base import KINDS, losses
from pipeline.heads.columns import has_truth
from pipeline.heads.drawing import ReadOut, seen_figure, seen_words
from pipeline.heads.submission_columns import SubmissionRules, as_predictions, submission_rules
from pipeline.keys import INPUT_ID, INPUT_SIDE, ROW_ID
from pipeline.losses.criterion import WeightedLosses
from pipeline.models.preprocess import prepared_model
from pipeline.registry import Named, Names, References
from pipeline.tasks import Task
from pipeline.tasks.components import Decoder, Figures, Finisher, Submission
from pipeline.tasks.image_level.batch_schema import all_targets, check_contract
from pipeline.tasks.image_level.decoding import HeadPredictions
from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
from toolkit.images.row_reader import Reader
from toolkit.plots.samples import label_errors_figure


def no_settings() -> None:
    """There are none that other kinds of tasks do not have."""


class ImageLevelTask(Task):
    """Heads on one encoder, each of a kind of its own."""

    KINDS: ClassVar[frozenset[str]] = frozenset(KINDS)
    NAMES: ClassVar[References] = {
        "dataset": {"default": "pipeline.data.image_dataset:ImageDataset"},
        "augmentations": {"resize": "pipeline.data.augment:resize"},
        "prepare": {
            "normalize": "pipeline.models.preprocess:Normalize",
            "standardize": "pipeline.models.preprocess:Standardize",
        },
        "model": {
            "default": "pipeline.models.encoder_heads:EncoderHeads",
            "encoder_heads": "pipeline.models.encoder_heads:EncoderHeads",
        },
        "pooling": {
            "encoder": "pipeline.models.pooling:EncoderPooling",
            "avg": "pipeline.models.pooling:average",
            "max": "pipeline.models.pooling:maximum",
            "gem": "pipeline.models.pooling:GeneralizedMean",
            "attention": "pipeline.models.pooling:AttentionPooling",
        },
        "loss": losses(),
        "batch_transform": {
            "mixup": "pipeline.training.batch_transforms:Mixup",
            "cutmix": "pipeline.training.batch_transforms:cutmix",
        },
        "step": {"default": "pipeline.training.step:step"},
        "task": {"default": "pipeline.tasks.image_level.task:no_settings"},
        "aggregate": {
            "mean": "pipeline.inference.aggregates:mean",
            "max": "pipeline.inference.aggregates:maximum",
            "generalized_mean": "pipeline.inference.aggregates:generalized_mean",
        },
    }

    predictions: HeadPredictions

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.predictions = HeadPredictions(competition, heads)
        self.kinds = self.predictions.kinds
        self.figures = HeadFigures(self.predictions)
        self.submission = HeadSubmission(self.predictions)

    def dataset(
        self,
        rows: pd.DataFrame,
        root: Path,
        experiment: Experiment,
        names: Names,
        stage: str,
        reader: Reader | None = None,
    ) -> SampleDataset:
        values = {} if stage == "test" else all_targets(rows, self.kinds)
        side = chosen_columns(self.competition.settings.side_columns, experiment.model.side_columns)
        if side:
            values[INPUT_SIDE] = side_inputs(rows, side, stage == "test")
        dataset: SampleDataset = names.bind("dataset", experiment.dataset)(
            rows,
            root,
            reader=reader or reader_for(experiment, names),
            augmentations=names.bind("augmentations", experiment.augmentations)(stage, experiment.image.size),
            size=experiment.image.size,
            values=values,
            seed=experiment.seed,
        )
        return dataset

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        return collate(samples)

    def model(self, experiment: Experiment, names: Names, pretrained: bool) -> PreparedModel:
        side = input_names(chosen_columns(self.competition.settings.side_columns, experiment.model.side_columns))
        return prepared_model(self.heads, experiment, names, pretrained, side)

    def decoder(self, experiment: Experiment, names: Names) -> Decoder:
        return lambda batch, outputs: self.predictions.decode(batch[INPUT_ID], outputs)

    def finisher(self, experiment: Experiment, names: Names) -> Finisher:
        aggregate = names.bind("aggregate", experiment.aggregate)
        return lambda rows, predictions: self.predictions.per_prediction(rows, predictions, aggregate)

    def fit_statistics(self, network: torch.nn.Module, rows: pd.DataFrame) -> None:
        for _, kind in self.kinds:
            kind.fit_statistics(network, rows)

    def default_losses(self) -> tuple[LossRow, ...]:
        return tuple(LossRow(head=head.name, loss=Named(name=next(iter(kind.losses)))) for head, kind in self.kinds)

    def criterion(self, losses: Sequence[LossRow], names: Names, rows: pd.DataFrame) -> Criterion:
        counts: dict[str, Tensor] = {}
        if any(row.class_weights for row in losses):
            found = {head.name: kind.class_counts(rows) for head, kind in self.kinds}
            counts = {name: count for name, count in found.items() if count is not None}
        truths = {head.name: partial(kind.targets, rows) for head, kind in self.kinds}
        return WeightedLosses(losses, self.heads, names, counts, truths)

    def batch_schema(self, batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
        return check_contract(batch, outputs, self.kinds)


class HeadFigures(Figures):
    """Those of each head, as its columns are."""

    predictions: HeadPredictions

    def overview(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for head, kind in self.predictions.kinds:
            known = has_truth(truth, head)
            if known.any():
                figures |= kind.columns.figures(truth[known], predictions[known])
        return figures

    def examples(self, rows: pd.DataFrame, images: Sequence[Any], predictions: pd.DataFrame) -> dict[str, Figure]:
        ids, truth = list(rows[ROW_ID]), self.predictions.truth(rows)
        kinds = self.predictions.kinds
        return {head.name: kind.columns.sample_figure(images, ids, truth, predictions) for head, kind in kinds}

    def samples(self, rows: pd.DataFrame, samples: Sequence[SeenSample], heading: str) -> Figure:
        return seen_figure(samples, self._read_out(rows, samples), heading)

    def captions(self, rows: pd.DataFrame, samples: Sequence[SeenSample]) -> pd.DataFrame:
        return seen_words(self._read_out(rows, samples))

    def _read_out(self, rows: pd.DataFrame, samples: Sequence[SeenSample]) -> list[ReadOut]:
        outputs = {key: torch.stack([sample.outputs[key] for sample in samples]) for key in samples[0].outputs}
        truth, predictions = self.sample_tables(rows, {}, outputs)
        columns = [kind.columns for _, kind in self.predictions.kinds]
        return [(each, has_truth(truth, each.head), *each.read_out(truth, predictions)) for each in columns]

    def sample_tables(
        self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        by_id = rows.set_index(ROW_ID)
        truth = pd.concat([kind.truth(by_id) for _, kind in self.predictions.kinds], axis=1)
        return truth, self.predictions.decode(list(rows[ROW_ID]), outputs)

    def curves(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for head, kind in self.predictions.kinds:
            known = has_truth(truth, head)
            of_classes = kind.columns.ranked(truth[known], predictions[known])
            found |= {f"{head.name}:{name}": pair for name, pair in of_classes.items()}
        return found

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        parts = []
        for head, kind in self.predictions.kinds:
            known = has_truth(truth, head)
            found = kind.columns.label_errors(truth[known], predictions[known])
            parts.append(found.rename_axis(ROW_ID).reset_index().assign(head=head.name))
        return pd.concat(parts, ignore_index=True)

    def label_errors_figure(
        self, found: pd.DataFrame, images: Sequence[Any], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        return label_errors_figure(found, images)

    def explain_target(self, batch: Batch, outputs: Mapping[str, Tensor], name: str | None = None) -> Explained:
        """The highest logit, where a head has one for each class; otherwise their sum, which grows with the answer."""
        head, number = chosen_class(self.heads, name)
        logits = outputs[head.output_key][0].float()
        if len(logits) != len(head.classes):
            return Explained(logits.sum(), head.name)
        number = int(logits.argmax()) if number is None else number
        return Explained(logits[number], head.classes[number])


class HeadSubmission(Submission):
    """A column per head, per class or per label."""

    predictions: HeadPredictions

    def rules(self, sample: pd.DataFrame, metric: Metric, images: Mapping[str, Path] | None = None) -> SubmissionRules:
        return submission_rules(sample, self.heads, metric, self.competition.settings.id_column)

    def read(self, table: pd.DataFrame, rules: SubmissionRules, metric: Metric) -> pd.DataFrame | None:
        labels_only = any(column.of is None for column in rules.columns)
        if rules.by_row or (labels_only and metric.needs == "probabilities"):
            return None
        return as_predictions(table, rules.columns, self.heads)

    def shares(self, predictions: pd.DataFrame) -> dict[str, pd.Series]:
        return {head.name: kind.columns.shares(predictions) for head, kind in self.predictions.kinds}
