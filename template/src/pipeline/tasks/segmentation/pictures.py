"""What a person sees of masks: pictures, suspects, and what is explained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.data.explain_target import Explained, chosen_class
from pipeline.data.sample_record import SeenSample
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import decoded
from pipeline.heads.mask_predictions import columns
from pipeline.keys import ROW_ID
from pipeline.tasks import Task
from pipeline.tasks.segmentation.figures import figures, worst_and_best
from pipeline.tasks.segmentation.seen import class_maps, sample_dice, sample_tables, seen_figure, seen_words
from pipeline.tasks.segmentation.suspects import suspects, suspects_figure
from pipeline.types import Batch
from toolkit.masks import maps
from toolkit.plots.masks import sample_figure, shrunk, shrunk_truth


class MaskPictures(Task):
    """The part of the room's `Task` that draws."""

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        return {name: one for head in self.heads for name, one in figures(truth, predictions, head).items()}

    def sample_figures(self, rows: pd.DataFrame, images: Sequence[Any], predictions: pd.DataFrame) -> dict[str, Figure]:
        truth, drawn = self.truth(rows), {}
        for head in self.heads:
            chosen = worst_and_best(truth, predictions, head)
            shown = predictions.iloc[chosen]
            cells = shown[columns(head)].to_numpy()
            drawn[head.name] = sample_figure(
                [images[position] for position in chosen],
                list(shown.index),
                [shrunk_truth(truth[head.name].iloc[position].read()) for position in chosen],
                [shrunk(planes) for planes in decoded(shown, head)],
                [shrunk(np.stack([maps.probability(cell) for cell in row])) for row in cells],
                head.classes,
            )
        return drawn

    def draw_samples(self, rows: pd.DataFrame, samples: Sequence[SeenSample], heading: str) -> Figure:
        return seen_figure(samples, self.heads, heading)

    def words(self, rows: pd.DataFrame, samples: Sequence[SeenSample]) -> pd.DataFrame:
        return seen_words(samples, self.heads)

    @property
    def sample_score(self) -> str:
        return "Dice"

    def sample_scores(self, batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([sample_dice(head, batch[head.target_key], outputs) for head in self.heads]).mean(dim=0)

    def sample_tables(
        self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        return sample_tables(self.heads, list(rows[ROW_ID]), batch, outputs)

    def class_maps(self, sample: SeenSample) -> dict[str, dict[str, np.ndarray]]:
        return {head.name: class_maps(sample, head) for head in self.heads}

    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([suspects(truth, predictions, head) for head in self.heads], ignore_index=True)

    def suspects_figure(
        self, found: pd.DataFrame, images: Sequence[Any], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        return suspects_figure(found, images, truth, predictions, {head.name: head for head in self.heads})

    def explained(self, batch: Batch, outputs: Mapping[str, Tensor], chosen: str | None = None) -> Explained:
        """The mean logit of a class over the pixels that are predicted to be of it; the class of the largest area."""
        head, number = chosen_class(self.heads, chosen)
        kind = kind_of(head)
        logits = kind.foreground(outputs[head.output_key].float())[0]
        probable = kind.foreground(kind.probabilities(outputs[head.output_key]))[0] > 0.5
        number = int(probable.sum(dim=(1, 2)).argmax()) if number is None else number
        there = probable[number]
        score = logits[number][there].mean() if bool(there.any()) else logits[number].max()
        planes, _ = kind.planes(batch[head.target_key], len(head.classes))
        return Explained(score, head.classes[number], kind.foreground(planes)[0, number] > 0.5)
