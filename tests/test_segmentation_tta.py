"""Views of images are undone exactly on maps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.tasks.segmentation.tta import VIEWS, TTAModel
from toolkit.errors import UserError

PLANES, LABELS = Head("mask", "mask", ("a", "b")), Head("kind", "multiclass_mask", ("x", "y"))
TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "hflip": lambda image: image[:, :, range(image.shape[2] - 1, -1, -1)],
    "vflip": lambda image: image[:, range(image.shape[1] - 1, -1, -1)],
    "rot90": lambda image: image.transpose(1, 2)[:, range(image.shape[2] - 1, -1, -1)],
}


class Pointwise(nn.Module):
    """Equivariant: each pixel for itself. With `seen` it keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.seen.append(batch["input_image"])
        image = batch["input_image"].float().permute(0, 3, 1, 2) / 40 - 3
        return {
            "output_mask": image[:, :2],
            "output_kind": image,
            "output_mask@presence": image[:, :2].amax((2, 3)),
            "output_mask@stride4": image[:, :2, ::4, ::4],
        }


class Rows(nn.Module):
    """Not equivariant: it adds its row to what it sees."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        image = batch["input_image"].float().permute(0, 3, 1, 2) / 40 - 3
        return {"output_mask": image[:, :2] + torch.arange(image.shape[2]).view(-1, 1) / 10, "output_kind": image}


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"input_image": torch.randint(0, 256, (2, 12, 18, 3), generator=generator).to(torch.uint8), "other": 1}


@pytest.mark.parametrize("views", [[name] for name in VIEWS] + [list(VIEWS)], ids=str)
def test_an_equivariant_model_is_not_changed(views: list[str]) -> None:
    model = Pointwise()
    wanted, found = model(batch()), TTAModel(model, views, [PLANES, LABELS])(batch())
    assert set(found) == {"output_mask", "output_kind", "output_mask@presence"}
    for key in ("output_mask", "output_mask@presence"):
        torch.testing.assert_close(found[key], wanted[key], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["output_kind"].softmax(1), wanted["output_kind"].softmax(1))


@pytest.mark.parametrize("name", TURNS)
def test_the_model_sees_the_view_itself(name: str) -> None:
    model = Pointwise()
    TTAModel(model, [name], [PLANES])(batch())
    torch.testing.assert_close(model.seen[1], TURNS[name](batch()["input_image"]))


def test_an_asymmetric_model_is_undone_where_it_looked() -> None:
    image = batch()["input_image"].float().permute(0, 3, 1, 2)[:, :2] / 40 - 3
    row, column = torch.arange(12).view(-1, 1) / 10, torch.arange(18) / 10
    shifts = {
        "vflip": row.flip(0),  # it saw row r as row 11 - r
        "hflip": row,
        "rot90": column.flip(0),  # the last column came to lie on top
        "rot270": column,
        "rot180": row.flip(0),
    }
    for name, shift in shifts.items():
        found = TTAModel(Rows(), [name], [PLANES])({"input_image": batch()["input_image"]})["output_mask"]
        wanted = ((image + row).sigmoid() + (image + shift).sigmoid()) / 2
        torch.testing.assert_close(found.sigmoid(), wanted, atol=2e-6, rtol=1e-4)


def test_scales_give_maps_of_the_images_size() -> None:
    model = Pointwise()
    smooth = torch.linspace(0, 255, 40).view(1, 1, 40, 1).expand(1, 30, 40, 3).to(torch.uint8)
    found = TTAModel(model, ["scale:0.8", "scale:1.5"], [PLANES])({"input_image": smooth})["output_mask"]
    assert [tuple(seen.shape[1:3]) for seen in model.seen] == [(30, 40), (24, 32), (45, 60)]
    assert {seen.dtype for seen in model.seen} == {torch.uint8}
    wanted = model({"input_image": smooth})["output_mask"]
    assert (found.sigmoid() - wanted.sigmoid())[..., 2:-2].abs().max() < 0.02


@pytest.mark.parametrize("view", ["flip", "scale:", "scale:0", "scale:x", "rot45"])
def test_an_unknown_view_is_refused_with_the_known_ones(view: str) -> None:
    with pytest.raises(UserError, match=r"unknown view .*hflip, vflip, rot90, rot180, rot270, and scale:F"):
        TTAModel(Pointwise(), [view], [PLANES])
