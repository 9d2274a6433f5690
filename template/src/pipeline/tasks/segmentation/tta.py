"""Test-time augmentation: several views of each window, undone on the map of probabilities and averaged."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask import kind_of
from pipeline.keys import INPUT_IMAGE
from pipeline.types import Batch
from toolkit.errors import UserError

# How images (B, H, W, C) are changed, and how maps (B, C, h, w) are changed back, given height and width of the images.
View = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, tuple[int, int]], Tensor]]


def _turned(times: int) -> View:
    return lambda image: torch.rot90(image, times, (1, 2)), lambda found, _: torch.rot90(found, -times, (2, 3))


VIEWS: dict[str, View] = {
    "hflip": (lambda image: image.flip(2), lambda found, _: found.flip(3)),
    "vflip": (lambda image: image.flip(1), lambda found, _: found.flip(2)),
    "rot90": _turned(1),
    "rot180": _turned(2),
    "rot270": _turned(3),
}


class TTAModel(nn.Module):
    """The model on the images as they are and on each view: batch dict in, output dict out, as the model's own.

    Logits are those of the mean probabilities, so that they are decoded as ever. Presence is averaged alike; outputs of
    deep supervision are left out. Views are names in `VIEWS`, or `scale:0.8`.
    """

    def __init__(self, model: nn.Module, views: Sequence[str], heads: Sequence[Head]) -> None:
        super().__init__()
        self.model, self.heads = model, tuple(heads)
        self.views = [view_of(name) for name in views]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        image: Tensor = batch[INPUT_IMAGE]
        sums = self._probabilities(batch)
        size = (image.shape[1], image.shape[2])
        for change, undo in self.views:
            found = self._probabilities({**batch, INPUT_IMAGE: change(image).contiguous()})
            for key, value in found.items():
                sums[key] = sums[key] + (undo(value, size) if value.ndim == 4 else value)
        kinds = {head.output_key: kind_of(head) for head in self.heads}
        means = {key: total / (1 + len(self.views)) for key, total in sums.items()}
        return {key: kinds[key].logits(mean) if key in kinds else mean.logit(eps=1e-6) for key, mean in means.items()}

    def _probabilities(self, batch: Batch) -> dict[str, Tensor]:
        """Probabilities of each head's output and of its presence."""
        outputs, found = self.model(batch), {}
        for head in self.heads:
            found[head.output_key] = kind_of(head).probabilities(outputs[head.output_key])
            if (presence := f"{head.output_key}@presence") in outputs:
                found[presence] = outputs[presence].float().sigmoid()
        return found


def view_of(name: str) -> View:
    """A view by its name."""
    if name in VIEWS:
        return VIEWS[name]
    factor = float(name.removeprefix("scale:")) if re.fullmatch(r"scale:\d*\.?\d+", name) else 0.0
    if not 0.1 <= factor <= 10:
        known = ", ".join(VIEWS)
        raise UserError(f"task.params.tta: unknown view '{name}'; known: {known}, and scale:F with F from 0.1 to 10")
    return lambda image: _scaled(image, factor), _resized


def _scaled(image: Tensor, factor: float) -> Tensor:
    """Images (B, H, W, C) of another size and the same dtype."""
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[2] * factor)))
    changed = _resized(image.permute(0, 3, 1, 2).float(), size).permute(0, 2, 3, 1)
    return changed if image.is_floating_point() else changed.round().clamp(0, 255).to(image.dtype)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    smaller = size[0] < maps.shape[2]
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=smaller)
