"""Where in an image a decision is made: Grad-CAM (Selvaraju et al., arXiv:1610.02391; of masks: Vinogradova et al.,
arXiv:2002.11434).

The features are found by watching the encoder run, so that convolutional networks, transformers and encoders of one's
own are treated alike, which the libraries for it do not offer without a wrapper for each.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.tasks import Task
from pipeline.types import Batch, PreparedModel
from toolkit.plots.images import image_grid, shortened, visible

CANDIDATES = 32  # of the encoder's last outputs
FEWEST_CELLS = 4  # of height and width of features, if there are such: two by two say little


def grad_cam_figure(
    model: PreparedModel, task: Task, samples: Sequence[Batch], named: str | None = None
) -> Callable[[], Figure]:
    """What draws each sample's image above what was looked at in it, with the model as it predicts; its gradients and
    its mode stay as they are.

    Args:
        samples: batches of one, as they came from the loader.
        named: `HEAD` or `HEAD:CLASS`; none: what the first head says.
    """
    device, modes = next(model.parameters()).device, {module: module.training for module in model.modules()}
    model.eval()
    tiles, titles = [], []
    try:
        for sample in samples:
            batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in sample.items()}
            heat, title = explain(model, task, batch, named)
            image, weight = visible(sample[INPUT_IMAGE][0].numpy()), heat[..., None]
            colored, grey = colormaps["turbo"](heat)[..., :3], image.mean(axis=2, keepdims=True) / 255
            mixed = ((0.75 - 0.5 * weight) * grey + (0.25 + 0.5 * weight) * colored) * 255
            gap = np.full((max(1, len(image) // 30), image.shape[1], 3), 255, np.uint8)
            tiles.append(np.concatenate([image, gap, mixed.round().astype(np.uint8)]))
            titles.append(title)
    finally:
        for module, mode in modes.items():
            module.training = mode
    heading = "Where the decision was made: Grad-CAM of what stands above"
    ids = [str(sample[INPUT_ID][0]) for sample in samples]
    return partial(image_grid, tiles, ids, titles, ["#404040"] * len(tiles), heading)


def explain(model: PreparedModel, task: Task, batch: Batch, named: str | None) -> tuple[np.ndarray, str]:
    """What a decision looked at, float32 (H, W) in [0, 1], and in words what is explained, with the share of the heat
    that lies where the truth does, if that has a place.

    Raises:
        ValueError: none of the encoder's outputs has a height and a width.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.requires_grad:
            outputs.append(output)

    # A compiled network would not call the hooks.
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), ExitStack() as hooks:
        for module in getattr(model.network, "encoder", model.network).modules():
            hooks.callback(module.register_forward_hook(keep).remove)
        prepared = model.prepare(batch)
        image = prepared[INPUT_IMAGE].requires_grad_(True)  # a frozen encoder has features without a graph
        target = task.figures.explain_target(batch, model.network(prepared), named)
        features = outputs[-CANDIDATES:]  # the deepest at the end
        gradients = torch.autograd.grad(target.score.sum(), features, allow_unused=True)
    heat = class_activation(features, gradients, (image.shape[-2], image.shape[-1]))
    title = shortened(target.name, 30)
    if target.region is not None and bool(target.region.any()) and float(heat.sum()) > 0:
        title += f"\n{float(heat[target.region.to(heat.device)].sum() / heat.sum()):.0%} of the heat in the truth"
    return heat.cpu().numpy(), title


def class_activation(features: Sequence[Tensor], gradients: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """The heat, float32 (H, W) in [0, 1], of the last features that speak for the score; zeros where none does.

    Features are (1, C, h, w), (1, h, w, C), or tokens (1, n, C) of which the last h * w are the image; each channel
    counts by its mean gradient.

    Raises:
        ValueError: none of them has a height and a width.
    """
    ratio, pairs = size[0] / size[1], zip(reversed(features), reversed(gradients), strict=True)
    maps = [(_as_map(feature[0], ratio), _as_map(slope[0], ratio)) for feature, slope in pairs if slope is not None]
    usable = [(one, slope) for one, slope in maps if one is not None and slope is not None and bool(slope.any())]
    if not usable:
        raise ValueError("the encoder has no output with a height and a width that the decision depends on")
    for feature, gradient in sorted(usable, key=lambda pair: min(pair[0].shape[1:]) < FEWEST_CELLS):
        heat = (gradient.mean(dim=(1, 2), keepdim=True) * feature).sum(dim=0).relu()[None, None]
        if bool(heat.any()):
            found = functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)[0, 0]
            return found / found.max()
    return torch.zeros(size)


def _as_map(values: Tensor, ratio: float) -> Tensor | None:
    """Features of one sample as float32 (C, h, w); none where they have no height and width."""
    values = values.detach().float()
    if values.ndim == 3:
        first, second, third = values.shape
        if first == second != third or (third > 4 * first and third > second):
            values = values.permute(2, 0, 1)  # channels last, as Swin has them
        return values if min(values.shape[1:]) > 1 else None
    for prefix in range(min(len(values), 10)):  # tokens that are no part of the image come first
        count = len(values) - prefix
        height = round(math.sqrt(count * ratio))
        width = count // max(height, 1)
        if min(height, width) > 1 and height * width == count and abs(height / width - ratio) < 0.1 * ratio:
            return values[prefix:].T.reshape(-1, height, width)
    return None
