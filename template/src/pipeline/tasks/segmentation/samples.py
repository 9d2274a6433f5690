"""What a person sees of masks: samples as the model saw them, examples, suspected labels, and what is explained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from pipeline.competition import Head
from pipeline.data.explain_target import Explained, class_to_explain
from pipeline.data.sample_record import SampleRecord
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import IGNORED, USUAL, columns, decoded, presence_columns
from pipeline.keys import ROW_ID
from pipeline.metrics.masks import each_dice, pixels
from pipeline.tasks.components import Figures
from pipeline.tasks.segmentation.figures import figures, worst_and_best
from pipeline.tasks.segmentation.label_errors import in_words, label_errors
from pipeline.tasks.segmentation.truth import Truth, Window
from pipeline.types import Batch
from toolkit.masks import maps
from toolkit.plots.figures import Drawing
from toolkit.plots.images import shortened, visible
from toolkit.plots.masks import masks_figure, sample_figure, shrunk, shrunk_sample


class MaskFigures(Figures):
    """Those of each head of masks."""

    sample_score = "Dice"

    def overview(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Drawing]:
        return {name: one for head in self.heads for name, one in figures(truth, predictions, head).items()}

    def examples(self, rows: pd.DataFrame, images: Sequence[Any], predictions: pd.DataFrame) -> dict[str, Drawing]:
        truth, drawn = self.predictions.truth(rows), dict[str, Drawing]()
        for head in self.heads:
            chosen = worst_and_best(truth, predictions, head)
            shown = predictions.iloc[chosen]
            both = zip(chosen, truth[head.name].iloc[chosen], decoded(shown, head), strict=True)
            small = [shrunk_sample(images[position], true.read(), masks) for position, true, masks in both]
            sure = [
                shrunk(np.stack([maps.probability(cell) for cell in row])) for row in shown[columns(head)].to_numpy()
            ]
            pictures, truths, decided = ([each[part] for each in small] for part in range(3))
            drawn[head.name] = partial(sample_figure, pictures, list(shown.index), truths, decided, sure, head.classes)
        return drawn

    def samples(self, rows: pd.DataFrame, samples: Sequence[SampleRecord], heading: str) -> Drawing:
        """Each image beside an overlay of truth and what is decided for each head, with loss and Dice."""
        truths = [[planes_of(head, sample.targets[head.target_key]) for head in self.heads] for sample in samples]
        masks = [[masks_of(head, sample) for head in self.heads] for sample in samples]
        titles, several = [], len(self.heads) > 1
        for sample, *of_heads in zip(samples, truths, masks, strict=True):
            scores = [
                f"{f'{shortened(head.name, 14)}: ' if several else ''}Dice {dice(truth, mask):.2f}"
                for head, truth, mask in zip(self.heads, *of_heads, strict=True)
            ]
            ranked = not several and sample.scored is not None and sample.scored[0] == "Dice"
            titles.append(sample.caption() if ranked else f"{sample.caption()}, {', '.join(scores)}")
        images = [visible(sample.image) for sample in samples]
        return partial(masks_figure, images, [sample.id for sample in samples], truths, masks, titles, heading)

    def captions(self, rows: pd.DataFrame, samples: Sequence[SampleRecord]) -> pd.DataFrame:
        """What takes how much of the image, and the Dice of both."""
        captions = []
        for sample in samples:
            true, predicted = [], []
            for head in self.heads:
                label = f"{head.name}: " if len(self.heads) > 1 else ""
                truth, masks = planes_of(head, sample.targets[head.target_key]), masks_of(head, sample)
                true.append(label + in_words((truth == 1).mean(axis=(1, 2)), head))
                predicted.append(f"{label}{in_words(masks.mean(axis=(1, 2)), head)} (Dice {dice(truth, masks):.2f})")
            captions.append({"truth": "; ".join(true), "prediction": "; ".join(predicted)})
        return pd.DataFrame(captions)

    def sample_scores(self, batch: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([sample_dice(head, batch[head.target_key], outputs) for head in self.heads]).mean(dim=0)

    def sample_tables(
        self, rows: pd.DataFrame, batch: Batch, outputs: Mapping[str, Tensor]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A sample is predicted by itself, without the other windows of its image."""
        index = pd.Index(list(rows[ROW_ID]), dtype="str", name=ROW_ID)
        height, width = batch[self.heads[0].target_key].shape[-2:]
        size = (height, width)
        truths = {}
        for head in self.heads:
            found = [SampleTruth(head.classes, size, planes_of(head, each)) for each in batch[head.target_key].cpu()]
            truths[head.name] = pd.Series(found, index, dtype=object)
        tables = [_table(head, outputs, size, index) for head in self.heads]
        return pd.DataFrame(truths, index), pd.concat(tables, axis=1)

    def class_maps(self, sample: SampleRecord) -> dict[str, dict[str, np.ndarray]]:
        """Of classes that overlap the later one."""
        found = {}
        for head in self.heads:
            truth, masks = planes_of(head, sample.targets[head.target_key]) == 1, masks_of(head, sample)
            numbers = np.arange(1, 1 + len(head.classes), dtype=np.uint8)[:, None, None]
            found[head.name] = {"truth": (truth * numbers).max(axis=0), "prediction": (masks * numbers).max(axis=0)}
        return found

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([label_errors(truth, predictions, head) for head in self.heads], ignore_index=True)

    def label_errors_figure(
        self, found: pd.DataFrame, images: Sequence[Any], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        heads = {head.name: head for head in self.heads}
        truths = [[truth[name].iloc[place].read()] for place, name in enumerate(found["head"])]
        masks = [list(decoded(predictions.iloc[[place]], heads[name])) for place, name in enumerate(found["head"])]
        pairs = zip(found["given"], found["suggested"], strict=True)
        titles = [f"given: {shortened(given, 50)}\nsuggested: {shortened(other, 46)}" for given, other in pairs]
        drawn = [images[place] for place in range(len(found))]
        return masks_figure(drawn, list(found[ROW_ID]), truths, masks, titles, "Masks to look at, the worst first")

    def explain_target(self, batch: Batch, outputs: Mapping[str, Tensor], name: str | None = None) -> Explained:
        """The mean logit of a class over the pixels that are predicted to be of it; the class of the largest area."""
        head, number = class_to_explain(self.heads, name)
        kind = kind_of(head)
        logits = kind.foreground(outputs[head.output_key].float())[0]
        probable = kind.foreground(kind.probabilities(outputs[head.output_key]))[0] > 0.5
        number = int(probable.sum(dim=(1, 2)).argmax()) if number is None else number
        there = probable[number]
        score = logits[number][there].mean() if bool(there.any()) else logits[number].max()
        planes, _ = kind.planes(batch[head.target_key], len(head.classes))
        return Explained(score, head.classes[number], kind.foreground(planes)[0, number] > 0.5)


@dataclass(frozen=True, eq=False)
class SampleTruth(Truth):
    """The truth of a sample, as its target says it: uint8 (C, H, W) of 0, 1, and 255."""

    planes: np.ndarray

    def _planes(self, window: Window) -> np.ndarray:
        top, left, height, width = window
        return self.planes[:, top : top + height, left : left + width]


def planes_of(head: Head, target: Tensor) -> np.ndarray:
    """The truth that a target says, uint8 (C, H, W) of 0, 1, and 255."""
    kind = kind_of(head)
    true, known = kind.planes(target[None], len(head.classes))
    planes = kind.foreground(true)[0].byte().numpy()
    return np.where(np.broadcast_to(known[0].numpy(), planes.shape), planes, np.uint8(IGNORED))


def masks_of(head: Head, sample: SampleRecord) -> np.ndarray:
    """What is decided of a sample's logits alone, bool (C, H, W) at the size of its image."""
    outputs = {key: value[None] for key, value in sample.outputs.items()}
    size = (sample.image.shape[0], sample.image.shape[1])
    return next(decoded(_table(head, outputs, size, pd.Index([sample.id])), head))


def _table(head: Head, outputs: Mapping[str, Tensor], size: tuple[int, int], index: pd.Index) -> pd.DataFrame:
    """Predictions of the logits of each sample by itself: map cells, and presence where the model says it."""
    kind = kind_of(head)
    found = np.nan_to_num(kind.foreground(kind.probabilities(outputs[head.output_key])).cpu().numpy())
    cells = [[maps.encode(np.rint(255 * plane).astype(np.uint8), size) for plane in planes] for planes in found]
    table = pd.DataFrame(cells, index, columns(head), dtype=object)
    presence = outputs.get(f"{head.output_key}@presence")
    if presence is not None:
        table[presence_columns(head)] = presence.float().sigmoid().cpu().numpy()
    return table


def dice(truth: np.ndarray, masks: np.ndarray) -> float:
    """Mean over the classes that truth or prediction has; 1 where both are empty."""
    foreground = (truth == 1).any(axis=0)
    counts = np.stack([pixels(plane, mask, foreground, list) for plane, mask in zip(truth, masks, strict=True)])
    there = (truth == 1).any(axis=(1, 2)) | masks.any(axis=(1, 2))
    return float(each_dice(counts)[there].mean()) if there.any() else 1.0


def sample_dice(head: Head, target: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
    """`dice` of each sample of a batch, as the usual thresholds decide, float32 (B,), on the device."""
    kind, logits = kind_of(head), outputs[head.output_key].detach().float()
    if logits.shape[-2:] != target.shape[-2:]:
        logits = functional.interpolate(logits, tuple(target.shape[-2:]), mode="bilinear")
    true, known = kind.planes(target, len(head.classes))
    known = kind.foreground(known.expand_as(true))
    predicted, there = kind.foreground(kind.decided(logits)) & known, kind.foreground(true).bool() & known
    presence = outputs.get(f"{head.output_key}@presence")
    if presence is not None:
        predicted = predicted & (presence.sigmoid() >= USUAL[2])[..., None, None]
    hits, both = (there & predicted).sum(dim=(2, 3)), there.sum(dim=(2, 3)) + predicted.sum(dim=(2, 3))
    shares = torch.where(both > 0, 2 * hits / both.clamp(min=1), 0.0)
    counted = (both > 0).sum(dim=1)
    return torch.where(counted > 0, shares.sum(dim=1) / counted.clamp(min=1), 1.0)
