"""docs/weight-perturbation.md does what it says, as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from projects import ROOT, Renders, run_script
from training import demo_project, expect, outcome


def blocks() -> dict[str, str]:
    """Every code block of the page by the file name in its first line."""
    text = (ROOT / "docs/weight-perturbation.md").read_text(encoding="utf-8")
    found = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, flags=re.DOTALL)
    return dict(found)


@pytest.fixture
def perturbation(renders: Renders) -> Iterator[Any]:
    scope: dict[str, Any] = {}
    exec(blocks()["src/competition/perturbation.py"], scope)
    yield scope["WeightPerturbation"]


class Bowl(nn.Module):
    """The loss 0.5 w' A w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.curvature = torch.tensor([[3.0, 1.0], [1.0, 2.0]])

    def loss(self) -> torch.Tensor:
        return 0.5 * self.weight @ self.curvature @ self.weight


@pytest.mark.parametrize("kind", ["sam", "awp", "early"])
def test_the_gradient_is_that_of_the_worst_point_nearby(perturbation: Any, kind: str) -> None:
    model = Bowl()
    run = SimpleNamespace(
        model=model,
        config=SimpleNamespace(seed=0),
        progress=SimpleNamespace(epoch=1, batch=0),
        run_step=lambda stage, batch: {"loss": model.loss()},
    )
    settings = {"sam": {}, "awp": {"relative": True, "add": True}, "early": {"first_epoch": 3}}[kind]
    callback = perturbation(rho=0.1, **settings)
    model.loss().backward()
    weight, gradient = model.weight.detach().clone(), model.weight.grad.clone()
    callback.on_gradients_ready(run)
    length = {"sam": 1.0, "awp": float(weight.norm()), "early": 0.0}[kind]
    there = model.curvature @ (weight + 0.1 * length * gradient / gradient.norm())
    expected = {"sam": there, "awp": there + gradient, "early": gradient}[kind]
    torch.testing.assert_close(model.weight.grad, expected)
    assert torch.equal(model.weight.detach(), weight), "the weights themselves are back where they were"


@pytest.mark.slow
def test_a_project_trains_with_it(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    code = blocks()
    (project / "src/competition/perturbation.py").write_text(code["src/competition/perturbation.py"])
    package = project / "src/competition/__init__.py"
    entry = re.search(r"names = \{(.*)\}", code["src/competition/__init__.py"])
    assert entry is not None
    package.write_text(package.read_text().replace("names={", f"names={{\n        {entry[1]},"))
    yaml = code["experiments/exp030.yaml"].replace("baseline", "small").replace("first_epoch: 3", "first_epoch: 1")
    (project / "experiments/exp030.yaml").write_text(yaml)
    expect(run_script(project, "train.py", "exp030", "--fold", "0"))
    expect(run_script(project, "train.py", "small", "--fold", "0"))
    first, second = outcome(project, "exp030"), outcome(project, "small")
    assert first[1] != second[1], "it changes the training"
    refused = run_script(project, "train.py", "exp030", "training.accumulate=2", "--as", "exp031", "--fold", "0")
    assert "accumulate" in expect(refused, 2).last_line
