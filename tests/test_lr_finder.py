"""The learning-rate finder: its curve, what it suggests, and what it leaves alone."""

import math
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.training.lr_finder import figure, make_curve, suggestions
from projects import Renders, files, run_script
from training import demo_project, expect

OWN = '''"""Steps that get in the way."""

import torch

from pipeline.types import Batch, StepContext, StepResult
from pipeline.training.step import step


def stopped(batch: Batch, model: torch.nn.Module, context: StepContext, *, after: int = 30) -> StepResult:
    """Ctrl-C after some steps."""
    if context.step == after:
        raise KeyboardInterrupt
    return step(batch, model, context)


def broken(batch: Batch, model: torch.nn.Module, context: StepContext) -> StepResult:
    """A loss that is no number."""
    result = step(batch, model, context)
    return {**result, "loss": result["loss"] * float("nan")}
'''
NAMES = '"step": {"stopped": "competition.own:stopped", "broken": "competition.own:broken"}, '


def sources(project: Path) -> dict[str, bytes]:
    """Every file, without what Python caches beside them."""
    return {name: data for name, data in files(project).items() if "__pycache__" not in name}


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    project = demo_project(renders, tmp_path_factory.mktemp("finder") / "project")
    (project / "src/competition/own.py").write_text(OWN)
    init = project / "src/competition/__init__.py"
    init.write_text(init.read_text().replace("names={", "names={" + NAMES))
    yield project


def curve(project: Path, experiment: str = "small") -> pd.DataFrame:
    folder = project / "runs/lr_finder"
    picture = cv2.imread(str(folder / f"{experiment}.png"))
    assert picture is not None and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20, "something is drawn"
    return pd.read_csv(folder / f"{experiment}.csv")


def test_the_suggestion_of_a_curve_that_is_known(renders: Renders) -> None:
    """Flat, then down a logistic with its middle at 1e-3, up again from 1e-1 on."""
    exponents = np.linspace(-7, 0, 141)
    losses = 1 + 1 / (1 + np.exp(4 * (exponents + 3))) + 5 * np.clip(exponents + 1, 0, None) ** 2
    for seed in range(5):
        noisy = losses + np.random.default_rng(seed).normal(0, 0.1, len(losses))
        found = make_curve([(10**exponent, loss) for exponent, loss in zip(exponents, noisy, strict=True)])
        steepest, tenth = suggestions(found).values()
        assert steepest is not None and tenth is not None
        assert math.log10(steepest) == pytest.approx(-3, abs=0.3), "and not where noise falls at the edge"
        assert -1 < math.log10(tenth) - (exponents[losses.argmin()] - 1) < 0.1, "rather too low than too high"
        assert np.abs(found["smoothed"] - losses)[10:100].max() < 0.12
    axes = figure(found, "a title").axes[0]
    assert axes.get_xscale() == "log" and len(axes.get_legend_handles_labels()[1]) == 4
    rising = make_curve([(10**exponent, 1 + exponent) for exponent in exponents])
    assert suggestions(rising)["steepest"] is None
    assert figure(rising, "only up").axes


@pytest.mark.slow
def test_the_curve_falls_and_rises_and_the_suggestion_trains(project: Path) -> None:
    before = sources(project)
    result = expect(run_script(project, "find_lr.py", "small", "training.batch_size=32", "optimizer.lr=0.5"))
    after = sources(project)
    assert set(after) - set(before) == {"runs/lr_finder/small.png", "runs/lr_finder/small.csv"}
    assert {name: after[name] for name in before} == before
    found = curve(project)
    assert found["rate"].is_monotonic_increasing and found["rate"].iloc[0] == pytest.approx(1e-7)
    ratios = found["rate"] / found["rate"].shift()
    assert ratios.dropna().to_numpy() == pytest.approx(10 ** (7 / 99))
    lowest = found["smoothed"].idxmin()
    start = found["smoothed"].iloc[:20].mean()
    assert start == pytest.approx(math.log(10), abs=0.3), "ten classes, nothing learnt"
    assert found["smoothed"].min() < start - 0.5 and found["smoothed"].iloc[-1] > found["smoothed"].min() + 0.3
    suggestion = float(result.stdout.split("  where the loss falls fastest")[0].split()[-1])
    assert 1e-4 < suggestion < found["rate"].iloc[lowest] <= 0.2
    command = next(line for line in result.stdout.splitlines() if line.startswith("to train with it: "))
    words = shlex.split(command.partition(": ")[2])
    assert words[0] == "scripts/train.py" and words[2] == "training.batch_size=32" and "optimizer.lr=0.5" not in words
    expect(run_script(project, "train.py", *words[1:], "--fold", "0"))
    again = run_script(project, "find_lr.py", "small", "--steps", "20", "--min", "1e-4", "--max", "0.01")
    assert "--as small-lr2" in expect(again).stdout, "the name of the first one is taken"
    metrics = pd.read_csv(project / "runs/small-lr/fold_0/metrics.csv")
    assert metrics["valid/accuracy"].max() > 0.6


@pytest.mark.slow
def test_groups_keep_their_proportions_and_windows_are_whole(project: Path) -> None:
    settings = ["optimizer.layer_decay=0.5", "training.accumulate=3", "training.clip_grad=1", "model.encoder=test_vit"]
    expect(run_script(project, "find_lr.py", "small", *settings, "--steps", "12", "--min", "1e-6", "--max", "1e-3"))
    assert len(curve(project)) == 12


@pytest.mark.slow
def test_a_step_of_the_finder_is_one_of_the_training(project: Path, tmp_path: Path) -> None:
    """Without growth the curve would be the training's own losses: the first ones of both are the same."""
    expect(run_script(project, "find_lr.py", "small", "--steps", "10", "--min", "1e-9", "--max", "2e-9"))
    found = curve(project)["loss"].to_numpy()
    settings = ["optimizer.lr=1e-9", "schedule.name=constant", "schedule.warmup_epochs=0", "tracking.every_steps=1"]
    expect(run_script(project, "train.py", "small", *settings, "training.epochs=1", "--as", "still", "--fold", "0"))
    trained = pd.read_csv(project / "runs/still/fold_0/metrics.csv")["batch/loss"].dropna().to_numpy()
    assert found == pytest.approx(trained[:10], rel=1e-4)


@pytest.mark.slow
def test_ctrl_c_draws_what_there_is(project: Path) -> None:
    result = expect(run_script(project, "find_lr.py", "small", "step=stopped"), 130)
    assert result.last_line == "interrupted: after 30 of 100 steps; the curve holds what there was"
    assert len(curve(project)) == 30
    early = expect(run_script(project, "find_lr.py", "small", "step.name=stopped", "step.params.after=2"), 130)
    assert "after 2 of 100 steps" in early.last_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "--min", "1", "--max", "0.1"], "must grow"),
        (["small", "--min", "0"], "must grow"),
        (["small", "--steps", "3"], "at least 10"),
        (["small", "--fold", "9"], "no fold '9'"),
        (["small", "--fold", "all"], "one fold"),
        (["smal"], "did you mean 'small'"),
        (["small", "optimizer.lrr=1"], "optimizer.lr"),
        (["small", "step=broken"], "the loss was no number, or exploded, after 0 steps"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(project: Path, arguments: list[str], message: str) -> None:
    assert message in expect(run_script(project, "find_lr.py", *arguments), 2).last_line
