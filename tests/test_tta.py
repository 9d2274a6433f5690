"""Views of images: undone on maps, put back where classes swap, refused where a head does not know them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.competition import Competition, Head
from pipeline.config import parse_experiment
from pipeline.data import NAMES
from pipeline.inference.tta import TTAModel, View, views_of
from pipeline.registry import Registry
from pipeline.tasks import task_for
from toolkit.errors import UserError

VIEWS = ("hflip", "vflip", "rot90", "rot180", "rot270")
PLANES, LABELS = Head("mask", "mask", ("a", "b")), Head("kind", "multiclass_mask", ("x", "y"))
OWN = {"view": {"brighter": "test_tta:brighter", "nothing": "test_tta:nothing"}}
TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "hflip": lambda image: image[:, :, range(image.shape[2] - 1, -1, -1)],
    "vflip": lambda image: image[:, range(image.shape[1] - 1, -1, -1)],
    "rot90": lambda image: image.transpose(1, 2)[:, range(image.shape[2] - 1, -1, -1)],
}


def brighter(*, by: float = 2) -> View:
    """A competition's own."""
    return View(lambda images: (images.float() * by).clamp(0, 255).to(images.dtype), lambda maps, _: maps, moves=False)


def nothing() -> None:
    """No view."""


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


class Sides(nn.Module):
    """Logits of a left, a middle and a right part: how bright each of them is."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        parts = batch["input_image"].float().mean(dim=(1, 3)).chunk(3, dim=1)
        return {"output_side": torch.stack([part.mean(dim=1) for part in parts], dim=1) / 40}


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"input_image": torch.randint(0, 256, (2, 12, 18, 3), generator=generator).to(torch.uint8), "other": 1}


def viewed(model: nn.Module, views: Sequence[object], heads: Sequence[Head], each: bool = False) -> TTAModel:
    task = task_for(Competition(None), heads)  # type: ignore[arg-type]
    return TTAModel(model, task, parse_experiment({"tta": list(views)}, "test"), Registry(NAMES, OWN), each)


@pytest.mark.parametrize("views", [[name] for name in VIEWS] + [list(VIEWS)], ids=str)
def test_an_equivariant_model_is_not_changed(views: list[str]) -> None:
    model = Pointwise()
    wanted, [found] = model(batch()), viewed(model, views, [PLANES, LABELS])(batch())
    assert set(found) == {"output_mask", "output_kind", "output_mask@presence"}
    several = viewed(model, views, [PLANES, LABELS], each=True)(batch())
    assert len(several) == 1 + len(views)
    for outputs in (found, *several):
        for key in ("output_mask", "output_mask@presence"):
            torch.testing.assert_close(outputs[key], wanted[key], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs["output_kind"].softmax(1), wanted["output_kind"].softmax(1))


@pytest.mark.parametrize("name", TURNS)
def test_the_model_sees_the_view_itself(name: str) -> None:
    model = Pointwise()
    viewed(model, [name], [PLANES])(batch())
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
        found = viewed(Rows(), [name], [PLANES])({"input_image": batch()["input_image"]})[0]["output_mask"]
        wanted = ((image + row).sigmoid() + (image + shift).sigmoid()) / 2
        torch.testing.assert_close(found.sigmoid(), wanted, atol=2e-6, rtol=1e-4)


def test_scales_give_maps_of_the_images_size() -> None:
    model = Pointwise()
    smooth = torch.linspace(0, 255, 40).view(1, 1, 40, 1).expand(1, 30, 40, 3).to(torch.uint8)
    found = viewed(model, ["scale:0.8", "scale:1.5"], [PLANES])({"input_image": smooth})[0]["output_mask"]
    assert [tuple(seen.shape[1:3]) for seen in model.seen] == [(30, 40), (24, 32), (45, 60)]
    assert {seen.dtype for seen in model.seen} == {torch.uint8}
    wanted = model({"input_image": smooth})["output_mask"]
    assert (found.sigmoid() - wanted.sigmoid())[..., 2:-2].abs().max() < 0.02


def test_a_crop_is_a_part_at_the_size_of_the_whole() -> None:
    seen: list[Tensor] = []

    class Sees(nn.Module):
        def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            seen.append(batch["input_image"])
            return {}

    corner = {"name": "crop", "params": {"by": 0.5, "place": [0, 1]}}
    viewed(Sees(), ["crop:0.5", corner], [Head("side", "multiclass", ("a", "b"))])(batch())
    whole, middle, right = (each.float() for each in seen)
    assert middle.shape == right.shape == whole.shape
    inside, above = whole[:, 3:9, 4:13], whole[:, :6, 9:]
    assert abs(middle.mean() - inside.mean()) < 4 and abs(right.mean() - above.mean()) < 4
    torch.testing.assert_close(right[:, 0, -1], whole[:, 0, -1])  # the corner itself


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_classes_that_swap_under_a_view_are_put_back(kind: str) -> None:
    pairs = {"hflip": [("left", "right")], "vflip": []}
    head = Head("side", kind, ("left", "middle", "right"), swaps=pairs)
    outputs = viewed(Sides(), ["hflip", "vflip", "brighter:0.5"], [head])(batch())
    plain, mirrored, upside_down, darker = (each["output_side"] for each in outputs)
    torch.testing.assert_close(mirrored, plain)
    torch.testing.assert_close(upside_down, plain)
    torch.testing.assert_close(darker, plain / 2, atol=0.02, rtol=0)
    unswapped = viewed(Sides(), ["hflip"], [Head("side", kind, head.classes)])(batch())[1]["output_side"]
    torch.testing.assert_close(unswapped, plain.flip(1))


def test_maps_of_classes_swap_behind_the_background() -> None:
    class Lungs(nn.Module):
        """Each half is one lung; the logits of background, left and right, and which is there at all."""

        def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            image = batch["input_image"].float()[..., 0]
            left = torch.where(torch.arange(18) < 9, image, -image) / 40
            return {"output_lung": torch.stack([image, left, -left], 1), "output_lung@presence": image[:, 0, :2]}

    head = Head("lung", "multiclass_mask", ("left", "right"), swaps={"hflip": [("left", "right")]})
    plain, mirrored = viewed(Lungs(), ["hflip"], [head], each=True)(batch())
    torch.testing.assert_close(mirrored["output_lung"].softmax(1), plain["output_lung"].softmax(1), atol=1e-5, rtol=0)
    image = batch()["input_image"].float()
    torch.testing.assert_close(mirrored["output_lung@presence"].sigmoid(), image[:, 0, -2:, 0].sigmoid())


SIDES = ("left", "right")


@pytest.mark.parametrize(
    ("view", "head", "message"),
    [
        ("flip", PLANES, r"unknown view 'flip'; did you mean '.flip'"),
        ("scale:", PLANES, r"unknown view 'scale:'; did you mean 'scale'"),
        ("scale:0", PLANES, r"scale:0 is outside 0.1 to 10"),
        ("scale:x", PLANES, r"view 'scale': 'by'.*number"),
        ("crop:0.9", PLANES, r"'mask' has maps, which cannot be changed back under 'crop:0.9"),
        ("crop:2", Head("side", "multiclass", SIDES), r"crop:2 .*is no part of an image"),
        ("nothing", Head("side", "multiclass", SIDES), r"view 'nothing' gives a NoneType"),
        ("rot90", Head("side", "multiclass", SIDES, swaps={"hflip": [SIDES]}), r"'side' does not say which .* 'rot90'"),
        ("hflip", Head("side", "multiclass", SIDES, swaps={"hflip": [("left", "rigt")]}), r"'rigt' is none.*'right'"),
        ("hflip", Head("side", "ordinal", SIDES, swaps={"hflip": [SIDES]}), r"a head with an output for each class"),
    ],
)
def test_a_view_that_cannot_be_undone_is_refused(view: str, head: Head, message: str) -> None:
    with pytest.raises(UserError, match=message):
        viewed(Pointwise(), [view], [head])


def test_a_scale_that_an_encoder_of_one_size_refuses_is_named() -> None:
    class Fixed(nn.Module):
        def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            assert batch["input_image"].shape[1] == 12, "Input height doesn't match model"
            return {}

    with pytest.raises(UserError, match=r"takes no images of the size of 'scale:0.5'; leave it out"):
        viewed(Fixed(), ["scale:0.5"], [Head("side", "multiclass", SIDES)])(batch())


def test_views_are_read_as_the_experiment_and_a_run_write_them() -> None:
    corner, names = {"name": "crop", "params": {"by": 0.5, "place": [0, 1]}}, Registry(NAMES)
    given = parse_experiment({"tta": ["hflip", "scale:0.8", "crop:0.5", corner]}, "test")
    resolved = [names.resolve("view", entry).model_dump(mode="json") for entry in given.tta]
    again = parse_experiment({"tta": resolved}, "test")
    for experiment in (given, again):
        assert list(views_of(experiment, names, {})) == ["hflip", "scale:0.8", "crop:0.5", "crop:0.5'"]
