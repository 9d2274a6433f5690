"""What mask tasks do with rows, batches and outputs."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.competition import Competition, Head, Metric
from pipeline.config import Experiment, LossRow
from pipeline.data.cache import reader_for
from pipeline.data.collate import collate, contract_rows
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import as_stored, decoded, gated
from pipeline.keys import INPUT_ID, INPUT_IMAGE, ROW_IMAGE
from pipeline.losses.criterion import WeightedLosses, take
from pipeline.losses.masks import LOSSES
from pipeline.models.preprocess import prepared_model
from pipeline.registry import References, Registry, Spec
from pipeline.submission_schema import OwnRules, Rules
from pipeline.tasks import Task
from pipeline.tasks.components import Aggregator, Decoder, Outputs, Submission
from pipeline.tasks.segmentation.blending import Blender
from pipeline.tasks.segmentation.forms import RunLengths, Written
from pipeline.tasks.segmentation.predictions import MaskPredictions
from pipeline.tasks.segmentation.samples import MaskFigures
from pipeline.tasks.segmentation.submission import MaskRules, as_predictions, submission_rules
from pipeline.tasks.segmentation.truth import Truth
from pipeline.tasks.segmentation.windows import INPUT_WINDOW, settings_of
from pipeline.types import Batch, Criterion, PreparedModel, SampleDataset
from toolkit.errors import UserError
from toolkit.images.readers import Reader
from toolkit.masks.sizes import Frame, known_header

DECODERS = ("Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT")
MODELS = {"default": "Unet", **{name.lower(): name for name in DECODERS}}


class SegmentationTask(Task):
    """Heads of masks on one decoder."""

    KINDS: ClassVar[frozenset[str]] = frozenset({"mask", "multiclass_mask"})
    NAMES: ClassVar[References] = {
        "task": {"default": "pipeline.tasks.segmentation.windows:SegmentationSettings"},
        "dataset": {"default": "pipeline.tasks.segmentation.dataset:MaskDataset"},
        "augmentations": {"resize": "pipeline.data.augment:resize"},
        "prepare": {
            "normalize": "pipeline.models.preprocess:Normalize",
            "standardize": "pipeline.models.preprocess:Standardize",
        },
        "model": {name: f"pipeline.models.segmenter:{made}" for name, made in MODELS.items()},
        "loss": {name: f"{made.__module__}:{made.__name__}" for name, made in LOSSES.items()},
        "step": {"default": "pipeline.training.step:step"},
    }

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.predictions = MaskPredictions(competition, heads)
        self.figures = MaskFigures(self.predictions)
        self.submission = MaskSubmission(self.predictions)

    def check_settings(self, experiment: Experiment, names: Registry) -> None:
        settings_of(experiment, names)

    def dataset(
        self,
        rows: pd.DataFrame,
        root: Path,
        experiment: Experiment,
        names: Registry,
        stage: str,
        reader: Reader | None = None,
    ) -> SampleDataset:
        dataset: SampleDataset = names.bind("dataset", experiment.dataset)(
            rows,
            root,
            reader=reader or reader_for(experiment, names),
            augmentations=names.bind("augmentations", experiment.augmentations)(stage, experiment.image.size),
            size=experiment.image.size,
            settings=settings_of(experiment, names),
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
        told = (truth.frame_of(known_header(root / image)) for image, truth in named if isinstance(truth, Truth))
        return next((frame for frame in told if frame is not None), None)

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """As any batch, with lists of numbers as windows: they are read on the host, and so they stay there."""
        batch = collate(samples)
        return batch | {key: value.tolist() for key, value in batch.items() if key == INPUT_WINDOW}

    def model(self, experiment: Experiment, names: Registry, pretrained: bool) -> PreparedModel:
        return prepared_model(self.heads, experiment, names, pretrained)

    def average_views(self, views: Iterable[tuple[Outputs, Callable[[Outputs], Outputs]]]) -> Sequence[Outputs]:
        """Logits of the mean probabilities, so that maps are blended once; outputs of deep supervision are left out."""
        sums, count = dict[str, Tensor](), 0
        for outputs, undo in views:
            found, count = undo(self._probabilities(outputs)), count + 1
            sums = {key: sums[key] + value if sums else value for key, value in found.items()}
        kinds = {head.output_key: kind_of(head) for head in self.heads}
        means = {key: total / count for key, total in sums.items()}
        return [{key: kinds[key].logits(mean) if key in kinds else mean.logit(eps=1e-6) for key, mean in means.items()}]

    def _probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        """Probabilities of each head's output and of its presence."""
        found = {head.output_key: kind_of(head).probabilities(outputs[head.output_key]) for head in self.heads}
        presence = [key for head in self.heads if (key := f"{head.output_key}@presence") in outputs]
        return found | {key: outputs[key].float().sigmoid() for key in presence}

    def decoder(self, experiment: Experiment, names: Registry) -> Decoder:
        return Blender(self.heads, settings_of(experiment, names))

    def aggregator(self, experiment: Experiment, names: Registry) -> Aggregator:
        gate = settings_of(experiment, names).gate
        return lambda rows, predictions: gated(rows, predictions, self.heads, gate) if gate else predictions

    def stored(self, predictions: pd.DataFrame, experiment: Experiment, names: Registry) -> pd.DataFrame:
        for head in self.heads:
            predictions = as_stored(predictions, head, settings_of(experiment, names).store)
        return predictions

    def default_losses(self) -> tuple[LossRow, ...]:
        usual = {"mask": "bce", "multiclass_mask": "cross_entropy"}
        return tuple(
            LossRow(head=head.name, loss=Spec(name=loss)) for head in self.heads for loss in (usual[head.kind], "dice")
        )

    def criterion(self, losses: Sequence[LossRow], names: Registry, rows: pd.DataFrame) -> Criterion:
        weighted = next((row for row in losses if row.class_weights is not None), None)
        if weighted is not None:
            raise UserError(
                f"loss row '{weighted.term}': class_weights are for rows, and a row of masks has pixels of several "
                "classes; set them in the params of the loss: positive_weight of 'bce', weights of 'cross_entropy'"
            )
        return WeightedLosses(losses, self.heads, names)

    def batch_schema(self, batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
        window = torch.as_tensor(take(batch, INPUT_WINDOW, "a task of masks", "the batch holds"))
        table = contract_rows({**batch, INPUT_WINDOW: window}, outputs)
        count, image = len(batch[INPUT_ID]), batch[INPUT_IMAGE]
        _check(f"'{INPUT_WINDOW}'", window, torch.int64, (count, 9))
        for head in self.heads:
            kind, classes, name = kind_of(head), len(head.classes), f"head '{head.name}'"
            target = take(batch, head.target_key, name, "the batch holds")
            output = take(outputs, head.output_key, name, "the model returns")
            shape = kind.target_shape(classes, (image.shape[1], image.shape[2]))
            _check(f"{name}: the target", target, torch.uint8, (count, *shape))
            size = tuple(output.shape[2:]) if output.ndim == 4 else ("h", "w")
            _check(f"{name}: the output", output, None, (count, kind.width(classes), *size))
            presence = outputs.get(f"{head.output_key}@presence")
            if presence is not None:
                _check(f"{name}: presence", presence, None, (count, classes))
        return table


def _check(what: str, value: Tensor, dtype: torch.dtype | None, shape: tuple[object, ...]) -> None:
    """Raise a `UserError` where a tensor has another shape or dtype; none: any float."""
    right = value.dtype == dtype if dtype else value.is_floating_point()
    if not right or tuple(value.shape) != shape:
        found, name = f"{value.dtype} {tuple(value.shape)}", str(dtype or "float")
        raise UserError(f"{what} is {found}; {name} {shape} is expected".replace("torch.", ""))


class MaskSubmission(Submission):
    """A column of RLE, as `FORM` of the competition's `submission` says; `TRUTH` of its `targets` is how it is read."""

    def rules(self, sample: pd.DataFrame, metric: Metric, images: Mapping[str, Path] | None = None) -> Rules:
        package = self.competition.package
        form = getattr(importlib.import_module(f"{package}.submission"), "FORM", None)
        read = getattr(importlib.import_module(f"{package}.targets"), "TRUTH", None)
        if form is not None and not isinstance(form, Written):
            raise UserError("FORM in src/competition/submission.py is no Written(...); correct it")
        read = read if isinstance(read, RunLengths) else None
        id_column = self.competition.settings.id_column
        try:
            return submission_rules(sample, self.heads, id_column, form, images, read)
        except UserError:
            return OwnRules.of(sample, id_column)

    def read(self, table: pd.DataFrame, rules: Rules, metric: Metric) -> pd.DataFrame | None:
        return as_predictions(table.reset_index(), rules) if isinstance(rules, MaskRules) else None

    def shares(self, predictions: pd.DataFrame) -> dict[str, pd.Series]:
        found = {}
        for head in self.heads:
            there = [planes.any(axis=(1, 2)) for planes in decoded(predictions, head)]
            shares = np.mean(there, axis=0) if there else np.full(len(head.classes), np.nan)
            found[head.name] = pd.Series(shares, index=list(head.classes))
        return found
