"""Gradients block by block: how large, how many zeros, how far they move the weights, and what that means.

At the cadence of `watch.gradient_steps`, for each block of the network: `gradients/<block>/min`, `/mean` and `/max` of
|g|, `/zeros` (share) and `updates/<block>` (length of the optimiser's step over that of the weights). At the end of a
run a picture, `gradients`, and a verdict where something is wrong.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pipeline.callbacks import Callback
from pipeline.types import Batch, Run, Stage, StageResult, Verdict
from toolkit.errors import listed
from toolkit.terminal import console

MOST_BLOCKS = 48  # in a picture that can still be read
MOST_COLUMNS = 128  # steps that are remembered; beyond them, every second one goes
SAMPLE = 4096  # weights of a parameter whose movement is measured
VANISHED, EXPLODED = 1e-6, 1e4  # times the middle block; and of a gradient itself
SELDOM, LOOKS = 50, 10  # the most steps between two looks, and the fewest looks at a run
MEASURES = ("min", "mean", "max", "zeros", "update")


class Gradients(Callback):
    """Watches gradients and updates of each block of the network."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: list[Tensor] = []  # float32 (blocks, measures) of each of these steps, on the CPU
        self.cadence = 1  # steps from one look to the next
        self.every = 1  # of the looks, one in so many is remembered
        self.looks = 0
        self.blocks: dict[str, list[str]] = {}
        self.before: dict[str, Tensor] = {}  # a sample of the weights before the step that is looked at

    def on_run_start(self, run: Run) -> None:
        self.blocks = blocks(run.model.network)
        steps = run.epochs * math.ceil(run.batches_per_epoch / run.config.training.accumulate)
        self.cadence = run.config.watch.gradient_steps or min(SELDOM, max(1, steps // LOOKS))

    def on_gradients_ready(self, run: Run) -> Verdict:
        if run.progress.step % self.cadence == 0:
            parameters = dict(run.model.network.named_parameters())
            found = [measure([parameters[name].grad for name in names]) for names in self.blocks.values()]
            self.steps.append(run.progress.step)
            self.rows.append(torch.stack(found))
            self.before = {name: _sample(value) for name, value in parameters.items() if value.grad is not None}
        return Verdict.GO

    def on_batch_start(self, run: Run, stage: Stage, batch: Batch) -> None:
        self._after_step(run)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        self._after_step(run)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if not self.rows:
            return
        table = torch.stack(self.rows).numpy()
        run.tracker.figure("gradients", gradients_figure(list(self.blocks), self.steps, table), run.progress.step)
        for line in verdicts(list(self.blocks), table, trained_blocks(run.model.network, self.blocks)):
            console().print(f"gradients of fold {run.fold}: {line}", style="yellow", soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        rows = torch.stack(self.rows) if self.rows else torch.zeros(0)
        looked = {"steps": list(self.steps), "rows": rows, "every": self.every, "looks": self.looks}
        return {**looked, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.rows = list(state.get("steps", [])), list(state.get("rows", torch.zeros(0)))
        self.every, self.looks = state.get("every", 1), state.get("looks", 0)
        self.before = dict(state.get("before", {}))

    def _after_step(self, run: Run) -> None:
        """The optimiser has stepped since gradients were looked at: how far it went can be seen now."""
        if not self.before:
            return
        parameters, moved = dict(run.model.network.named_parameters()), []
        for names in self.blocks.values():
            new = {name: _sample(parameters[name]) for name in names if name in self.before}
            # What was loaded from a saved state lies on the CPU.
            moved.append(movement([(self.before[name].to(sample.device), sample) for name, sample in new.items()]))
        self.before = {}
        row = self.rows[-1]
        row[:, MEASURES.index("update")] = torch.stack(moved)
        values = row.tolist()
        tags = {}
        for block, measures in zip(self.blocks, values, strict=True):
            named = dict(zip(MEASURES, measures, strict=True))
            tags[f"updates/{block}"] = named.pop("update")
            tags |= {f"gradients/{block}/{name}": value for name, value in named.items()}
        run.tracker.scalars({tag: value for tag, value in tags.items() if math.isfinite(value)}, self.steps[-1])
        self._thin_out()

    def _thin_out(self) -> None:
        """Remember no more than a picture can show."""
        self.looks += 1
        if (self.looks - 1) % self.every:
            del self.steps[-1], self.rows[-1]
        if len(self.rows) > MOST_COLUMNS:
            self.steps, self.rows, self.every = self.steps[::2], self.rows[::2], 2 * self.every


def blocks(network: nn.Module, most: int = MOST_BLOCKS) -> dict[str, list[str]]:
    """Names of parameters by block, in the order of the network: as deep into the modules as stays readable."""
    names = [name for name, _ in network.named_parameters()]
    found: dict[str, list[str]] = {}
    for depth in range(max([1, *(name.count(".") for name in names)]), 0, -1):
        found = {}
        for name in names:
            found.setdefault(".".join(name.split(".")[:-1][:depth]) or name, []).append(name)
        if len(found) <= most:
            break
    return found


def measure(gradients: Sequence[Tensor | None]) -> Tensor:
    """Least, mean and largest |g| of a block, the share of zeros, and NaN in the place of the update: float32 (5,).

    They come to the CPU, since a block without gradients has no device of its own. A parameter without a gradient is
    left out; a block without any counts as zeros.
    """
    there = [gradient.detach() for gradient in gradients if gradient is not None]
    if not there:
        return torch.tensor([0.0, 0.0, 0.0, 1.0, math.nan])
    size = sum(gradient.numel() for gradient in there)
    sizes = [gradient.abs() for gradient in there]  # norms of order 1 and infinity are five times slower
    least, largest = (torch.stack(ends) for ends in zip(*(torch.aminmax(one) for one in sizes), strict=True))
    total = torch.stack([one.sum() for one in sizes]).sum()
    zeros = size - torch.stack([torch.count_nonzero(one) for one in sizes]).sum()
    values = torch.stack([least.min(), total / size, largest.max(), zeros / size, torch.full_like(total, math.nan)])
    return values.float().cpu()


def movement(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Length of the way from old to new weights over that of the old ones, () on the CPU; NaN where these are zero."""
    if not pairs:
        return torch.tensor(math.nan)
    way = torch.stack([(new - old).square().sum() for old, new in pairs]).sum()
    length = torch.stack([old.square().sum() for old, _ in pairs]).sum()
    return torch.where(length > 0, way / length, math.nan).sqrt().cpu()


def trained_blocks(network: nn.Module, found: dict[str, list[str]]) -> np.ndarray:
    """Bool (blocks,): whether anything of a block trains."""
    trains = {name for name, value in network.named_parameters() if value.requires_grad}
    return np.array([not trains.isdisjoint(names) for names in found.values()])


def verdicts(names: Sequence[str], table: np.ndarray, trains: np.ndarray) -> list[str]:
    """What is wrong with the gradients, in words; none where nothing is.

    Args:
        table: float32 (steps, blocks, measures).
        trains: bool (blocks,).
    """
    said: list[str] = []
    if len(table) < 2:
        return said  # before the first step, blocks behind a weight that begins at zero have no gradient either
    means, largest = table[1:, :, 1], table[1:, :, 2]
    dead = trains & (largest == 0).all(axis=0)
    if dead.any():
        said.append(f"no gradient ever reached {_named(names, dead)}: detached, unused, or behind a dead activation")
    alive = trains & ~dead
    if alive.sum() < 2:
        return said
    late = means[-max(1, len(means) // 4) :]
    typical = np.nanmedian(late, axis=0)
    middle = float(np.median(typical[alive]))
    vanished = alive & (typical < VANISHED * middle)
    if vanished.any():
        said.append(
            f"they vanish in {_named(names, vanished)}: less than {VANISHED:g} of the middle block's; look for a "
            "saturated activation, a missing norm or skip connection, or a loss weight that is almost zero"
        )
    exploded = alive & (np.nanmax(largest, axis=0) > EXPLODED)
    if exploded.any():
        said.append(
            f"they explode in {_named(names, exploded)}: up to {np.nanmax(largest[:, exploded]):.3g}; clip them "
            "(training.clip_grad), lower the rate, or warm up longer"
        )
    return said


def gradients_figure(names: Sequence[str], steps: Sequence[int], table: np.ndarray) -> Figure:
    """Mean |g| and relative update of each block over the steps, as heat maps on a logarithmic scale.

    Args:
        table: float32 (steps, blocks, measures).
    """
    figure = Figure(figsize=(13, max(3.0, 1.2 + 0.2 * len(names))), dpi=100)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(0.2, 0.6 / height, 0.98, 1 - 0.4 / height, 0.04)
    panels = figure.subplots(1, 2, squeeze=False)[0]
    for axes, column, title in zip(panels, (1, 4), ("mean |gradient|", "|update| / |weights|"), strict=True):
        values = table[:, :, column].T
        shown = np.log10(np.where(values > 0, values, np.nan))
        image = axes.pcolormesh(shown, cmap="viridis")
        axes.set_facecolor("#d9d9d9")  # zeros, and what was not seen
        axes.set_title(f"{title}, log10; grey: none", fontsize=11, fontweight="bold", loc="left")
        places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 7)).round().astype(int))
        axes.set_xticks(places + 0.5, [str(steps[place]) for place in places])
        axes.set_xlabel("step")
        axes.set_yticks([])
        axes.invert_yaxis()
        figure.colorbar(image, ax=axes, pad=0.01)
    panels[0].set_yticks(np.arange(len(names)) + 0.5, list(names), fontsize=7.5)
    panels[0].tick_params(axis="y", length=0)
    return figure


def _named(names: Sequence[str], chosen: np.ndarray) -> str:
    return listed([name for name, is_one in zip(names, chosen, strict=True) if is_one], 4)


def _sample(parameter: Tensor) -> Tensor:
    return parameter.detach().flatten()[:SAMPLE].float().clone()
