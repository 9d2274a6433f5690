"""Where a decision was made, whatever way the network runs."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.callbacks.grad_cam import explain, grad_cam_figure
from pipeline.competition import Competition, Head
from pipeline.tasks import task_for
from pipeline.types import PreparedModel

TASK = task_for(Competition(None), [Head("label", "multiclass", ("left", "right"))])


class Prepare(nn.Module):
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "input_image": batch["input_image"].movedim(3, 1).float() / 255}


class Network(nn.Module):
    """Says on which side of the image it is brighter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AvgPool2d(2))
        nn.init.ones_(self.encoder[0].weight)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.encoder(batch["input_image"])
        left, right = features[..., :4].sum(dim=(1, 2, 3)), features[..., 4:].sum(dim=(1, 2, 3))
        return {"output_label": torch.stack([left - right, right - left], dim=1)}


def batch_of(column: int) -> dict[str, Any]:
    """A sample with a bright stripe."""
    image = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    image[:, :, column : column + 4] = 255
    return {"input_id": ["a"], "input_image": image, "target_label": torch.tensor([0])}


@pytest.mark.parametrize("compiled", [False, True])
def test_the_heat_lies_where_the_decision_was_made(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks inside a compiled network are not called."""
    model = PreparedModel(Prepare(), Network()).train()
    if compiled:
        monkeypatch.delitem(
            sys.modules, "pipeline.engine", raising=False
        )  # a folder without a file: dynamo looks for it
        model.network.compile(backend="aot_eager", dynamic=False)
        with torch.no_grad():
            model(batch_of(2))
    heat, title = explain(model, TASK, batch_of(10), None)
    assert title == "right"
    assert heat.shape == (16, 16) and heat.max() == 1
    assert heat[:, :8].sum() < 0.05 * heat.sum()
    figure = grad_cam_figure(model, TASK, [batch_of(10), batch_of(2)])()
    assert [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text() in ("left", "right")] == [
        "right",
        "left",
    ]
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_array_equal(heat, explain(model, TASK, batch_of(10), None)[0])
    with torch.no_grad():
        assert model(batch_of(2))["output_label"].argmax() == 0
