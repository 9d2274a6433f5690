"""Where in the image a decision was made: Grad-CAM (Selvaraju et al., arXiv:1610.02391; of masks: Vinogradova et al.,
arXiv:2002.11434).

The features are found by watching the encoder run, so that convolutional networks, transformers and encoders of one's
own are treated alike. That, and outputs that are dicts, is what the libraries for it do not offer without a
wrapper for each architecture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.types import Batch, PreparedModel

if TYPE_CHECKING:
    from pipeline.tasks import Task

CANDIDATES = 32  # of the encoder's last outputs
FEWEST_CELLS = 4  # of height and width of features, if there are such: two by two say little


@dataclass(frozen=True)
class Heat:
    """What a decision looked at.

    Attributes:
        image: (H, W, C), as it came.
        heat: float32 (H, W) in [0, 1].
        name: of the sample, and `of` what was explained.
        inside: the share of the heat that lies where the truth does; none where the truth has no place.
    """

    image: np.ndarray
    heat: np.ndarray
    name: str
    of: str
    inside: float | None = None


def explain(model: PreparedModel, task: "Task", samples: Sequence[Batch], chosen: str | None = None) -> list[Heat]:
    """The heat of each sample, with the model as it predicts; its gradients and its mode stay as they are.

    Args:
        samples: batches of one, as they came from the loader.
        chosen: `HEAD` or `HEAD:CLASS`; none: what the first head says.

    Raises:
        ValueError: none of the encoder's outputs has a height and a width.
    """
    device = next(model.parameters()).device
    modes = [module.training for module in model.modules()]
    model.eval()
    heats = []
    try:
        for sample in samples:
            batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in sample.items()}
            heats.append(_explained(model, task, batch, chosen))
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
    return heats


def _explained(model: PreparedModel, task: "Task", batch: Batch, chosen: str | None) -> Heat:
    encoder = getattr(model.network, "encoder", model.network)
    with torch.enable_grad(), _Outputs(encoder) as outputs:
        image = model.prepare(batch)
        image[INPUT_IMAGE].requires_grad_(True)  # a frozen encoder has features without a graph
        explained = task.figures.explain_target(batch, model.network(image), chosen)
        features = outputs.last()
        gradients = torch.autograd.grad(explained.score.sum(), features, allow_unused=True)
    size = (image[INPUT_IMAGE].shape[-2], image[INPUT_IMAGE].shape[-1])
    heat = class_activation(features, gradients, size)
    inside = None
    if explained.region is not None and bool(explained.region.any()) and float(heat.sum()) > 0:
        inside = float(heat[explained.region.to(heat.device)].sum() / heat.sum())
    shown = batch[INPUT_IMAGE][0].detach().cpu().numpy()
    return Heat(shown, heat.cpu().numpy(), str(batch[INPUT_ID][0]), explained.name, inside)


def class_activation(features: Sequence[Tensor], gradients: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """The heat, float32 (H, W) in [0, 1], of the last features that speak for the score; zeros where none does.

    Features are (1, C, h, w), (1, h, w, C), or tokens (1, n, C) of which the last h * w are the image; each channel
    counts by its mean gradient.

    Raises:
        ValueError: none of them has a height and a width.
    """
    ratio, found = size[0] / size[1], [torch.zeros(size)]
    pairs = [(feature, gradient) for feature, gradient in zip(features, gradients, strict=True) if gradient is not None]
    maps = [(_as_map(feature, ratio), _as_map(gradient, ratio)) for feature, gradient in reversed(pairs)]
    for least in (FEWEST_CELLS, 2):
        for feature, gradient in maps:
            if feature is None or gradient is None or min(feature.shape[1:]) < least or not bool(gradient.any()):
                continue
            heat = (gradient.mean(dim=(1, 2), keepdim=True) * feature).sum(dim=0).relu()[None, None]
            found.append(functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)[0, 0])
            if bool(heat.any()):
                return found[-1] / found[-1].max()
    if len(found) > 1:
        return found[-1]
    raise ValueError("the encoder has no output with a height and a width that the decision depends on")


class _Outputs:
    """Remembers what the modules of an encoder gave, in the order of their calls."""

    def __init__(self, encoder: nn.Module) -> None:
        self.found: list[Tensor] = []
        self.encoder = encoder
        self.hooks: list[Any] = []

    def __enter__(self) -> "_Outputs":
        self.hooks = [module.register_forward_hook(self._keep) for module in self.encoder.modules()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def last(self) -> list[Tensor]:
        """The last outputs, the deepest at the end."""
        return self.found[-CANDIDATES:]

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.requires_grad:
            self.found.append(output)


def _as_map(values: Tensor, ratio: float) -> Tensor | None:
    """Features of one sample as (C, h, w); none where they have no height and width."""
    if values.ndim == 4:
        one = values[0].detach().float()
        if one.shape[0] == one.shape[1] != one.shape[2] or (
            one.shape[2] > 4 * one.shape[0] and one.shape[2] > one.shape[1]
        ):
            one = one.permute(2, 0, 1)  # channels last, as Swin has them
        return one if min(one.shape[1:]) > 1 else None
    return _tokens(values[0].detach().float(), ratio)


def _tokens(tokens: Tensor, ratio: float) -> Tensor | None:
    """(n, C) as (C, h, w): the last h * w tokens, of the grid whose shape is nearest to the image's."""
    count = len(tokens)
    for prefix in range(min(count, 10)):
        height = round(math.sqrt((count - prefix) * ratio))
        if height > 1 and (count - prefix) % height == 0 and (count - prefix) // height > 1:
            width = (count - prefix) // height
            if abs(height / width - ratio) < 0.1 * ratio:
                return tokens[prefix:].T.reshape(-1, height, width)
    return None
