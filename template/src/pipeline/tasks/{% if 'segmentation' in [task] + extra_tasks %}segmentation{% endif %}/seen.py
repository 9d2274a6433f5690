"""Single samples as the model saw them, decided as predictions are, and drawn."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.competition import Head
from pipeline.tasks.segmentation import maps
from pipeline.tasks.segmentation.decoding import decided, decisions
from pipeline.tasks.segmentation.drawing import masks_figure
from pipeline.tasks.segmentation.kinds import IGNORED, kind_of
from pipeline.tasks.segmentation.metrics import each_dice
from pipeline.tasks.segmentation.scoring import pixels
from pipeline.tasks.shared.drawing import visible
from pipeline.tasks.shared.seen import SeenSample


def seen_figure(samples: Sequence[SeenSample], head: Head, heading: str) -> Figure:
    """Each image beside the overlay of its truth and of what is decided, with loss and Dice."""
    images = [visible(sample.image) for sample in samples]
    truths = [planes_of(head, sample.targets[head.target_key]) for sample in samples]
    masks = [masks_of(head, sample) for sample in samples]
    titles = [
        f"{sample.told()}, Dice {dice(truth, mask):.2f}"
        for sample, truth, mask in zip(samples, truths, masks, strict=True)
    ]
    return masks_figure(images, [sample.id for sample in samples], truths, masks, titles, heading)


def class_maps(sample: SeenSample, head: Head) -> dict[str, np.ndarray]:
    """Truth and what is decided as class numbers, uint8 (H, W); of classes that overlap the later one."""
    planes = {"truth": planes_of(head, sample.targets[head.target_key]) == 1, "prediction": masks_of(head, sample)}
    numbers = np.arange(1, 1 + len(head.classes), dtype=np.uint8)[:, None, None]
    return {name: (found * numbers).max(axis=0) for name, found in planes.items()}


def planes_of(head: Head, target: Tensor) -> np.ndarray:
    """The truth that a target says, uint8 (C, H, W) of 0, 1, and 255."""
    kind, count = kind_of(head), len(head.classes)
    true, known = kind.planes(target[None], count)
    planes = kind.foreground(true)[0].byte().numpy()
    return np.where(np.broadcast_to(known[0].numpy(), planes.shape), planes, np.uint8(IGNORED))


def masks_of(head: Head, sample: SeenSample) -> np.ndarray:
    """What is decided of a sample's logits alone, bool (C, H, W) at the size of its image."""
    kind = kind_of(head)
    found = kind.foreground(kind.probabilities(sample.outputs[head.output_key][None]))[0].numpy()
    cells = [maps.encode(_as_bytes(plane), sample.image.shape[:2]) for plane in found]
    likely = sample.outputs.get(f"{head.output_key}@presence")
    presence = np.full(len(cells), np.inf) if likely is None else likely.float().sigmoid().numpy()
    return decided(cells, presence, decisions(head), head.kind)


def dice(truth: np.ndarray, masks: np.ndarray) -> float:
    """Mean over the classes that truth or prediction has; 1 where both are empty."""
    foreground = (truth == 1).any(axis=0)
    counts = np.stack([pixels(plane, mask, foreground, list) for plane, mask in zip(truth, masks, strict=True)])
    there = (truth == 1).any(axis=(1, 2)) | masks.any(axis=(1, 2))
    return float(each_dice(counts)[there].mean()) if there.any() else 1.0


def _as_bytes(plane: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.nan_to_num(plane)).astype(np.uint8)
