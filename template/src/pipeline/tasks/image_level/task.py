"""The room's one door: what image-level tasks do with rows, batches and outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.competition import Competition, Head, Metric
from pipeline.config import Experiment, LossRow
from pipeline.data.cache import reader_for
from pipeline.data.scan import Reader
from pipeline.data.side_columns import chosen_columns, input_names, side_inputs
from pipeline.errors import UserError
from pipeline.keys import INPUT_SIDE, ROW_ID, ROW_PREDICTION
from pipeline.names import Named, Names, References
from pipeline.prediction_ids import by_prediction
from pipeline.seam import Batch, Criterion, PreparedModel, StepContext, StepResult
from pipeline.tasks import Aggregate, Decoder, Task
from pipeline.tasks.image_level.contract import all_targets, check_contract
from pipeline.tasks.image_level.criterion import WeightedLosses, take
from pipeline.tasks.image_level.dataset import ImageDataset, collate
from pipeline.tasks.image_level.kinds import KINDS, kind_of, losses
from pipeline.tasks.image_level.predictions import has_truth
from pipeline.tasks.image_level.submission import as_predictions
from pipeline.tasks.image_level.submission_rules import SubmissionRules, submission_rules
from pipeline.tasks.image_level.thresholds import coordinate_ascent

ROOM = "pipeline.tasks.image_level"


def step(batch: Batch, model: PreparedModel, context: StepContext) -> StepResult:
    """The usual step: batch in, losses and detached outputs out."""
    prepared = model.prepare(batch)
    for transform in context.transforms:
        prepared = transform(prepared)
    outputs = model.network(prepared)
    result = context.criterion(outputs, prepared)
    return {**result, "outputs": {key: value.detach() for key, value in outputs.items()}}


class ImageLevelTask(Task):
    """Heads on one encoder, each of a kind of its own."""

    KINDS: ClassVar[frozenset[str]] = frozenset(KINDS)
    NAMES: ClassVar[References] = {
        "augmentations": {"resize": f"{ROOM}.dataset:resize"},
        "prepare": {"normalize": f"{ROOM}.model:Normalize"},
        "model": {"encoder_heads": f"{ROOM}.model:EncoderHeads"},
        "pooling": {
            "encoder": f"{ROOM}.pooling:EncoderPooling",
            "avg": f"{ROOM}.pooling:average",
            "max": f"{ROOM}.pooling:maximum",
            "gem": f"{ROOM}.pooling:GeneralizedMean",
            "attention": f"{ROOM}.pooling:AttentionPooling",
        },
        "loss": losses(),
        "batch_transform": {
            "mixup": f"{ROOM}.batch_transforms:Mixup",
            "cutmix": f"{ROOM}.batch_transforms:cutmix",
        },
        "step": {"default": f"{ROOM}.task:step"},
        "aggregate": {
            "mean": f"{ROOM}.aggregates:mean",
            "max": f"{ROOM}.aggregates:maximum",
            "generalized_mean": f"{ROOM}.aggregates:generalized_mean",
        },
    }

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.kinds = [(head, kind_of(head)) for head in self.heads]

    def dataset(
        self,
        rows: pd.DataFrame,
        root: Path,
        experiment: Experiment,
        names: Names,
        stage: str,
        reader: Reader | None = None,
    ) -> Dataset[dict[str, Any]]:
        values = {} if stage == "test" else all_targets(rows, self.kinds)
        side = chosen_columns(self.competition.settings.side_columns, experiment.model.side_columns)
        if side:
            values[INPUT_SIDE] = side_inputs(rows, side, stage == "test")
        return ImageDataset(
            rows,
            root,
            reader=reader or reader_for(experiment, names),
            augmentations=names.bind("augmentations", experiment.augmentations)(stage, experiment.image.size),
            size=experiment.image.size,
            values=values,
            seed=experiment.seed,
        )

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        return collate(samples)

    def model(self, experiment: Experiment, names: Names, pretrained: bool) -> PreparedModel:
        size = experiment.model.image_size or experiment.image.size
        side = input_names(chosen_columns(self.competition.settings.side_columns, experiment.model.side_columns))
        settings = experiment.model.model_copy(
            update={"pretrained": pretrained, "image_size": size, "side_columns": side}
        )
        entry = Named(name=settings.name, params=settings.params)
        network = names.bind("model", entry)(self.heads, settings, names)
        mean = getattr(network, "mean", [0.0] * settings.in_chans)
        std = getattr(network, "std", [1.0] * settings.in_chans)
        return PreparedModel(names.bind("prepare", experiment.image.prepare)(mean, std), network)

    def begin(self, network: torch.nn.Module, rows: pd.DataFrame) -> None:
        for _, kind in self.kinds:
            kind.begin(network, rows)

    def default_losses(self) -> tuple[LossRow, ...]:
        return tuple(LossRow(head=head.name, loss=kind.default_loss) for head, kind in self.kinds)

    def criterion(self, losses: Sequence[LossRow], names: Names, rows: pd.DataFrame) -> Criterion:
        counts: dict[str, Tensor] = {}
        if any(row.class_weights for row in losses):
            found = {head.name: kind.class_counts(rows) for head, kind in self.kinds}
            counts = {name: count for name, count in found.items() if count is not None}
        truths = {head.name: partial(kind.targets, rows) for head, kind in self.kinds}
        return WeightedLosses(losses, self.heads, names, counts, truths)

    def decode(self, ids: Sequence[str], outputs: Mapping[str, Tensor]) -> pd.DataFrame:
        columns: dict[str, np.ndarray] = {}
        for head, kind in self.kinds:
            logits = take(outputs, head.output_key, f"head '{head.name}'", "the model returns")
            columns |= kind.as_columns(kind.decode(logits.cpu()))
        return pd.DataFrame(columns, index=pd.Index(list(ids), name=ROW_ID, dtype="str"))

    @property
    def has_gallery(self) -> bool:
        return any(kind.has_gallery for _, kind in self.kinds)

    def looks_among(self, rows: pd.DataFrame) -> bool:
        return any(kind.looks_among(rows) for _, kind in self.kinds)

    def gallery(self, rows: pd.DataFrame, held_out: pd.DataFrame | None = None) -> pd.DataFrame | None:
        if held_out is not None and self.looks_among(held_out):
            return held_out
        masks = [mask for _, kind in self.kinds if (mask := kind.in_gallery(rows)) is not None]
        if not masks:
            return None
        known = rows[np.any(masks, axis=0)].reset_index(drop=True)
        if known.empty:
            raise UserError(
                "the gallery is empty: no training row has a label to look images up by; correct the labels in "
                "src/competition/tables.py"
            )
        return known

    def decoders(
        self, gallery: pd.DataFrame, outputs: Iterable[Sequence[Mapping[str, Tensor]]], own: bool
    ) -> list[Decoder]:
        kept = [
            [{name: value for _, kind in self.kinds for name, value in kind.remembered(each).items()} for each in batch]
            for batch in outputs
        ]
        return [self._decoder(gallery, of_model, own) for of_model in zip(*kept, strict=True)]

    def _decoder(self, gallery: pd.DataFrame, outputs: Sequence[Mapping[str, Tensor]], own: bool) -> Decoder:
        memories = [kind.memory(gallery, outputs, own) for _, kind in self.kinds]

        def decode(ids: Sequence[str], found: Mapping[str, Tensor]) -> pd.DataFrame:
            looked_up = {name: value for memory in memories for name, value in memory(ids, found).items()}
            return self.decode(ids, {**found, **looked_up})

        return decode

    def no_predictions(self) -> pd.DataFrame:
        return self.decode([], {head.output_key: torch.empty(0, kind.width) for head, kind in self.kinds})

    def constant(self, rows: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
        metric = self.competition.metrics()[0]
        columns: dict[str, np.ndarray] = {}
        for _, kind in self.kinds:
            columns |= kind.as_columns(np.tile(kind.constant(rows, metric), (len(ids), 1)))
        return pd.DataFrame(columns, index=pd.Index(list(ids), name=ROW_ID, dtype="str"))

    def tuned(self, truth: pd.DataFrame, predictions: pd.DataFrame, metric: Metric) -> Task | None:
        if metric.needs != "labels" or not any(kind.usual_thresholds for _, kind in self.kinds):
            return None
        sign, heads = 1 if metric.greater_is_better else -1, list(self.heads)
        for place, (head, kind) in enumerate(self.kinds):

            def score(thresholds: tuple[float, ...], place: int = place, head: Head = head) -> float:
                changed = replace(head, thresholds=thresholds)
                return sign * metric.function(truth, predictions, [*heads[:place], changed, *heads[place + 1 :]])

            if kind.usual_thresholds:
                best = coordinate_ascent(score, kind.usual_thresholds, kind.candidates(predictions))
                heads[place] = replace(head, thresholds=best)
        return type(self)(self.competition, heads)

    def with_thresholds(self, thresholds: Mapping[str, Sequence[float]]) -> Task:
        known = {head.name: kind for head, kind in self.kinds}
        for name, values in thresholds.items():
            if name not in known or len(values) != len(known[name].usual_thresholds):
                raise UserError(f"there are {len(values)} thresholds for the head '{name}', which has none or others")
        heads = [replace(head, thresholds=tuple(thresholds.get(head.name, ()))) for head in self.heads]
        return type(self)(self.competition, heads)

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([kind.average([table[kind.columns] for table in tables]) for _, kind in self.kinds], axis=1)

    def per_prediction(self, rows: pd.DataFrame, predictions: pd.DataFrame, aggregate: Aggregate) -> pd.DataFrame:
        if ROW_PREDICTION not in rows:
            return predictions
        ids = rows.set_index(ROW_ID)[ROW_PREDICTION].loc[predictions.index].to_numpy(object)
        index = pd.Index(pd.unique(ids), name=ROW_ID, dtype="str")
        parts = [kind.aggregate(predictions[kind.columns], ids, aggregate) for _, kind in self.kinds]
        return pd.concat(parts, axis=1).set_axis(index, axis=0)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        by_id = by_prediction(rows).set_index(ROW_ID)
        return pd.concat([kind.truth(by_id) for _, kind in self.kinds], axis=1)

    def check_contract(self, batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
        return check_contract(batch, outputs, self.kinds)

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for head, kind in self.kinds:
            known = has_truth(truth, head)
            if known.any():
                figures |= kind.figures(truth[known], predictions[known])
        return figures

    def sample_figure(self, rows: pd.DataFrame, images: Sequence[Any], predictions: pd.DataFrame) -> Figure:
        _, kind = self.kinds[0]
        return kind.sample_figure(images, list(rows[ROW_ID]), self.truth(rows), predictions)

    def submission_rules(self, sample: pd.DataFrame, metric: Metric) -> SubmissionRules:
        return submission_rules(sample, self.heads, metric, self.competition.settings.id_column)

    def read_submission(self, table: pd.DataFrame, rules: SubmissionRules, metric: Metric) -> pd.DataFrame | None:
        labels_only = any(column.of is None for column in rules.columns)
        if rules.by_row or (labels_only and metric.needs == "probabilities"):
            return None
        return as_predictions(table, rules.columns, self.heads)

    def shares(self, predictions: pd.DataFrame) -> dict[str, pd.Series]:
        return {head.name: kind.shares(predictions) for head, kind in self.kinds}
