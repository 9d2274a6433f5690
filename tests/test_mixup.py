"""Mixup and cutmix: pixels, shares, and the losses of a mixed batch, against hand-worked cases and formulas."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import LossRow, Model
from pipeline.losses.criterion import WeightedLosses, class_weights
from pipeline.models.encoder_heads import EncoderHeads
from pipeline.models.preprocess import Normalize
from pipeline.registry import Registry, Spec
from pipeline.tasks.image_level.task import ImageLevelTask
from pipeline.training.step import seed_everything, step
from pipeline.types import PreparedModel, StepContext
from projects import Renders
from toolkit.errors import UserError

MODES = [
    {"mixup_alpha": 0.4},
    {"mixup_alpha": 0.4, "mode": "elem"},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "mode": "elem"},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mode": "elem", "prob": 0.7},
    {"mixup_alpha": 0.0, "cutmix_minmax": (0.3, 0.6), "mode": "elem"},
]


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[Path]:
    torch.set_num_threads(1)
    yield renders.folder


def mixer(name: str = "mixup", **params: Any) -> Any:
    return Registry(ImageLevelTask.NAMES).bind("batch_transform", Spec(name=name, params=params))()


def images(count: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each sample holds one value, so that a pixel tells what is in it."""
    values = torch.arange(1, count + 1, dtype=dtype).view(-1, 1, 1, 1)
    return values.expand(-1, 3, 24, 16).contiguous(memory_format=torch.channels_last)


def mixed(transform: Any, image: Tensor, seed: int = 0) -> dict[str, Any]:
    seed_everything(seed)
    return transform({"input_image": image, "target_label": torch.arange(len(image)), "other": "kept"})


@pytest.mark.parametrize("params", MODES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pixels_and_shares_fit_together(params: dict[str, Any], seed: int) -> None:
    """Of the sample's own value v and its partner's u, the mean pixel is share * v + (1 - share) * u."""
    image = images()
    before = image.clone()
    result = mixed(mixer(**params), image, seed)
    partner, share, found = (result[key] for key in ("input_partner", "input_share", "input_image"))
    assert (partner.dtype, share.dtype) == (torch.int64, torch.float32) and partner.shape == share.shape == (8,)
    assert sorted(partner.tolist()) == list(range(8))
    own, others = before[:, 0, 0, 0], before[partner, 0, 0, 0]
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), share * own + (1 - share) * others)
    assert (
        torch.equal(image, before) and result["target_label"].tolist() == list(range(8)) and result["other"] == "kept"
    )
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    if "mode" not in params:
        assert len(set(share.tolist())) == 1
    elif "prob" not in params:
        assert len(set(share.tolist())) > 1


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("size", [{"cutmix_alpha": 1.0}, {"cutmix_minmax": (0.3, 0.6)}])
def test_cutmix_pastes_one_box(mode: str, size: dict[str, Any]) -> None:
    result = mixed(mixer("cutmix", mode=mode, **size), images(), seed=3)
    for place, (found, partner, share) in enumerate(
        zip(result["input_image"], result["input_partner"], result["input_share"], strict=True)
    ):
        if partner == place:
            continue
        pasted = found[0] == partner + 1
        assert torch.equal(found, torch.where(pasted, partner + 1.0, place + 1.0).expand(3, -1, -1))
        rows, columns = torch.nonzero(pasted.any(dim=1)).flatten(), torch.nonzero(pasted.any(dim=0)).flatten()
        assert pasted.sum() == len(rows) * len(columns), "the pasted pixels form a rectangle"
        assert share.item() == pytest.approx(1 - pasted.sum().item() / (24 * 16))
        if "cutmix_minmax" in size:
            assert 0.25 <= len(rows) / 24 <= 0.6 and 0.25 <= len(columns) / 16 <= 0.6


def test_mixup_equals_its_formula_on_any_image() -> None:
    image = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    result = mixed(mixer(mixup_alpha=0.4, mode="elem"), image)
    share = result["input_share"].double().view(-1, 1, 1, 1)
    expected = share * image.double() + (1 - share) * image.double()[result["input_partner"]]
    torch.testing.assert_close(result["input_image"].double(), expected, atol=1e-6, rtol=1e-6)


