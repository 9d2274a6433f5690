"""The learning-rate finder: a short training whose rate grows from step to step (Smith, arXiv:1506.01186).

Model, batches, losses, transforms and precision are those of a training. Nothing of a run is read or written.
"""

import math
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.inference.device import choose_device
from pipeline.training.fold import choose_folds
from pipeline.training.model import freeze
from pipeline.training.optimizer import clip_gradients, set_learning_rate
from pipeline.training.setup import Setup
from pipeline.training.trainer import Trainer
from pipeline.types import Batch
from toolkit.errors import Interrupted, UserError
from toolkit.files import atomic
from toolkit.plots.figures import save_figure
from toolkit.terminal import console, progress_bar

DIVERGED = 4.0  # times the least smoothed loss: by then nothing is left to see
FEWEST = 10  # steps below which a curve says nothing
RAW, SMOOTH, CHOSEN, LEAST = "#e8c9a8", "#1f5fa8", "#2a8a4a", "#d1731f"


@dataclass(frozen=True)
class Curve:
    """Losses by learning rate.

    Attributes:
        rates: float64 (N,), those of the group with `optimizer.lr`, growing.
        losses: float64 (N,), before each step.
        smoothed: float64 (N,), the losses averaged over their neighbours on both sides, so that no dip is moved.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, before its least value; none if it never falls."""
        end = int(self.smoothed.argmin()) + 1
        if end < 3:
            return None
        slopes = np.gradient(self.smoothed[:end], np.log(self.rates[:end]))
        return float(self.rates[slopes.argmin()]) if slopes.min() < 0 else None

    @property
    def tenth(self) -> float:
        """A tenth of the rate of the least smoothed loss."""
        return float(self.rates[self.smoothed.argmin()]) / 10


def find_learning_rate(
    setup: Setup, fold: str, lowest: float, highest: float, steps: int, overrides: Sequence[str] = ()
) -> None:
    """Run the finder, draw `runs/lr_finder/<experiment>.png` with a csv beside it, and say which rate to take.

    Args:
        fold: whose training rows are used: a number, or `full`.
        lowest, highest: the rates of the first and the last step.
        steps: optimiser steps; it ends earlier when the loss explodes.
        overrides: those of the command line, for the command that trains with the suggestion.

    Raises:
        UserError: a range or number of steps that cannot be, or a loss that is not finite from the start.
        Interrupted: Ctrl-C; what there was by then is drawn.
    """
    if not 0 < lowest < highest:
        raise UserError(f"the rates must grow from more than 0: --min is {lowest:g} and --max {highest:g}")
    if steps < FEWEST:
        raise UserError(f"--steps is {steps}; a curve needs at least {FEWEST}")
    if len(choose_folds(setup.folds, fold)) > 1 or fold == "all":
        raise UserError("the finder trains on one fold; give --fold a number, or full")
    points: list[tuple[float, float]] = []
    stopped = False
    with tempfile.TemporaryDirectory() as folder:
        device = choose_device(setup.config.machine.device)
        trainer = Trainer(setup, fold, Path(folder), device, tracked=False)
        try:
            with trainer:
                for point in _sweep(trainer, np.geomspace(lowest, highest, steps)):
                    points.append(point)
        except KeyboardInterrupt:
            stopped = True
    if len(points) < FEWEST:
        if stopped:
            raise Interrupted(f"after {len(points)} steps, which is too few for a curve")
        raise UserError(f"the loss was no number, or exploded, after {len(points)} steps; lower --min")
    curve = make_curve(points)
    path = _save(curve, setup, setup.project.runs / "lr_finder")
    taken = {file.stem for file in setup.project.experiments.glob("*.yaml")}
    names = (f"{setup.name}-lr{number or ''}" for number in (0, *range(2, len(taken) + 3)))
    _report(curve, setup.name, overrides, next(name for name in names if name not in taken))
    print(f"the curve: {path}")
    if stopped:
        raise Interrupted(f"after {len(points)} of {steps} steps; the curve holds what there was")


def make_curve(points: Sequence[tuple[float, float]]) -> Curve:
    """The curve of (rate, loss) in the order of the steps."""
    rates, losses = np.array(points, dtype=np.float64).T
    smoothed = pd.Series(losses)
    for _ in range(2):  # a mean of means has no corners where a wild step enters or leaves it
        smoothed = smoothed.rolling(_window(len(points)), center=True, min_periods=1).mean()
    return Curve(rates, losses, smoothed.to_numpy())


