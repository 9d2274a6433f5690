"""Schedules, against torch's own and hand-worked numbers."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.optim import lr_scheduler

from pipeline.registry import Registry, Spec
from pipeline.training import NAMES
from pipeline.training.schedules import AdaptiveFactor, Plateau, constant, cosine, flat_cosine, linear, step
from projects import Renders, run_script
from toolkit.errors import UserError
from training import assert_same_outcome, demo_project, expect, outcome


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[None]:
    yield


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The rates that one of torch's schedulers gives to a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def test_the_warm_up_is_linear_and_the_cosine_ends_at_its_floor() -> None:
    factor = cosine(110, 10, final=0.1)
    assert [factor(step) for step in (0, 4)] == pytest.approx([1 / 11, 5 / 11])
    assert factor(10) == pytest.approx(1)
    assert factor(60) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert factor(110) == factor(500) == pytest.approx(0.1)
    assert constant(100, 0)(0) == 1
    assert [constant(100, 3)(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_cosine_linear_and_step_are_torchs() -> None:
    steps = 40
    assert [cosine(steps, 0, final=0.2)(i) for i in range(steps)] == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.2), steps), abs=1e-6
    )
    assert [linear(steps, 0, final=0.2)(i) for i in range(steps)] == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.2, steps), steps), abs=1e-6
    )
    assert [step(steps, 0, milestones=(0.5, 0.75, 0.9), gamma=0.3)(i) for i in range(steps)] == pytest.approx(
        torchs(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [20, 30, 36], 0.3), steps), abs=1e-6
    )
    warm = step(steps, 4, milestones=(0.5,), gamma=0.3)
    assert [warm(i) for i in (0, 3, 4, 19, 20)] == pytest.approx([0.2, 0.8, 1, 1, 0.3])


def test_flat_cosine_is_flat_and_then_a_cosine() -> None:
    factor = flat_cosine(100, 10, flat=0.6, final=0.2)
    assert [factor(i) for i in (0, 9, 10, 59, 60)] == pytest.approx([1 / 11, 10 / 11, 1, 1, 1])
    assert factor(80) == pytest.approx(0.6), "half way down from 1 to 0.2"
    assert factor(100) == factor(120) == pytest.approx(0.2)
    late = flat_cosine(100, 80, flat=0.6)
    assert late(79) == pytest.approx(80 / 81) and late(80) == 1 and late(90) == pytest.approx(0.5)


SCORES = [0.5, 0.6, 0.6, 0.60005, 0.59, 0.7, math.nan, 0.69, 0.7, 0.4, 0.3, math.nan, 0.2]


@pytest.mark.parametrize("greater_is_better", [True, False])
def test_plateau_is_torchs(greater_is_better: bool) -> None:
    scores = SCORES if greater_is_better else [-score for score in SCORES]  # below zero as well
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if greater_is_better else "min", 0.5, 1, 1e-3, threshold_mode="abs", min_lr=0.2
    )
    factor = Plateau(100, 4, factor=0.5, patience=1, threshold=1e-3, min_rate=0.2)
    assert isinstance(factor, AdaptiveFactor) and not isinstance(cosine(100, 4), AdaptiveFactor)
    assert factor(1) == pytest.approx(0.4), "the warm-up first"
    rates = []
    for score in scores:
        scheduler.step(score)
        factor.observe(score, greater_is_better, math.inf)
        rates.append(factor(50))
        assert rates[-1] == optimizer.param_groups[0]["lr"]
    assert rates[:4] == [1, 1, 1, 0.5], "0.60005 is no improvement by the threshold"
    assert rates[-1] == 0.2, "the floor"


def test_of_equal_scores_a_lower_loss_is_an_improvement() -> None:
    rates = []
    for losses in ([0.9, 0.5, 0.2, 0.1, 0.05], [0.9, 0.9, 1.0, 0.95, 0.99]):
        factor = Plateau(100, 0, factor=0.5, patience=1)
        for loss in losses:
            again = Plateau(100, 0, factor=0.5, patience=1)
            again.load_state_dict(factor.state_dict())
            again.observe(1.0, True, loss)
            factor = again
        rates.append(factor(0))
    assert rates == [1, 0.25]


def test_plateau_goes_on_where_it_stood() -> None:
    whole = Plateau(100, 4, factor=0.5, patience=1)
    for score in SCORES:
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        file.seek(0)
        again = Plateau(100, 4, factor=0.5, patience=1)
        again.load_state_dict(torch.load(file, weights_only=True))
        for factor in (whole, again):
            factor.observe(score, True, math.inf)
        assert again.state_dict() == whole.state_dict() and again(50) == whole(50)


def test_nan_from_the_first_epoch_is_no_improvement() -> None:
    factor = Plateau(100, 0, factor=0.5, patience=1)
    for _ in range(2):
        factor.observe(math.nan, True, math.inf)
    assert factor(0) == 0.5
    factor.observe(0.1, True, math.inf)
    assert factor.state_dict()["best"] == 0.1


def test_every_schedule_by_name_stays_between_zero_and_the_peak() -> None:
    for name in NAMES["schedule"]:
        for steps, warmup in ((1, 0), (1, 5), (20, 0), (20, 3), (20, 20)):
            factor = Registry(NAMES).bind("schedule", Spec(name=name))(steps, warmup)
            assert all(0 <= factor(step) <= 1 for step in range(steps + 1)), name


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("step", {"milestones": (10, 20)}, "milestones: 10 is no share"),
        ("cosine", {"final": -0.1}, "final is -0.1"),
        ("flat_cosine", {"flat": 1.5}, "flat: 1.5 is no share"),
        ("plateau", {"factor": 2.0}, "factor: 2 is no share"),
        ("plateau", {"patience": -1}, "patience"),
    ],
)
def test_numbers_that_cannot_be(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Registry(NAMES).bind("schedule", Spec(name=name, params=params))(100, 10)


LEAVE = '''"""Ctrl-C at a batch, once."""

import os
import signal

from pipeline.callbacks import Callback


class Leave(Callback):
    def on_batch_start(self, run, stage, batch):
        flag = run.folder / "left"
        if run.experiment == "left" and (run.progress.epoch, run.progress.batch) == (2, 3) and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)
'''
PLATEAU = [
    "training.epochs=4",
    "training.batch_size=128",
    "tracking.every_steps=1",
    "schedule.name=plateau",
    "schedule.warmup_epochs=0",
    "schedule.params={factor: 0.5, patience: 0, threshold: 100}",  # nothing is ever so much better
    "callbacks=[leave]",
]


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["loss", "metric"])
def test_a_real_training_falls_at_its_plateaus_and_goes_on_there(
    renders: Renders, tmp_path: Path, monitor: str
) -> None:
    project = demo_project(renders, tmp_path / "project")
    (project / "src/competition/leave.py").write_text(LEAVE)
    init = project / "src/competition/__init__.py"
    init.write_text(init.read_text().replace("names={", 'names={"callback": {"leave": "competition.leave:Leave"}, '))
    settings = [*PLATEAU, f"training.monitor={monitor}", "optimizer.lr=0.001"]
    expect(run_script(project, "train.py", "small", *settings, "--as", "whole", "--fold", "0"))
    metrics = pd.read_csv(project / "runs/whole/fold_0/metrics.csv").dropna(subset=["lr/group_0"])
    rates = metrics.groupby(metrics["epoch"].astype(int))["lr/group_0"].unique().tolist()
    assert [list(each) for each in rates] == [[0.001], [0.001], [0.0005], [0.00025]], "the first epoch is the best"
    expect(run_script(project, "train.py", "small", *settings, "--as", "left", "--fold", "0"), 130)
    expect(run_script(project, "train.py", "left", "--fold", "0"))
    assert_same_outcome(outcome(project, "whole"), outcome(project, "left"))


@pytest.mark.slow
def test_where_nothing_is_held_out_a_plateau_is_one_of_the_training_loss(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    settings = [*PLATEAU[:-1], "training.epochs=3"]
    expect(run_script(project, "train.py", "small", *settings, "--as", "everything", "--fold", "full"))
    metrics = pd.read_csv(project / "runs/everything/fold_full/metrics.csv").dropna(subset=["lr/group_0"])
    assert metrics["lr/group_0"].iloc[-1] == pytest.approx(metrics["lr/group_0"].iloc[0] / 2)
