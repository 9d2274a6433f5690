"""The learning-rate finder: a short training whose rate grows from step to step (Smith, arXiv:1506.01186).

Model, batches, losses, transforms and precision are those of a training. Nothing of a run is read or written.
"""

import math
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.callbacks import CallbackList
from pipeline.inference.device import choose_device, deterministic
from pipeline.training.fold import choose_folds
from pipeline.training.memory import explained
from pipeline.training.setup import Setup
from pipeline.training.trainer import Trainer
from pipeline.types import Batch
from toolkit.errors import Interrupted, UserError
from toolkit.files import write_text
from toolkit.plots.figures import save_figure
from toolkit.terminal import progress

DIVERGED = 4.0  # times the least smoothed loss: by then nothing is left to see
FEWEST = 10  # steps below which a curve says nothing


def find_learning_rate(
    setup: Setup, fold: str, lowest: float, highest: float, steps: int, overrides: Sequence[str] = ()
) -> None:
    """Run the finder in so many optimiser steps from the `lowest` rate to the `highest`, or until the loss explodes,
    draw `runs/lr_finder/<experiment>.png` with a csv beside it, and say which rate to take.

    Raises:
        UserError: a range or number of steps that cannot be, or a loss that is not finite from the start.
        Interrupted: Ctrl-C; what there was by then is drawn.
    """
    if not 0 < lowest < highest or steps < FEWEST:
        given = f"--min is {lowest:g}, --max {highest:g}, --steps {steps}"
        raise UserError(f"the rates must grow from more than 0 in at least {FEWEST} steps: {given}")
    if fold == "all" or len(choose_folds(setup.folds, fold)) > 1:
        raise UserError("the finder trains on one fold; give --fold a number, or full")
    points: list[tuple[float, float]] = []
    stopped, device = "", choose_device(setup.config.machine.device)
    try:
        with (
            deterministic(setup.config.machine.deterministic),
            tempfile.TemporaryDirectory() as folder,
            closing(Trainer(setup, fold, Path(folder), device)) as trainer,
            explained(trainer),
        ):
            points.extend(_sweep(trainer, np.geomspace(lowest, highest, steps)))
    except KeyboardInterrupt:
        stopped = f"after {len(points)} of {steps} steps"
    if len(points) < FEWEST:
        if stopped:
            raise Interrupted(f"{stopped}, which is too few for a curve")
        raise UserError(f"the loss was no number, or exploded, after {len(points)} steps; lower --min")
    curve, path = make_curve(points), setup.project.runs / "lr_finder" / f"{setup.name}.png"
    save_figure(figure(curve, f"{setup.name}: loss by learning rate"), path)
    write_text(path.with_suffix(".csv"), curve.to_csv(index=False))
    rate, tenth = suggestions(curve).values()
    if rate is None:
        print("no suggestion: the loss never fell; look at the curve, and try a lower --min or more --steps")
    else:
        print(f"{rate:.1e}  where the loss falls fastest: the suggestion")
        print(f"{tenth:.1e}  a tenth of the rate at which the loss is least: the other usual choice")
        others = [text for text in overrides if not text.startswith("optimizer.lr=")]
        settings = shlex.join([*others, f"optimizer.lr={rate:.1e}"])
        names = (f"{setup.name}-lr{number if number > 1 else ''}" for number in range(1, 10_000))
        name = next(name for name in names if not (setup.project.experiments / f"{name}.yaml").exists())
        print(f"to train with it: scripts/train.py {setup.name} {settings} --as {name}")
    print(f"the curve: {setup.project.shown(path)}")
    if stopped:
        raise Interrupted(f"{stopped}; the curve holds what there was")


def _sweep(trainer: Trainer, rates: np.ndarray) -> Iterator[tuple[float, float]]:
    """One optimiser step at each rate; ends when the loss is not finite or has exploded."""
    trainer.callbacks = CallbackList([])
    batches, window, alpha = _endless(trainer), trainer.config.training.accumulate, 2 / (_window(len(rates)) + 1)
    average, least = 0.0, math.inf
    for number, rate in enumerate(progress(rates, "learning rates")):
        trainer.set_learning_rate(rate / trainer.config.optimizer.lr)
        total = 0.0
        for _ in range(window):
            loss = trainer.train_batch(next(batches)) / window
            trainer.scaler.scale(loss).backward()
            total += loss.item()
        trainer.optimizer_step()
        trainer.progress.step += 1
        if not math.isfinite(total):
            return
        yield float(rate), total
        average += alpha * (total - average)
        now = average / (1 - (1 - alpha) ** (number + 1))  # without the zero it began with
        least = min(least, now)
        if now - least > (DIVERGED - 1) * abs(least):
            return


def _endless(trainer: Trainer) -> Iterator[Batch]:
    """Epoch after epoch of batches on the device; the trainer's position goes along, and with it its interventions."""
    while True:
        trainer.epoch_start()
        for batch in trainer.train_batches():
            yield batch
            trainer.progress.batch += 1
        trainer.progress.epoch, trainer.progress.batch = trainer.progress.epoch + 1, 0


def _window(steps: int) -> int:
    """Over how many steps a loss is averaged: a tenth of all, and odd, so that it has a middle."""
    return max(3, steps // 20 * 2 + 1)


def make_curve(points: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Columns `rate`, `loss` and `smoothed`, the mean over the neighbours on both sides, so that no dip is moved."""
    curve = pd.DataFrame(points, columns=["rate", "loss"])
    curve["smoothed"] = curve["loss"]
    for _ in range(2):  # a mean of means has no corners where a wild step enters or leaves it
        curve["smoothed"] = curve["smoothed"].rolling(_window(len(points)), center=True, min_periods=1).mean()
    return curve


def suggestions(curve: pd.DataFrame) -> dict[str, float | None]:
    """The rate at which the smoothed loss falls fastest before its least value, none if it never falls; and a tenth of
    the rate of the least one."""
    least = int(curve["smoothed"].argmin())
    falling, steepest = curve[: least + 1], None
    if least > 1:
        slopes = np.gradient(falling["smoothed"], np.log(falling["rate"]))
        steepest = float(falling["rate"][slopes.argmin()]) if slopes.min() < 0 else None
    return {"steepest": steepest, "a tenth of the least": float(curve["rate"][least]) / 10}


def figure(curve: pd.DataFrame, title: str) -> Figure:
    """The losses by learning rate, raw and smoothed, with what is suggested."""
    drawing = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = drawing.subplots()
    axes.plot(curve["rate"], curve["loss"], color="#e8c9a8", lw=1, label="single steps")
    axes.plot(curve["rate"], curve["smoothed"], color="#1f5fa8", lw=1.8, label="smoothed")
    for (label, rate), color in zip(suggestions(curve).items(), ("#2a8a4a", "#d1731f"), strict=True):
        if rate is not None and curve["rate"].iloc[0] <= rate:
            axes.axvline(rate, color=color, lw=1.5, ls=":", label=f"{label}: {rate:.1e}")
    low, high = curve["smoothed"].min(), max(curve["smoothed"].iloc[0], curve["smoothed"].quantile(0.9))
    margin = 0.2 * (high - low) or 1.0
    limits = (low - margin, high + margin)  # the explosion at the end must not press the rest flat
    axes.set(xscale="log", xlabel="learning rate", ylim=limits)
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    return drawing
