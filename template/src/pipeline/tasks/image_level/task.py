"""What image-level tasks do with rows, batches and outputs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, LossRow
from pipeline.data.cache import reader_for
from pipeline.data.collate import collate, contract_rows
from pipeline.data.side_columns import input_names, selected_columns, side_inputs
from pipeline.heads.base import KINDS, kind_of, losses, trained_by
from pipeline.heads.columns import has_truth
from pipeline.keys import INPUT_ID, INPUT_SIDE, ROW_ID
from pipeline.losses.criterion import WeightedLosses, take
from pipeline.models.preprocess import prepared_model
from pipeline.registry import References, Registry, Spec, load
from pipeline.tasks import Task
from pipeline.tasks.components import Aggregator, Decoder, Outputs, Table
from pipeline.tasks.image_level.figures import HeadFigures, HeadSubmission
from pipeline.tasks.image_level.predictions import HeadPredictions
from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
from toolkit.errors import UserError, listed
from toolkit.images.readers import Reader

PIPELINE = {
    "dataset": {"default": "data.image_dataset:ImageDataset"},
    "augmentations": {"resize": "data.augment:resize"},
    "prepare": {"normalize": "models.preprocess:Normalize", "standardize": "models.preprocess:Standardize"},
    "model": dict.fromkeys(("default", "encoder_heads"), "models.encoder_heads:EncoderHeads"),
    "pooling": {
        "encoder": "models.pooling:EncoderPooling",
        "avg": "models.pooling:average",
        "max": "models.pooling:maximum",
        "gem": "models.pooling:GeneralizedMean",
        "attention": "models.pooling:AttentionPooling",
    },
    "batch_transform": {"mixup": "training.batch_transforms:Mixup", "cutmix": "training.batch_transforms:cutmix"},
    "step": {"default": "training.step:step"},
    "task": {"default": "tasks.image_level.task:no_settings"},
    "aggregate": {
        "mean": "inference.aggregates:mean",
        "max": "inference.aggregates:maximum",
        "generalized_mean": "inference.aggregates:generalized_mean",
    },
}


def no_settings() -> None:
    """There are none that other kinds of tasks do not have."""


class ImageLevelTask(Task):
    """Heads on one encoder, each of a kind of its own."""

    KINDS: ClassVar[frozenset[str]] = frozenset(KINDS)
    NAMES: ClassVar[References] = {
        "loss": losses(),
        **{kind: {name: f"pipeline.{made}" for name, made in names.items()} for kind, names in PIPELINE.items()},
    }

    predictions: HeadPredictions

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        searching = [reference for head in heads if (reference := kind_of(head).predictions)]
        predictions = load(searching[0], "predictions") if searching else HeadPredictions
        self.predictions = predictions(competition, heads)
        self.kinds = self.predictions.kinds
        self.figures = HeadFigures(self.predictions)
        self.submission = HeadSubmission(self.predictions)

    def dataset(
        self, rows: Table, root: Path, experiment: Experiment, names: Registry, stage: str, reader: Reader | None = None
    ) -> SampleDataset:
        values = {} if stage == "test" else self.targets(rows)
        side = selected_columns(self.competition.settings.side_columns, experiment.model.side_columns)
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

    def targets(self, rows: Table) -> dict[str, np.ndarray]:
        """The truth of all heads, a gap where a row has none for one. A row that has none at all is a `UserError`."""
        targets = {kind.head.target_key: kind.targets(rows) for kind in self.kinds}
        gaps = [np.isnan(values) if values.dtype.kind == "f" else values < 0 for values in targets.values()]
        nothing = np.all([gap.all(axis=tuple(range(1, gap.ndim))) for gap in gaps], axis=0)
        if nothing.any():  # a truth that trains nothing is one all the same
            truth = self.predictions.image_truth(rows)
            nothing &= ~np.any([has_truth(truth, head) for head in self.heads], axis=0)
        if nothing.any():
            raise UserError(
                f"{int(nothing.sum())} rows (id {listed(rows.loc[nothing, ROW_ID])}) have no truth for any of "
                f"{', '.join(head.name for head in self.heads)}; fill or drop them in src/competition/tables.py"
            )
        return targets

    collate = staticmethod(collate)

    def model(self, experiment: Experiment, names: Registry, pretrained: bool) -> PreparedModel:
        side = input_names(selected_columns(self.competition.settings.side_columns, experiment.model.side_columns))
        return prepared_model(self.heads, experiment, names, pretrained, side)

    def decoder(self, experiment: Experiment, names: Registry) -> Decoder:
        return lambda batch, outputs: self.predictions.decode(batch[INPUT_ID], outputs)

    def aggregator(self, experiment: Experiment, names: Registry) -> Aggregator:
        aggregate = names.bind("aggregate", experiment.aggregate)
        return lambda rows, predictions: self.predictions.per_prediction(rows, predictions, aggregate)

    def fit_statistics(self, network: torch.nn.Module, rows: Table) -> None:
        for kind in self.kinds:
            kind.fit_statistics(network, rows)

    def default_losses(self) -> tuple[LossRow, ...]:
        return tuple(LossRow(head=kind.head.name, loss=Spec(name=next(iter(kind.losses)))) for kind in self.kinds)

    def criterion(self, losses: Sequence[LossRow], names: Registry, rows: Table) -> Criterion:
        kinds = {kind.head.name: kind for kind in self.kinds}
        for row in losses:
            name, kind = row.loss.name, kinds.get(row.head or "")
            if names.table.get("loss", {}).get(name) != self.NAMES["loss"].get(name, ""):
                continue  # the competition's own trains what it says
            if row.head is None:
                raise UserError(f"loss '{name}' needs a head; add 'head: NAME' to its row in losses")
            if kind is not None and name not in kind.losses:
                able = listed(trained_by(name))
                raise UserError(f"loss '{name}' trains heads of the kind {able}; '{row.head}' is {kind.head.kind}")
        counted = kinds if any(row.class_weights for row in losses) else {}
        found = {name: kind.class_counts(rows) for name, kind in counted.items()}
        counts = {name: count for name, count in found.items() if count is not None}
        truths = {name: partial(kind.targets, rows) for name, kind in kinds.items()}
        return WeightedLosses(losses, self.heads, names, counts, truths)

    def batch_schema(self, batch: Batch, outputs: Outputs) -> list[tuple[str, str, str, str]]:
        table, size = contract_rows(batch, outputs), len(batch[INPUT_ID])
        for kind in self.kinds:
            wiring = f"head '{kind.head.name}'"
            target = take(batch, kind.head.target_key, wiring, "the batch holds")
            output = take(outputs, kind.head.output_key, wiring, "the model returns")
            expected, forms = (size, kind.width), [(dtype, (size, *shape)) for dtype, shape in kind.target_forms()]
            if tuple(output.shape) != expected or (target.dtype, tuple(target.shape)) not in forms:
                targets = " or ".join(f"{dtype} {shape}".removeprefix("torch.") for dtype, shape in forms)
                raise UserError(
                    f"{wiring}: output {tuple(output.shape)} and target {target.dtype} {tuple(target.shape)}; "
                    f"expected are {expected} and {targets}"
                )
        return table