def figure(curve: Curve, title: str) -> Figure:
    """The losses by learning rate, raw and smoothed, with what is suggested."""
    drawing = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = drawing.subplots()
    axes.plot(curve.rates, curve.losses, color=RAW, lw=1, label="single steps")
    axes.plot(curve.rates, curve.smoothed, color=SMOOTH, lw=1.8, label="smoothed")
    marks = [(curve.steepest, CHOSEN, "steepest"), (curve.tenth, LEAST, "a tenth of the least")]
    for rate, color, label in marks:
        if rate is not None and curve.rates[0] <= rate <= curve.rates[-1]:
            height = float(np.interp(math.log(rate), np.log(curve.rates), curve.smoothed))
            axes.axvline(rate, color=color, lw=1, ls=":")
            axes.plot([rate], [height], "D", color=color, ms=6, zorder=3, label=f"{label}: {rate:.1e}")
    low, high = min(curve.losses.min(), curve.smoothed.min()), max(curve.smoothed[0], np.quantile(curve.smoothed, 0.9))
    margin = 0.1 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + 3 * margin)  # the explosion at the end must not press the rest flat
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left", parse_math=False)
    axes.grid(color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5)
    return drawing


def _sweep(trainer: Trainer, rates: np.ndarray) -> Iterator[tuple[float, float]]:
    """One optimiser step at each rate; ends when the loss is not finite or has exploded."""
    batches = _endless(trainer)
    smoothed, least, weight = 0.0, math.inf, 2 / (_window(len(rates)) + 1)
    with progress_bar(console()) as bar:
        for number, rate in enumerate(bar.track(rates, description="learning rates")):
            set_learning_rate(trainer.optimizer, rate / trainer.config.optimizer.lr)
            loss = _step(trainer, batches)
            if not math.isfinite(loss):
                return
            yield float(rate), loss
            smoothed += weight * (loss - smoothed)
            now = smoothed / (1 - (1 - weight) ** (number + 1))  # without the zero it began with
            least = min(least, now)
            if now - least > (DIVERGED - 1) * abs(least):
                return


def _window(steps: int) -> int:
    """Over how many steps a loss is averaged: a tenth of all, and odd, so that it has a middle."""
    return max(3, steps // 20 * 2 + 1)


def _step(trainer: Trainer, batches: Iterator[Batch]) -> float:
    """An optimiser step on a whole accumulation window; returns its mean loss."""
    window = trainer.config.training.accumulate
    scaler, total = trainer.scaler, 0.0
    for _ in range(window):
        batch = next(batches)
        loss = trainer.run_step("train", batch)["loss"] / window
        scaler.scale(loss).backward()
        total += loss.item()
    scaler.unscale_(trainer.optimizer)
    clip_gradients(trainer.model, trainer.config.training)
    scaler.step(trainer.optimizer)
    scaler.update()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.progress.step += 1
    return total


def _endless(trainer: Trainer) -> Iterator[Batch]:
    """Epoch after epoch of batches on the device; the trainer's position goes along, and with it its interventions."""
    while True:
        trainer.model.train()
        freeze(trainer.model.network, trainer.phases.at(trainer.progress.epoch).config.model)
        for batch in trainer.train_batches():
            yield batch
            trainer.progress.batch += 1
        trainer.progress.epoch, trainer.progress.batch = trainer.progress.epoch + 1, 0


def _save(curve: Curve, setup: Setup, folder: Path) -> str:
    """Write picture and numbers; returns the picture's path as a user would type it."""
    path = folder / f"{setup.name}.png"
    save_figure(figure(curve, f"{setup.name}: loss by learning rate"), path)
    numbers = pd.DataFrame({"rate": curve.rates, "loss": curve.losses, "smoothed": curve.smoothed})
    with atomic(path.with_suffix(".csv")) as temporary:
        numbers.to_csv(temporary, index=False)
    return setup.project.shown(path)


def _report(curve: Curve, experiment: str, overrides: Sequence[str], name: str) -> None:
    if curve.steepest is None:
        print("no suggestion: the loss never fell; look at the curve, and try a lower --min or more --steps")
        return
    print(f"{curve.steepest:.1e}  where the loss falls fastest: the suggestion")
    print(f"{curve.tenth:.1e}  a tenth of the rate at which the loss is least: the other usual choice")
    kept = [text for text in overrides if not text.startswith("optimizer.lr=")]
    settings = shlex.join([*kept, f"optimizer.lr={curve.steepest:.1e}"])
    print(f"to train with it: scripts/train.py {experiment} {settings} --as {name}")
