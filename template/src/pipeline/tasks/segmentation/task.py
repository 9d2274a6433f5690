"""What mask tasks do with rows, batches and outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.competition import Competition, Head, Metric
from pipeline.config import Experiment, LossRow
from pipeline.data.batch_schema import contract_rows
from pipeline.data.cache import reader_for
from pipeline.data.collate import collate
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import decoded, kept
from pipeline.heads.mask_predictions import gated
from pipeline.keys import INPUT_ID, INPUT_IMAGE, ROW_IMAGE
from pipeline.losses.criterion import WeightedLosses, take
from pipeline.losses.masks import LOSSES
from pipeline.models.preprocess import prepared_model
from pipeline.registry import Named, Names, References
from pipeline.tasks import Task
from pipeline.tasks.components import Decoder, Finisher, Submission
from pipeline.tasks.segmentation.blending import Blender
from pipeline.tasks.segmentation.predictions import MaskPredictions
from pipeline.tasks.segmentation.samples import MaskFigures
from pipeline.tasks.segmentation.settings import room_settings
from pipeline.tasks.segmentation.submission import as_predictions, form_of, read_as
from pipeline.tasks.segmentation.submission_rules import MaskRules, submission_rules
from pipeline.tasks.segmentation.truth import Truth
from pipeline.tasks.segmentation.tta import TTAModel
from pipeline.tasks.segmentation.windows import INPUT_WINDOW
from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
from toolkit.errors import UserError
from toolkit.images.row_reader import Reader
from toolkit.masks.sizes import Frame, known_header

MODELS = {
    "default": "Unet",
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "fpn": "FPN",
    "deeplabv3plus": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
    "dpt": "DPT",
}


class SegmentationTask(Task):
    """Heads of masks on one decoder."""

    KINDS: ClassVar[frozenset[str]] = frozenset({"mask", "multiclass_mask"})
    NAMES: ClassVar[References] = {
        "task": {"default": "pipeline.tasks.segmentation.settings:SegmentationSettings"},
        "dataset": {"default": "pipeline.tasks.segmentation.dataset:MaskDataset"},
        "augmentations": {"resize": "pipeline.data.augment:resize"},
        "prepare": {
            "normalize": "pipeline.models.preprocess:Normalize",
            "standardize": "pipeline.models.preprocess:Standardize",
        },
        "model": {name: f"pipeline.models.decoders:{made}" for name, made in MODELS.items()},
        "loss": {name: f"{made.__module__}:{made.__name__}" for name, made in LOSSES.items()},
        "step": {"default": "pipeline.training.step:step"},
    }

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.predictions = MaskPredictions(competition, heads)
        self.figures = MaskFigures(self.predictions)
        self.submission = MaskSubmission(self.predictions)

    def check_settings(self, experiment: Experiment, names: Names) -> None:
        room_settings(experiment, names)

    def dataset(
        self,
        rows: pd.DataFrame,
        root: Path,
        experiment: Experiment,
        names: Names,
        stage: str,
        reader: Reader | None = None,
    ) -> SampleDataset:
        dataset: SampleDataset = names.bind("dataset", experiment.dataset)(
            rows,
            root,
            reader=reader or reader_for(experiment, names),
            augmentations=names.bind("augmentations", experiment.augmentations)(stage, experiment.image.size),
            size=experiment.image.size,
            settings=room_settings(experiment, names),
            heads=self.heads,
            stage=stage,
            seed=experiment.seed,
            usual=lambda: self._usual_frame(root),
        )
        return dataset

    def _usual_frame(self, root: Path) -> Frame | None:
        """Which way the masks of the training rows lie, where images are turned; none where that cannot be told."""
        try:
            rows = self.competition.train_rows(root)
        except UserError:  # a competition may hide them where it asks for predictions
            return None
        named = zip(rows[ROW_IMAGE], rows[self.heads[0].name], strict=True)
        told = (truth.told(known_header(root / image)) for image, truth in named if isinstance(truth, Truth))
        return next((frame for frame in told if frame is not None), None)

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        return collate(samples)

    def model(self, experiment: Experiment, names: Names, pretrained: bool) -> PreparedModel:
        return prepared_model(self.heads, experiment, names, pretrained)

    def predictor(self, model: nn.Module, experiment: Experiment, names: Names) -> nn.Module:
        views = room_settings(experiment, names).tta
        return TTAModel(model, views, self.heads) if views else model

    def decoder(self, experiment: Experiment, names: Names) -> Decoder:
        return Blender(self.heads, room_settings(experiment, names))

    def finisher(self, experiment: Experiment, names: Names) -> Finisher:
        gate = room_settings(experiment, names).gate
        return lambda rows, predictions: gated(rows, predictions, self.heads, gate) if gate else predictions

    def stored(self, predictions: pd.DataFrame, experiment: Experiment, names: Names) -> pd.DataFrame:
        for head in self.heads:
            predictions = kept(predictions, head, room_settings(experiment, names).store)
        return predictions

    def default_losses(self) -> tuple[LossRow, ...]:
        usual = {"mask": "bce", "multiclass_mask": "cross_entropy"}
        return tuple(
            LossRow(head=head.name, loss=Named(name=loss)) for head in self.heads for loss in (usual[head.kind], "dice")
        )

    def criterion(self, losses: Sequence[LossRow], names: Names, rows: pd.DataFrame) -> Criterion:
        weighted = next((row for row in losses if row.class_weights is not None), None)
        if weighted is not None:
            raise UserError(
                f"loss row '{weighted.term}': class_weights are for rows, and a row of masks has pixels of several "
                "classes; set them in the params of the loss: positive_weight of 'bce', weights of 'cross_entropy'"
            )
        return WeightedLosses(losses, self.heads, names)

    def batch_schema(self, batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
        table, count, image = contract_rows(batch, outputs), len(batch[INPUT_ID]), batch[INPUT_IMAGE]
        window = take(batch, INPUT_WINDOW, "a task of masks", "the batch holds")
        if (window.dtype, tuple(window.shape)) != (torch.int64, (count, 9)):
            raise UserError(f"'{INPUT_WINDOW}' is {_form(window)}; int64 {(count, 9)} is expected")
        size = (image.shape[1], image.shape[2])
        for head in self.heads:
            kind, classes = kind_of(head), len(head.classes)
            target = take(batch, head.target_key, f"head '{head.name}'", "the batch holds")
            output = take(outputs, head.output_key, f"head '{head.name}'", "the model returns")
            wanted = (count, *kind.target_shape(classes, size))
            if target.dtype != torch.uint8 or tuple(target.shape) != wanted:
                raise UserError(f"head '{head.name}': the target is {_form(target)}; uint8 {wanted} is expected")
            if output.ndim != 4 or output.shape[:2] != (count, kind.width(classes)) or not output.is_floating_point():
                wanted_output = f"float ({count}, {kind.width(classes)}, h, w)"
                raise UserError(f"head '{head.name}': the output is {_form(output)}; {wanted_output} is expected")
            presence = outputs.get(f"{head.output_key}@presence")
            if presence is not None and tuple(presence.shape) != (count, classes):
                raise UserError(
                    f"head '{head.name}': presence is {_form(presence)}; float {(count, classes)} is expected"
                )
        return table


def _form(value: Tensor) -> str:
    """`uint8 (4, 1, 64, 64)`."""
    return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")


class MaskSubmission(Submission):
    """A column of RLE."""

    def rules(self, sample: pd.DataFrame, metric: Metric, images: Mapping[str, Path] | None = None) -> MaskRules:
        form, read = form_of(self.competition), read_as(self.competition)
        return submission_rules(sample, self.heads, self.competition.settings.id_column, form, images, read)

    def read(self, table: pd.DataFrame, rules: MaskRules, metric: Metric) -> pd.DataFrame | None:
        return as_predictions(table.reset_index(), rules.asked, rules.form, rules.head, rules.sizes)

    def shares(self, predictions: pd.DataFrame) -> dict[str, pd.Series]:
        found = {}
        for head in self.heads:
            there = [planes.any(axis=(1, 2)) for planes in decoded(predictions, head)]
            shares = np.mean(there, axis=0) if there else np.full(len(head.classes), np.nan)
            found[head.name] = pd.Series(shares, index=list(head.classes))
        return found
