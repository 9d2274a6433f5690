"""Gradients block by block: how large, how many zeros, how far they move the weights, and what that means.

At the cadence of `watch.gradient_steps`, for each block of the network: `gradients/<block>/min`, `/mean` and `/max` of
|g|, `/zeros` (share) and `updates/<block>` (length of the optimiser's step over that of the weights). At
`watch.figure_epochs` the histograms `weights/<block>` and `gradients/<block>` of the epoch's last step, before the
optimiser takes it. At the end of a run a picture, `gradients`, and a verdict where something is wrong.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.callbacks import Callback, HostCopy
from pipeline.types import Run, StageResult, Verdict
from toolkit.errors import listed
from toolkit.plots.curves import gradients_figure
from toolkit.terminal import console

MOST_BLOCKS = 48  # in a picture that can still be read
SAMPLE = 4096  # weights of a parameter whose movement is measured, and about as many of a block in a histogram
VANISHED, EXPLODED = 1e-6, 1e4  # times the middle block; and of a gradient itself
SELDOM, LOOKS = 50, 10  # the most steps between two looks, and the fewest looks at a run
MEASURES = ("min", "mean", "max", "zeros", "update")


class Gradients(Callback):
    """Watches gradients and updates of each block of the network."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: list[Tensor] = []  # float32 (blocks, measures) of each of these steps, on the CPU
        self.cadence = 1  # steps from one look to the next
        self.blocks: dict[str, list[str]] = {}
        self.before: dict[str, Tensor] = {}  # a sample of the weights before the step that is looked at
        self.slopes = torch.zeros(0)  # `slopes` of these weights' gradients

    def on_run_start(self, run: Run) -> None:
        self.blocks = blocks(run.model.network)
        steps = run.epochs * math.ceil(run.batches_per_epoch / run.config.training.accumulate)
        self.cadence = run.config.watch.gradient_steps or min(SELDOM, max(1, steps // LOOKS))

    def on_gradients_ready(self, run: Run) -> Verdict:
        now, looks = run.progress, run.progress.step % self.cadence == 0
        draws = now.batch == run.batches_per_epoch - 1 and run.config.watch.draws(now.epoch, run.epochs)
        if not (looks or draws):
            return Verdict.GO
        parameters = dict(run.model.network.named_parameters())
        there = {name: value.grad for name, value in parameters.items() if value.grad is not None}
        if looks and there:
            self.steps.append(now.step)
            self.slopes = slopes(list(there.values()))
            self.before = {name: _sample(parameters[name]).clone() for name in there}
        if draws:
            self._histograms(run, parameters)
        return Verdict.GO

    def on_batch_end(self, run: Run, *_: Any) -> None:
        """The optimiser has stepped since gradients were looked at: how far it went can be seen now."""
        if not self.before:
            return
        parameters, before, tracker = dict(run.model.network.named_parameters()), self.before, run.tracker
        moved = torch._foreach_sub([_sample(parameters[name]) for name in before], list(before.values()))
        lengths = [torch.stack(torch._foreach_norm(each)) for each in (moved, list(before.values()))]
        copy, step = HostCopy(torch.cat([self.slopes, torch.stack(lengths, dim=1)], dim=1)), self.steps[-1]
        counts = [parameters[name].numel() for name in before]
        self.before = {}

        def log() -> None:
            found = dict(zip(before, zip(copy.values(), counts, strict=True), strict=True))
            there = ([found[name] for name in names if name in found] for names in self.blocks.values())
            row = torch.stack([summary(of_block) for of_block in there])
            if not torch.isfinite(row[:, :-1]).all():  # such a step is left out: by fp16's scaler, or `NonFinite`
                self.steps.remove(step)
                return
            self.rows.append(row)
            tags = {}
            for block, numbers in zip(self.blocks, row.tolist(), strict=True):
                values = dict(zip(MEASURES, numbers, strict=True))
                tags[f"updates/{block}"] = values.pop("update")
                tags |= {f"gradients/{block}/{name}": value for name, value in values.items()}
            tracker.scalars({tag: value for tag, value in tags.items() if math.isfinite(value)}, step)

        tracker.later(copy.is_there, log)

    on_sync = on_batch_end  # type: ignore[assignment]

    def _histograms(self, run: Run, parameters: dict[str, nn.Parameter]) -> None:
        tracker, step, found = run.tracker, run.progress.step, dict[str, Tensor]()
        for block, names in self.blocks.items():
            weights = [parameters[name] for name in names]
            for tag, tensors in (("weights", weights), ("gradients", [each.grad for each in weights])):
                if any(each is not None for each in tensors):
                    found[f"{tag}/{block}"] = spread(tensors)
        copy = HostCopy(torch.cat(list(found.values())))

        def log() -> None:
            for tag, values in zip(found, copy.values().split([len(each) for each in found.values()]), strict=True):
                finite = values[torch.isfinite(values)].numpy()
                if len(finite):
                    tracker.histogram(tag, finite, step)

        tracker.later(copy.is_there, log)

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        if not self.rows:
            return
        names, table = list(self.blocks), torch.stack(self.rows).numpy()
        run.tracker.figure("gradients", partial(gradients_figure, names, self.steps, table), run.progress.step)
        trains = {name for name, value in run.model.network.named_parameters() if value.requires_grad}
        trained = np.array([not trains.isdisjoint(found) for found in self.blocks.values()])
        for line in verdicts(np.array(names)[trained], table[:, trained]):
            console().print(f"gradients of fold {run.fold}: {line}", style="yellow", soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        rows = torch.stack(self.rows) if self.rows else torch.zeros(0)
        return {"steps": self.steps[: len(self.rows)], "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.rows = list(state.get("steps", [])), list(state.get("rows", torch.zeros(0)).cpu())


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


def slopes(gradients: Sequence[Tensor]) -> Tensor:
    """Least, sum and largest |g| of each gradient, and its zeros: float32 (N, 4), on their device."""
    rows = []
    for gradient in gradients:
        size = gradient.detach().abs()
        least, largest = torch.aminmax(size)  # norms of order 1 and infinity are five times slower
        rows.append(torch.stack([least, size.sum(), largest, size.numel() - torch.count_nonzero(size)]).float())
    return torch.stack(rows)


def summary(found: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Least, mean and largest |g| of a block, the share of zeros, and how far the weights went: float32 (5,).

    Args:
        found: of each gradient its row of `slopes`, with the lengths of its step and of its weights behind it, on the
            CPU, and its number of values. Without any, a block counts as zeros.
    """
    if not found:
        return torch.tensor([0.0, 0.0, 0.0, 1.0, math.nan])
    least, total, largest, zeros, moved, lengths = torch.stack([row for row, _ in found], dim=1)
    count = sum(number for _, number in found)
    update = torch.linalg.vector_norm(moved) / torch.linalg.vector_norm(lengths)
    return torch.stack([least.min(), total.sum() / count, largest.max(), zeros.sum() / count, update])


def measure(gradients: Sequence[Tensor | None]) -> Tensor:
    """`summary` of a block, with NaN in the place of the update. A parameter without a gradient is left out."""
    there = [gradient for gradient in gradients if gradient is not None]
    rows = torch.nn.functional.pad(slopes(there).cpu(), (0, 2), value=math.nan) if there else ()
    return summary([(row, gradient.numel()) for row, gradient in zip(rows, there, strict=True)])


def spread(tensors: Sequence[Tensor | None]) -> Tensor:
    """A block's weights or gradients, evenly spaced where there are many: float32 (N,), on their device."""
    there = [tensor.detach() for tensor in tensors if tensor is not None]
    every = max(1, -(-sum(tensor.numel() for tensor in there) // SAMPLE))
    return torch.cat([tensor.flatten()[::every].float() for tensor in there])


def _sample(weights: Tensor) -> Tensor:
    return weights.detach().flatten()[:SAMPLE].float()


def verdicts(names: np.ndarray, table: np.ndarray) -> list[str]:
    """What is wrong with gradients of blocks that train, in words, by a table, float32 (steps, blocks, measures)."""
    if len(table) < 2:
        return []  # before the first step, blocks behind a weight that begins at zero have no gradient either
    means, largest = table[1:, :, 1], table[1:, :, 2]
    dead = (largest == 0).all(axis=0)
    typical = np.nanmedian(means[-max(1, len(means) // 4) :], axis=0)
    vanished = ~dead & (typical < VANISHED * np.median(typical[~dead])) if not dead.all() else ~dead
    exploded = np.nanmax(largest, axis=0) > EXPLODED
    found = {
        "no gradient ever reached {}: detached, unused, or behind a dead activation": dead,
        "they vanish in {}: look for a saturated activation, a missing norm or skip, or a tiny loss weight": vanished,
        "they explode in {}: up to {:.3g}; clip them (training.clip_grad), lower the rate, or warm up longer": exploded,
    }
    return [text.format(listed(names[bad], 4), np.nanmax(largest)) for text, bad in found.items() if bad.any()]
