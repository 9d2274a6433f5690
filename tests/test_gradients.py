"""Gradients by block against NumPy, planted faults that a verdict names, and the alarm of a slow loader."""

import copy
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config import parse_experiment
from pipeline.trackers import Trackers
from pipeline.types import Progress
from projects import Renders, run_script
from training import demo_project, expect, register

DEAD = """import torch
from torch import nn


class Encoder(nn.Module):
    '''Its first block is detached.'''

    def __init__(self, in_chans, pretrained):
        super().__init__()
        self.num_features = 8
        self.first = nn.Conv2d(in_chans, 8, 3, stride=4)
        self.second = nn.Conv2d(8, 8, 3, stride=2)

    def forward(self, image):
        return self.second(self.first(image).relu().detach()).mean(dim=(2, 3))
"""
SLOW = """import time

import cv2


def slow(path, size):
    time.sleep(0.01)
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
"""


@pytest.fixture(scope="module")
def gradients() -> Iterator[SimpleNamespace]:
    yield importlib.import_module("pipeline.callbacks.gradients")


def test_measures_equal_numpy(gradients: SimpleNamespace) -> None:
    parts = [torch.randn(3, 4), torch.zeros(5), torch.randn(2)]
    values = np.concatenate([np.abs(part.numpy()).ravel() for part in parts])
    expected = [values.min(), values.mean(), values.max(), 5 / 19]
    found = gradients.measure([parts[0], None, *parts[1:]])
    np.testing.assert_allclose(found[:4].numpy(), expected, rtol=1e-6)
    assert gradients.measure([None])[:4].tolist() == [0, 0, 0, 1]


def test_looks_of_a_continued_run_on_a_gpu_are_saved(gradients: SimpleNamespace) -> None:
    """Tensors of torch's fake mode know where they are, and no device is needed: CPU and GPU do not mix."""
    with FakeTensorMode():
        with torch.device("cuda:0"):
            layer, frozen = nn.Linear(4, 2), nn.Linear(2, 2)
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)

        def look() -> torch.Tensor:
            parts = [[parameter.grad for parameter in part.parameters()] for part in (frozen, layer)]
            return torch.stack([gradients.measure(part) for part in parts])

        before, after = gradients.Gradients(), gradients.Gradients()
        before.steps, before.rows = [0], [look()]
        after.load_state_dict(before.state_dict())
        after.steps, after.rows = [0, 1], [*after.rows, look()]
        assert after.state_dict()["rows"].shape == (2, 2, len(gradients.MEASURES))


def watched(network: nn.Module, **settings: Any) -> tuple[Any, dict[str, float], dict[str, Any]]:
    """A run as far as the callback sees one, and what is logged of numbers and of histograms."""
    logged, drawn = dict[str, float](), dict[str, Any]()
    tracker = SimpleNamespace(
        scalars=lambda values, step: logged.update(values),
        histogram=lambda name, values, step: drawn.update({name: values}),
    )
    config = parse_experiment({"watch": {"gradient_steps": 1, **settings}}, "test")
    run = SimpleNamespace(config=config, epochs=1, batches_per_epoch=4, model=SimpleNamespace(network=network))
    run.progress, run.tracker = Progress(), Trackers({"log": tracker})
    return run, logged, drawn


