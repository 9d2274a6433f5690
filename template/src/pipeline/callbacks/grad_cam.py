"""Where in held-out images decisions are made: Grad-CAM (Selvaraju et al., arXiv:1610.02391; of masks: Vinogradova et
al., arXiv:2002.11434).

The features are found by watching the encoder run, so that convolutional networks, transformers and encoders of one's
own are treated alike. That, and outputs that are dicts, is what the libraries for it do not offer without a
wrapper for each architecture.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from pipeline.callbacks import Callback
from pipeline.callbacks.pictures import draw_figures
from pipeline.callbacks.ranking import ranked_by, sample_scores
from pipeline.data.explain_target import chosen_class
from pipeline.keys import INPUT_ID, INPUT_IMAGE
from pipeline.types import Batch, PreparedModel, Run, Stage, StageResult, StepResult
from toolkit.plots.images import image_grid, shortened, visible

if TYPE_CHECKING:
    from pipeline.tasks import Task

SHOWN = 4  # samples of each sort
CANDIDATES = 32  # of the encoder's last outputs
FEWEST_CELLS = 4  # of height and width of features, if there are such: two by two say little
Ranked = tuple[tuple[float, ...], Batch]  # rank, and a sample as a batch


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

    Holds no more than a few samples, as they came; the fixed ones are those of the main process's share.
    """

    every_process = True
    changes_gradients = False

    def __init__(self, task: "Task") -> None:
        self.task = task
        self.fixed: list[Batch] = []
        self.worst: list[Ranked] = []
        self.random: list[Ranked] = []
        self.generator = np.random.default_rng(0)

    def on_run_start(self, run: Run) -> None:
        if run.config.watch.explain is not None:
            chosen_class(run.heads, run.config.watch.explain)  # a name that is none is said before the first step

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        if stage == "valid":
            self.fixed, self.worst, self.random = [], [], []
            others = (run.processes.rank,) if run.processes.rank else ()
            self.generator = np.random.default_rng((run.config.seed, run.progress.epoch, *others))

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        is_drawn = run.config.watch.draws(run.progress.epoch, run.epochs)
        if stage != "valid" or not is_drawn or not result["sample_losses"]:
            return
        own = sample_scores(self.task, run.config)
        wrong = [1.0] * len(batch[INPUT_ID]) if own is None else (1 - own.samples(batch, result["outputs"])).tolist()
        for row, loss in enumerate(ranked_by(result, run.config)[0].tolist()):
            seen = {sample[INPUT_ID][0] for sample in self.fixed}  # an image may be several samples
            if len(self.fixed) < SHOWN and batch[INPUT_ID][row] not in seen:
                self.fixed.append(_sample(batch, row))
            if math.isfinite(loss) and wrong[row] > 0:
                _offer(self.worst, (wrong[row], loss), batch, row)
            _offer(self.random, (float(self.generator.random()),), batch, row)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        if result.stage != "valid" or not run.config.watch.draws(result.epoch, run.epochs):
            return
        shares = run.processes.gather((self.worst, self.random))
        self.worst, self.random = (_highest([one for share in shares for one in share[k]]) for k in (0, 1))
        # Those of the last epoch wait for the weights that are kept.
        if run.processes.is_main and result.epoch < run.epochs - 1:
            self._draw(run)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        self._draw(run)

    def _draw(self, run: Run) -> None:
        sorts = {"fixed": self.fixed, "random": _samples(self.random), "worst": _samples(self.worst)}
        for name, samples in sorts.items():
            if samples:
                draw_figures(run, partial(self._drawn, run, f"grad_cam/{name}", samples))

    def _drawn(self, run: Run, name: str, samples: Sequence[Batch]) -> dict[str, Figure]:
        return {name: grad_cam_figure(explain(run.model, self.task, samples, run.config.watch.explain))}


def grad_cam_figure(heats: Sequence[Heat]) -> Figure:
    """Each image above what was looked at in it."""
    tiles, said = [], []
    for heat in heats:
        image = visible(heat.image)
        gap = np.full((max(1, len(image) // 30), image.shape[1], 3), 255, np.uint8)
        tiles.append(np.concatenate([image, gap, blended(image, heat.heat)]))
        inside = "" if heat.inside is None else f"\n{heat.inside:.0%} of the heat in the truth"
        said.append(f"{shortened(heat.of, 30)}{inside}")
    heading = "Where the decision was made: Grad-CAM of what stands above"
    return image_grid(tiles, [heat.name for heat in heats], said, ["#404040"] * len(tiles), heading, columns=SHOWN)


def blended(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W, 3), under its heat, float32 (H, W) in [0, 1]: uint8 (H, W, 3)."""
    grey = image.mean(axis=2, keepdims=True) / 255
    colored = colormaps["turbo"](heat)[..., :3]
    share = 0.25 + 0.5 * heat[..., None]
    mixed: np.ndarray = ((1 - share) * grey + share * colored) * 255
    return mixed.round().astype(np.uint8)


def _sample(batch: Mapping[str, Any], row: int) -> Batch:
    """One sample of a batch, as a batch on the CPU."""
    return {
        key: value[row : row + 1].cpu() if isinstance(value, Tensor) else value[row : row + 1]
        for key, value in batch.items()
    }


def _offer(kept: list[Ranked], rank: tuple[float, ...], batch: Batch, row: int) -> None:
    """Keep the samples of the highest ranks."""
    if len(kept) < SHOWN or rank > kept[-1][0]:
        kept[:] = _highest([*kept, (rank, _sample(batch, row))])


def _highest(ranked: Sequence[Ranked]) -> list[Ranked]:
    return sorted(ranked, key=lambda entry: entry[0], reverse=True)[:SHOWN]


def _samples(ranked: Sequence[Ranked]) -> list[Batch]:
    return [sample for _, sample in ranked]


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
    with torch.enable_grad(), _outputs(encoder) as outputs:
        image = model.prepare(batch)
        image[INPUT_IMAGE].requires_grad_(True)  # a frozen encoder has features without a graph
        explained = task.figures.explain_target(batch, model.network(image), chosen)
        features = outputs[-CANDIDATES:]  # the deepest at the end
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


@contextmanager
def _outputs(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """What the modules of an encoder give, in the order of their calls."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.requires_grad:
            found.append(output)

    with ExitStack() as hooks:
        for module in encoder.modules():
            hooks.callback(module.register_forward_hook(keep).remove)
        yield found


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
