"""Grad-CAM: where in the image a decision was made (Selvaraju et al., arXiv:1610.02391; of masks: Vinogradova et al.,
arXiv:2002.11434).

The features are found by watching the encoder run, so that convolutional networks, transformers and encoders of one's
own are treated alike. That, and outputs that are dicts, is what the libraries for it do not offer without a
wrapper for each architecture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pipeline.callbacks import Callback
from pipeline.callbacks.pictures import visible
from pipeline.errors import Interrupted
from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.seam import Batch, PreparedModel, Run, Stage, StageResult, StepResult
from pipeline.tasks.shared.chosen import chosen_class
from pipeline.tracking import say_once

if TYPE_CHECKING:
    from pipeline.tasks import Task

SHOWN = 4  # samples of each sort
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


class GradCam(Callback):
    """Pictures `grad_cam/fixed`, `grad_cam/random` and `grad_cam/worst` of held-out samples.

    They are drawn at `watch.figure_epochs`, and at the end with the weights that are kept.

    Holds no more than a few samples, as they came.
    """

    def __init__(self, task: "Task") -> None:
        self.task = task
        self.fixed: list[Batch] = []
        self.worst: list[tuple[float, Batch]] = []
        self.random: list[tuple[float, Batch]] = []
        self.draws = np.random.default_rng(0)

    def on_run_start(self, run: Run) -> None:
        chosen_class(run.heads, run.config.watch.explain)  # a name that is none is said before the first step

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "valid":
            self.fixed, self.worst, self.random = [], [], []
            self.draws = np.random.default_rng((run.config.seed, run.progress.epoch))

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage != "valid":
            return
        losses = torch.stack(list(result["sample_losses"].values())).sum(dim=0).tolist()
        for row, loss in enumerate(losses):
            seen = {sample[INPUT_ID][0] for sample in self.fixed}  # an image may be several samples
            if len(self.fixed) < SHOWN and batch[INPUT_ID][row] not in seen:
                self.fixed.append(_sample(batch, row))
            if math.isfinite(loss):
                _offer(self.worst, loss, batch, row)
            _offer(self.random, float(self.draws.random()), batch, row)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        is_last = result.epoch == run.epochs - 1  # then it is drawn a moment later, with the weights that are kept
        if result.stage == "valid" and not is_last and run.config.watch.draws(result.epoch, run.epochs):
            self._draw(run)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        self._draw(run)

    def _draw(self, run: Run) -> None:
        sorts = {"fixed": self.fixed, "random": _samples(self.random), "worst": _samples(self.worst)}
        try:
            for name, samples in sorts.items():
                if samples:
                    heats = explain(run.model, self.task, samples, run.config.watch.explain)
                    run.tracker.figure(f"grad_cam/{name}", grad_cam_figure(heats), run.progress.step)
        except Interrupted:
            raise
        except Exception as error:  # an encoder may be anything, and a picture is not worth a training
            say_once(f"Grad-CAM was left out: {error}")


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
        explained = task.explained(batch, model.network(image), chosen)
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


def grad_cam_figure(heats: Sequence[Heat]) -> Figure:
    """Each image beside what was looked at."""
    columns = min(len(heats), SHOWN)
    figure = Figure(figsize=(2.6 * columns, 6.0), dpi=100)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.9, 0.05, 0.2)  # by hand: laying it out takes longer than drawing it
    figure.suptitle("where the decision was made (Grad-CAM of what stands below)", x=0.01, ha="left", fontsize=11)
    for number, heat in enumerate(heats[:columns]):
        image = visible(heat.image)
        inside = "" if heat.inside is None else f"\n{heat.inside:.0%} of the heat in the truth"
        titles = (heat.name[-28:], f"{heat.of[:28]}{inside}")
        for row, (shown, title) in enumerate(zip((image, blended(image, heat.heat)), titles, strict=True)):
            axes = figure.add_subplot(2, columns, row * columns + number + 1)
            axes.set_axis_off()
            axes.imshow(shown)
            axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def blended(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W, 3), under its heat, float32 (H, W) in [0, 1]: uint8 (H, W, 3)."""
    grey = image.mean(axis=2, keepdims=True) / 255
    colored = colormaps["turbo"](heat)[..., :3]
    share = 0.25 + 0.5 * heat[..., None]
    mixed: np.ndarray = ((1 - share) * grey + share * colored) * 255
    return mixed.round().astype(np.uint8)


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


def _sample(batch: Mapping[str, Any], row: int) -> Batch:
    """One sample of a batch, as a batch on the CPU."""
    return {
        key: value[row : row + 1].cpu() if isinstance(value, Tensor) else value[row : row + 1]
        for key, value in batch.items()
    }


def _offer(kept: list[tuple[float, Batch]], rank: float, batch: Batch, row: int) -> None:
    """Keep the samples of the highest ranks."""
    if len(kept) < SHOWN or rank > kept[-1][0]:
        kept.append((rank, _sample(batch, row)))
        kept.sort(key=lambda entry: -entry[0])
        del kept[SHOWN:]


def _samples(ranked: Sequence[tuple[float, Batch]]) -> list[Batch]:
    return [sample for _, sample in ranked]
