"""Losses of masks: against segmentation_models_pytorch, torchvision, brute force, and at extremes."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from pipeline.competition import Competition, Head
from pipeline.config import LossRow
from pipeline.losses.masks import LOSSES
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.tasks.segmentation.task import SegmentationTask
from test_losses import crossings
from toolkit.errors import UserError

PLANES = Head("mask", "mask", ("a", "b"))
LABELS = Head("mask", "multiclass_mask", ("a", "b"))
MAPS = [name for name in LOSSES if name != "presence"]


def planes(batch: int = 3, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, 2, size, size, generator=generator)
    return logits, torch.randint(0, 2, (batch, 2, size, size), generator=generator).to(torch.uint8)


def labels(batch: int = 3, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(batch, 3, size, size, generator=generator)
    return logits, torch.randint(0, 3, (batch, size, size), generator=generator).to(torch.uint8)


def each(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """A loss over a whole batch, asked of one sample after the other."""
    return torch.stack([function(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LOSSES["dice"](PLANES, smooth=2.0), smp.losses.DiceLoss("multilabel", smooth=2.0)),
        (LOSSES["jaccard"](PLANES, smooth=2.0), smp.losses.JaccardLoss("multilabel", smooth=2.0)),
        (
            LOSSES["tversky"](PLANES, alpha=0.2, beta=0.6, smooth=2.0),
            smp.losses.TverskyLoss("multilabel", alpha=0.2, beta=0.6, smooth=2.0),
        ),
    ],
)
def test_overlap_of_planes_is_that_of_smp(ours: Any, theirs: Any) -> None:
    logits, target = planes()
    torch.testing.assert_close(ours(logits, target), each(theirs, logits, target.float()))


def test_overlap_of_labels_is_that_of_smp_without_the_background() -> None:
    logits, target = labels()
    for name, theirs in (("dice", smp.losses.DiceLoss), ("jaccard", smp.losses.JaccardLoss)):
        whole = theirs("multiclass", classes=[1, 2], smooth=2.0)
        ours = LOSSES[name](LABELS, smooth=2.0)(logits, target)
        torch.testing.assert_close(ours, each(whole, logits, target.long()))


def test_lovasz_is_that_of_smp() -> None:
    logits, target = planes()
    hinge = smp.losses.LovaszLoss("binary", per_image=True)
    wanted = (each(hinge, logits[:, 0], target[:, 0]) + each(hinge, logits[:, 1], target[:, 1])) / 2
    torch.testing.assert_close(LOSSES["lovasz"](PLANES)(logits, target), wanted)
    logits, target = labels()
    target[0][target[0] == 2] = 0  # a class that the image lacks does not count
    softmax = smp.losses.LovaszLoss("multiclass", per_image=True)
    torch.testing.assert_close(LOSSES["lovasz"](LABELS)(logits, target), each(softmax, logits, target.long()))


def test_lovasz_extends_the_jaccard_loss_of_every_set_of_errors() -> None:
    """By brute force: the extension is `sum_k (e_k - e_k+1) J(the k worst pixels are wrong)`, ignored ones left out."""
    head = Head("mask", "mask", ("a",))
    generator = torch.Generator().manual_seed(2)
    for known in itertools.product([True, False], repeat=4):
        logits = torch.randn(1, 1, 1, 6, generator=generator)
        truth = torch.tensor([1, 0, 1, 0, 1, 0])
        keep = torch.tensor([*known, True, True])
        target = torch.where(keep, truth, 255).to(torch.uint8).view(1, 1, 1, 6)
        pairs = [
            (1 - v * (2 * t - 1), t)
            for v, t, k in zip(logits.flatten().tolist(), truth.tolist(), keep, strict=True)
            if k
        ]
        pairs.sort(reverse=True)
        errors = [max(0.0, error) for error, _ in pairs] + [0.0]
        total = sum(t for _, t in pairs)
        value = 0.0
        for count in range(1, len(pairs) + 1):
            missed = sum(t for _, t in pairs[:count])
            jaccard = 1 - (total - missed) / max(1, total + count - missed)
            value += (errors[count - 1] - errors[count]) * jaccard
        assert LOSSES["lovasz"](head)(logits, target).item() == pytest.approx(value, abs=1e-5)


def test_pixel_losses_are_those_of_torch_and_torchvision() -> None:
    logits, target = planes()
    smooth = target.float() * 0.8 + 0.1
    wanted = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=(1, 2, 3))
    torch.testing.assert_close(LOSSES["bce"](PLANES, label_smoothing=0.2)(logits, target), wanted)
    wanted = sigmoid_focal_loss(logits, target.float(), alpha=0.3, gamma=2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(LOSSES["focal"](PLANES, alpha=0.3)(logits, target), wanted)
    logits, target = labels()
    wanted = functional.cross_entropy(logits, target.long(), label_smoothing=0.2, reduction="none").mean(dim=(1, 2))
    torch.testing.assert_close(LOSSES["cross_entropy"](LABELS, label_smoothing=0.2)(logits, target), wanted)
    sure = logits.softmax(dim=1).gather(1, target[:, None].long())[:, 0]
    torch.testing.assert_close(
        LOSSES["focal"](LABELS)(logits, target), (-((1 - sure) ** 2) * sure.log()).mean(dim=(1, 2))
    )


def test_weights_of_classes_are_torchs() -> None:
    logits, target = planes()
    weights = torch.tensor([2.0, 0.5]).view(2, 1, 1)
    wanted = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none", pos_weight=weights)
    ours = LOSSES["bce"](PLANES, positive_weight={"a": 2.0, "b": 0.5})
    torch.testing.assert_close(ours(logits, target), wanted.mean(dim=(1, 2, 3)))
    same = [LOSSES["bce"](PLANES, positive_weight=given)(logits, target) for given in (3.0, {"a": 3.0, "b": 3.0})]
    torch.testing.assert_close(*same)
    logits, target = labels()
    target[:, :3] = 255
    theirs = torch.nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0]), ignore_index=255, label_smoothing=0.1)
    ours = LOSSES["cross_entropy"](LABELS, label_smoothing=0.1, weights={"background": 0.2, "b": 3.0})
    torch.testing.assert_close(ours(logits, target), each(theirs, logits, target.long()))


def test_weights_of_classes_that_are_not_there() -> None:
    with pytest.raises(UserError, match="'bce': positive_weight names the class 'aa'; did you mean 'a'"):
        LOSSES["bce"](PLANES, positive_weight={"aa": 2.0})
    with pytest.raises(UserError, match="'cross_entropy': weights must be at least 0"):
        LOSSES["cross_entropy"](LABELS, weights={"background": -1.0})
    task = SegmentationTask(Competition(Settings.model_construct()), [PLANES])
    row = LossRow(head="mask", loss=Spec(name="bce"), class_weights="balanced")
    with pytest.raises(UserError, match=r"'mask_bce': class_weights are for rows.*positive_weight of 'bce'") as error:
        task.criterion([row], Registry(), pd.DataFrame())
    assert "\n" not in str(error.value)


def test_boundary_weighs_borders() -> None:
    target = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    target[..., 3:6, 3:6] = 1
    head = Head("mask", "mask", ("a",))
    loss = LOSSES["boundary"](head, width=1, factor=4.0)

    def wrong(row: int, column: int) -> float:
        logits = 20 * (2.0 * target - 1)
        logits[..., row, column] *= -1
        return loss(logits, target).item()

    around = torch.stack(
        [functional.pad(target.double(), (1, 1, 1, 1))[0, 0, i : i + 9, j : j + 9] for i in range(3) for j in range(3)]
    )
    weights = 1 + 4 * (around.mean(dim=0) - target[0, 0].double()).abs()
    assert wrong(3, 3) == pytest.approx(20 * (weights[3, 3] / weights.sum()).item(), rel=1e-4)
    assert wrong(8, 8) == pytest.approx(20 * (1 / weights.sum()).item(), rel=1e-4)
    assert wrong(3, 3) > 3 * wrong(4, 4)


def test_presence_asks_for_any_known_pixel() -> None:
    target = torch.full((3, 2, 4, 4), 255, dtype=torch.uint8)
    target[0, 0], target[0, 1] = 0, 0
    target[0, 1, 2, 2] = 1
    target[1, 0, 0, 0] = 1
    logits = torch.tensor([[1.0, -2.0], [0.5, 7.0], [3.0, 3.0]], requires_grad=True)
    values = LOSSES["presence"](PLANES)(logits, target)
    bce = functional.binary_cross_entropy_with_logits(logits[0], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(values, torch.stack([bce, -functional.logsigmoid(logits[1, 0]), torch.tensor(0.0)]))
    label = torch.zeros(1, 4, 4, dtype=torch.uint8)
    label[0, 0, 0] = 2
    values = LOSSES["presence"](LABELS)(torch.tensor([[9.0, 9.0]]), label)
    assert values.item() == pytest.approx(4.5, abs=1e-3)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("head", [PLANES, LABELS], ids=lambda head: head.kind)
@pytest.mark.parametrize("value", [0, 255, 1], ids=["empty", "ignored", "full"])
def test_extremes_are_finite(name: str, head: Head, value: int) -> None:
    if head.kind not in getattr(LOSSES[name], "kinds", ()):
        with pytest.raises(UserError, match="trains heads of the kind"):
            LOSSES[name](head)
        return
    made, target = planes() if head is PLANES else labels()
    target = torch.full_like(target, value)
    for scale in (1.0, 1e4):
        logits = (made * scale).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            values = LOSSES[name](head)(logits, target)
        assert values.shape == (3,)
        assert values.dtype == torch.float32
        values.sum().backward()
        assert values.isfinite().all()
        assert logits.grad.isfinite().all()
        if value == 255:
            assert not values.any()
            assert not logits.grad.any()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("head", [PLANES, LABELS], ids=lambda head: head.kind)
def test_ignored_pixels_count_nowhere(name: str, head: Head) -> None:
    """A strip that is ignored beside the image gives what the image alone gives."""
    if head.kind not in getattr(LOSSES[name], "kinds", ()):
        return
    logits, target = planes() if head is PLANES else labels()
    more = torch.cat([logits, 50 * torch.ones_like(logits)], dim=-1)
    padded = torch.cat([target, torch.full_like(target, 255)], dim=-1)
    loss = LOSSES[name](head, width=2) if name == "boundary" else LOSSES[name](head)
    wanted, given = loss(logits, target), loss(more, padded)
    if name == "boundary":  # the border of the image itself is no border of a mask: only there may it differ
        wanted, given = loss(logits[:1] * 0, target[:1]), loss(more[:1] * 0, padded[:1])
    torch.testing.assert_close(given, wanted)


def test_small_outputs_get_a_small_target() -> None:
    logits, target = planes()
    large = target.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(LOSSES["dice"](PLANES)(logits, large), LOSSES["dice"](PLANES)(logits, target))


def test_the_wrong_output_is_named() -> None:
    with pytest.raises(UserError, match="correct 'output'"):
        LOSSES["dice"](PLANES)(torch.zeros(2, 2), planes(2)[1])
    with pytest.raises(UserError, match="output: presence"):
        LOSSES["presence"](PLANES)(*planes())
    with pytest.raises(UserError, match="needs a head"):
        LOSSES["dice"](None)


def test_focal_tversky_raises_the_loss_of_each_class() -> None:
    logits, target = planes(1)
    head = Head("mask", "mask", ("a",))
    single = [LOSSES["tversky"](head)(logits[:, [k]], target[:, [k]]) for k in range(2)]
    torch.testing.assert_close(LOSSES["tversky"](PLANES, gamma=0.75)(logits, target), sum(v**0.75 for v in single) / 2)


@pytest.mark.parametrize("head", [PLANES, LABELS])
def test_a_step_copies_nothing_to_the_device(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which the device `meta` lacks
    task = SegmentationTask(Competition(Settings.model_construct()), [head])
    specs = [Spec(name=name) for name in MAPS] + [Spec(name="bce", params={"positive_weight": 2.0})]
    rows = [
        LossRow(head="mask", loss=spec, name=str(number))
        for number, spec in enumerate(specs)
        if head.kind in LOSSES[spec.name].kinds
    ]
    criterion = task.criterion(rows, Registry(SegmentationTask.NAMES), pd.DataFrame())
    logits, target = (value.to("meta") for value in (planes() if head is PLANES else labels()))
    batch = {"target_mask": target, "input_weight": torch.ones(3, device="meta")}
    assert crossings(criterion, {"output_mask": logits}, batch) == []


def test_weights_of_one_leave_the_bits_as_they_are() -> None:
    logits, target = planes()
    target[:, :, :3] = 255
    same = LOSSES["bce"](PLANES), LOSSES["bce"](PLANES)
    same[1].positive_weight = torch.ones(2, 1, 1)
    assert same[0].positive_weight is None and same[0](logits, target).equal(same[1](logits, target))