def test_a_state_that_is_saved_after_a_look_holds_all_of_it(gradients: SimpleNamespace) -> None:
    """How far the optimiser went is measured before; the layer that no loss reached goes nowhere."""
    network = nn.ModuleDict({"reached": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    network["reached"](torch.ones(1, 2)).sum().backward()
    run, logged, _ = watched(network)
    first, continued = gradients.Gradients(), gradients.Gradients()
    first.on_run_start(run)
    first.on_gradients_ready(run)
    with torch.no_grad():
        network["reached"].weight.mul_(2)
        network["reached"].bias.mul_(2)
    first.on_sync(run)
    run.tracker.flush()
    assert {tag: value for tag, value in logged.items() if tag.startswith("updates/")} == {
        "updates/reached": pytest.approx(1.0)
    }
    assert logged["gradients/unused/zeros"] == 1
    continued.load_state_dict(copy.deepcopy(first.state_dict()))
    continued.on_run_start(run)
    continued.on_batch_end(run, "train", {}, {})
    assert continued.steps == [0] and len(continued.rows) == 1
    torch.testing.assert_close(continued.rows[0], first.rows[0], equal_nan=True, rtol=0, atol=0)


def test_a_step_that_is_left_out_is_no_look(gradients: SimpleNamespace) -> None:
    """Such as one whose gradients overflowed in fp16: the scaler leaves it out, and nothing explodes."""
    network = nn.Linear(2, 2)
    run, logged, drawn = watched(network, figure_epochs=1)
    callback = gradients.Gradients()
    callback.on_run_start(run)
    for step, slope in enumerate([torch.inf, 1.0, torch.nan, 2.0]):
        run.progress = Progress(batch=step, step=step)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, slope)
        callback.on_gradients_ready(run)
        callback.on_batch_end(run, "train", {}, {})
    assert callback.steps == [1, 3] and len(callback.state_dict()["rows"]) == 2
    assert logged["gradients/weight/max"] == 2
    assert drawn["gradients/weight"].tolist() == [2] * 4 and len(drawn["weights/bias"]) == 2


def test_blocks_stay_few(gradients: SimpleNamespace) -> None:
    network = nn.Sequential(*[nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)]) for _ in range(20)])
    assert list(gradients.blocks(network)) == [str(number) for number in range(20)], "80 layers are too many to read"
    assert len(gradients.blocks(network, most=100)) == 80
    names = [name for found in gradients.blocks(network).values() for name in found]
    assert names == [name for name, _ in network.named_parameters()], "each parameter once, in its order"


def test_verdicts_name_the_block(gradients: SimpleNamespace) -> None:
    names = np.array(["a", "b", "c", "d"])
    healthy = np.tile(np.array([1e-5, 1e-3, 1e-2, 0.1, 1e-3], np.float32), (8, 4, 1))
    assert gradients.verdicts(names, healthy) == []
    for block, column, value, words in (
        (0, [1, 2], 0.0, "no gradient ever reached a"),
        (1, [1], 1e-12, "vanish in b"),
        (3, [2], 1e6, "explode in d: up to 1e+06"),
    ):
        table = healthy.copy()
        table[:, block, column] = value
        [said] = gradients.verdicts(names, table)
        assert words in said


@pytest.mark.parametrize(
    ("epochs", "asked", "expected"),
    [(1, None, list(range(8))), (6, None, list(range(0, 48, 4))), (80, None, list(range(0, 640, 50))), (1, 5, [0, 5])],
)
def test_a_short_run_is_looked_at_ten_times(
    gradients: SimpleNamespace, epochs: int, asked: int | None, expected: list[int]
) -> None:
    network, batches, accumulate = nn.Linear(2, 2), 24, 3
    network(torch.ones(1, 2)).sum().backward()
    settings = {"watch": {"gradient_steps": asked, "figure_epochs": 0}, "training": {"accumulate": accumulate}}
    config = parse_experiment(settings, "test")
    run = SimpleNamespace(
        config=config, epochs=epochs, batches_per_epoch=batches, model=SimpleNamespace(network=network)
    )
    callback = gradients.Gradients()
    callback.on_run_start(run)
    for step in range(epochs * batches // accumulate):
        run.progress = Progress(step=step)
        callback.on_gradients_ready(run)
    assert callback.steps == expected


@pytest.mark.slow
def test_a_dead_block_and_a_slow_loader_are_said(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    for name, code in (("dead", DEAD), ("slow", SLOW)):
        (project / f"src/competition/{name}.py").write_text(code)
    register(project, "encoder", {"dead": "competition.dead:Encoder"})
    register(project, "reader", {"slow": "competition.slow:slow"})
    few = ["training.max_rows=256", "training.batch_size=16"]
    settings = [*few, "watch.gradient_steps=4", "image.reader=slow", "--as", "sick", "--fold", "0"]
    said = expect(run_script(project, "train.py", "small", "model.encoder=dead", *settings)).stdout
    assert re.search(r"no gradient ever reached encoder\.first", said), said
    alarm = re.findall(r"the loader holds the training up: (\d+)% of epoch 1 .*machine.workers.*image.cache", said)
    assert len(alarm) == 1, "said once, with what to try"
    assert int(alarm[0]) > 60
    folder = project / "runs/sick/fold_0"
    table = pd.read_csv(folder / "gradients.csv")
    assert table["step"].tolist() == list(range(0, 32, 4))
    assert (table["gradients/encoder.first/zeros"] == 1).all()
    assert (table["updates/encoder.second"] > 0).all()
    assert (folder / "figures/gradients.png").is_file()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["time/data_share"].dropna().between(0.3, 1).all()
    assert metrics["momentum/group_0"].dropna().eq(0.9).all()