def test_bfloat16_and_a_single_sample() -> None:
    result = mixed(mixer(mixup_alpha=1.0), images(dtype=torch.bfloat16))
    assert result["input_image"].dtype == torch.bfloat16 and result["input_share"].dtype == torch.float32
    for name in ("mixup", "cutmix"):
        image = images(1)
        alone = mixed(mixer(name), image)
        assert torch.equal(alone["input_image"], image) and alone["input_partner"].tolist() == [0]


def test_it_draws_from_the_seeded_generators_alone() -> None:
    transform = mixer(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem")
    first, other = mixed(transform, images(), seed=5), mixed(transform, images(), seed=6)
    random.seed(99)
    again = mixed(transform, images(), seed=5)
    assert all(torch.equal(first[key], again[key]) for key in ("input_image", "input_partner", "input_share"))
    assert not torch.equal(first["input_image"], other["input_image"])


def test_how_often_it_mixes_and_switches() -> None:
    transform = mixer(mixup_alpha=1.0, cutmix_alpha=1.0, prob=0.6, switch_prob=0.25, mode="elem")
    result = mixed(transform, images(2000))
    share, found = result["input_share"], result["input_image"]
    flat = found.amin(dim=(1, 2, 3)) == found.amax(dim=(1, 2, 3))  # one value all over: not mixed, or mixup
    assert (share < 1).float().mean().item() == pytest.approx(0.6, abs=0.04)
    assert (~flat).float().mean().item() == pytest.approx(0.6 * 0.25, abs=0.03)
    assert torch.equal(mixed(mixer(prob=0.0), images())["input_image"], images())


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("mixup", {"mixup_alpha": 0.0}, "must be more than 0"),
        ("mixup", {"mixup_alpha": -1.0}, "must be more than 0"),
        ("cutmix", {"cutmix_alpha": 0.0}, "cutmix_alpha must be more than 0"),
        ("cutmix", {"cutmix_minmax": (0.8, 0.2)}, "two shares that grow"),
        ("mixup", {"prob": 1.5}, "from 0 to 1"),
        ("mixup", {"mode": "pair"}, "mode"),
        ("cutmix", {"alpha": 1.0}, "cutmix_alpha"),
    ],
)
def test_wrong_settings_are_one_line(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mixer(name, **params)


def test_mixing_twice_is_refused() -> None:
    batch = mixed(mixer(), images())
    with pytest.raises(UserError, match="mixes twice"):
        mixer("cutmix")(batch)


class Regularizer(torch.nn.Module):
    """A loss without a head that reads a target of the batch."""

    def __init__(self, head: None) -> None:
        super().__init__()

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
        return outputs["output_label"].square().sum(dim=1) * (1 + batch["target_label"])


def test_losses_of_a_mixed_batch_by_hand() -> None:
    """Two heads, one of probabilities, row weights, class weights, and a loss without a head.

    For what trains: share * w_i c_i l_i + (1 - share) * w_p c_p l_p; what is shown is without weights.
    """
    counts = {"label": torch.tensor([3.0, 1.0]), "other": torch.tensor([1.0, 1.0, 1.0])}
    rows = [
        LossRow(head="label", loss=Spec(name="cross_entropy"), class_weights="balanced", weight=0.5, name="first"),
        LossRow(head="other", loss=Spec(name="focal"), name="second"),
        LossRow(loss=Spec(name="own"), name="third", weight=0.1),
    ]
    names = Registry(ImageLevelTask.NAMES, {"loss": {"own": f"{__name__}:Regularizer"}})
    heads = [Head("label", "multiclass", ("a", "b")), Head("other", "multiclass", ("x", "y", "z"))]
    generator = torch.Generator().manual_seed(2)
    label, other = torch.randn(3, 2, generator=generator), torch.randn(3, 3, generator=generator)
    numbers, soft = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5], [0, 1.0, 0]])
    weight, partner = torch.tensor([1.0, 2.0, 0.0]), [2, 0, 1]
    share = torch.tensor([0.7, 1.0, 0.25])
    batch = {
        "target_label": numbers,
        "target_other": soft,
        "input_weight": weight,
        "input_partner": torch.tensor(partner),
        "input_share": share,
    }
    outputs = {"output_label": label.requires_grad_(), "output_other": other}
    result = WeightedLosses(rows, heads, names, counts)(outputs, batch)
    of_class = class_weights("balanced", ("a", "b"), counts["label"])
    totals = {}
    for term in ("first", "second", "third"):
        trained, shown = [], []
        for place in range(3):
            sides = []
            for side in (place, partner[place]):
                log_label, log_other = label[place].log_softmax(0), other[place].log_softmax(0)
                if term == "first":
                    value, by_class = -log_label[numbers[side]], of_class[numbers[side]]
                elif term == "second":
                    value, by_class = -(soft[side] * (1 - log_other.exp()) ** 2 * log_other).sum(), torch.tensor(1.0)
                else:
                    value, by_class = label[place].square().sum() * (1 + numbers[side]), torch.tensor(1.0)
                sides.append((value, weight[side] * by_class))
            (mine, my_weight), (theirs, their_weight) = sides
            trained.append(share[place] * my_weight * mine + (1 - share[place]) * their_weight * theirs)
            shown.append(share[place] * mine + (1 - share[place]) * theirs)
        totals[term] = torch.stack(trained).mean()
        torch.testing.assert_close(result["losses"][term], totals[term].detach())
        torch.testing.assert_close(result["sample_losses"][term], torch.stack(shown).detach())
    torch.testing.assert_close(result["loss"], 0.5 * totals["first"] + totals["second"] + 0.1 * totals["third"])


