"""Grad-CAM while a fold trains: where in held-out images decisions are made."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.callbacks import Callback
from pipeline.callbacks.class_activation import Heat, explain
from pipeline.callbacks.pictures import draw_figures
from pipeline.callbacks.ranking import ranked_by, sample_scores
from pipeline.data.explain_target import chosen_class
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, Stage, StageResult, StepResult
from toolkit.plots.images import image_grid, shortened, visible

if TYPE_CHECKING:
    from pipeline.tasks import Task

SHOWN = 4  # samples of each sort
Ranked = tuple[tuple[float, ...], Batch]  # rank, and a sample as a batch


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