def test_it_equals_cross_entropy_of_mixed_targets() -> None:
    """Cross entropy is linear in the truth: timm's way, mixing the targets, gives the same."""
    from timm.data.mixup import mixup_target

    logits, target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    row = LossRow(head="label", loss=Spec(name="cross_entropy", params={"label_smoothing": 0.1}))
    criterion = WeightedLosses([row], [Head("label", "multiclass", ("a", "b", "c"))], Registry(ImageLevelTask.NAMES))
    batch = {
        "target_label": target,
        "input_weight": torch.ones(4),
        "input_partner": torch.tensor([3, 2, 1, 0]),
        "input_share": torch.full((4,), 0.3),
    }
    expected = functional.cross_entropy(logits, mixup_target(target, 3, lam=0.3, smoothing=0.1))
    torch.testing.assert_close(criterion({"output_label": logits}, batch)["loss"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["mixup", "cutmix"])
def test_a_training_with_it_still_learns(transform: str) -> None:
    """Handwritten digits by the usual step: far better than a guess after a few epochs."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    image, label = torch.from_numpy(pixels), torch.from_numpy(labels)
    heads, names = [Head("label", "multiclass", tuple(map(str, range(10))))], Registry(ImageLevelTask.NAMES)
    seed_everything(0)
    settings = Model(encoder="test_resnet", pretrained=False, in_chans=1)
    model = PreparedModel(Normalize([0.3], [0.3]), EncoderHeads(heads, settings, names))
    criterion = WeightedLosses([LossRow(head="label", loss=Spec(name="cross_entropy"))], heads, names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(4):
        for number, rows in enumerate(np.random.default_rng(epoch).permutation(1500)[:1472].reshape(-1, 64)):
            seed_everything(0, epoch, number)
            batch = {"input_image": image[rows], "target_label": label[rows], "input_weight": torch.ones(64)}
            batch["input_row"] = torch.from_numpy(rows)
            context = StepContext("train", epoch, number, 0, criterion, (mixer(transform),))
            result = step(batch, model, context)
            assert set(result["mixed"]["input_partner"].tolist()) <= set(rows.tolist()), "partners are named by row"
            assert result["sample_losses"]["label_cross_entropy"].shape == (64,)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
    with torch.no_grad():
        predicted = model.eval()({"input_image": image[1500:]})["output_label"].argmax(dim=1)
    assert (predicted == label[1500:]).float().mean() > 0.8
