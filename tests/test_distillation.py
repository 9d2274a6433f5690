"""Distillation: a loss that asks a frozen teacher about the very images that the student sees."""

from typing import Any

import pytest
import torch
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import LossRow
from pipeline.keys import INPUT_IMAGE, INPUT_PARTNER, INPUT_SHARE, INPUT_WEIGHT
from pipeline.losses.criterion import WeightedLosses
from pipeline.losses.distillation import Distillation
from pipeline.models.preprocess import Normalize
from pipeline.registry import Registry, Spec
from pipeline.training import NAMES
from pipeline.types import Batch, PreparedModel
from test_constant import task_of
from toolkit.errors import UserError

LABEL = Head("label", "multiclass", ("ant", "bee", "cat"))
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Network(nn.Module):
    """A linear layer on the pixels; it counts its calls."""

    def __init__(self, head: Head, shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.key, self.shape, self.layer = head.output_key, shape, nn.Linear(3 * 4 * 4, torch.Size(shape).numel())
        self.drop, self.calls = nn.Dropout(0.5), 0
        self.pretrained_cfg, self.num_classes, self.in_chans = {"mean": MEAN, "std": STD}, 3, 3

    def logits(self, image: Tensor) -> Tensor:
        return self.drop(self.layer(image.flatten(1))).view(-1, *self.shape)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        return {self.key: self.logits(batch[INPUT_IMAGE])}


def teacher(head: Head = LABEL, shape: tuple[int, ...] = (3,), seed: int = 1, mean: Any = MEAN) -> PreparedModel:
    return PreparedModel(Normalize(mean, STD), Network(head, shape, seed))


def distillation(*models: PreparedModel, head: Head = LABEL, temperature: float = 1.0) -> Distillation:
    made = Distillation(None, teacher="big", temperature=temperature)
    made.set_teacher(models, Normalize(MEAN, STD), task_of(head).predictions.logits())
    return made


def images(seed: int = 0) -> Batch:
    raw = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {**Normalize(MEAN, STD)({INPUT_IMAGE: raw}), "raw": raw, INPUT_WEIGHT: torch.ones(5)}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_of_classes_it_is_the_loss_of_timm(temperature: float) -> None:
    class Plain(Network):
        def forward(self, image: Any) -> Any:
            return self.logits(image)

    batch, student = images(), Plain(LABEL, (3,), 2).eval()
    task = LogitDistillationTask(
        student, Plain(LABEL, (3,), 1), nn.CrossEntropyLoss(), temperature=temperature, verbose=False
    ).eval()
    expected = task(batch[INPUT_IMAGE], torch.zeros(5, dtype=torch.long))["kd_loss"]
    values = distillation(teacher(), temperature=temperature)({"output_label": student(batch[INPUT_IMAGE])}, batch)
    assert values.shape == (5,) and values.dtype == torch.float32 and (values > 0).all()
    torch.testing.assert_close(values.mean(), expected)


def test_a_teacher_stays_as_it_is_and_a_student_that_says_the_same_has_no_loss() -> None:
    model, batch = teacher(), images()
    loss = distillation(model)
    logits = model.network(batch)["output_label"].detach().requires_grad_()
    values = loss({"output_label": logits}, batch)  # without dropout, although nobody called eval
    values.sum().backward()
    torch.testing.assert_close(values, torch.zeros(5))
    torch.testing.assert_close(logits.grad, torch.zeros(5, 3), atol=1e-6, rtol=0)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_the_teacher_sees_the_images_as_it_was_trained() -> None:
    other, batch = teacher(mean=[0.1, 0.2, 0.3]), images()
    logits = torch.zeros(5, 3)
    values = distillation(other)({"output_label": logits}, batch)
    said = other({INPUT_IMAGE: batch["raw"]})["output_label"]
    expected = functional.kl_div(logits.log_softmax(1), said.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_seeds_are_averaged_as_probabilities() -> None:
    models, batch, logits = [teacher(seed=seed) for seed in (1, 2)], images(), torch.randn(5, 3)
    values = distillation(*models)({"output_label": logits}, batch)
    mean = torch.stack([model.network(batch)["output_label"].softmax(1) for model in models]).mean(0)
    torch.testing.assert_close(values, functional.kl_div(logits.log_softmax(1), mean, reduction="none").sum(1))


@pytest.mark.parametrize(("kind", "shape"), [("multilabel", (3,)), ("ordinal", (3,)), ("mask", (3, 4, 4))])
def test_questions_of_their_own_are_yes_or_no(kind: str, shape: tuple[int, ...]) -> None:
    head = Head("label", kind, LABEL.classes)
    model, batch, logits = teacher(head, shape), images(), torch.randn(5, *shape)
    values = distillation(model, head=head, temperature=2.0)({"output_label": logits}, batch)
    p = (model.network(batch)["output_label"] / 2).sigmoid()
    entropy = functional.binary_cross_entropy(p, p, reduction="none")
    cross = functional.binary_cross_entropy_with_logits(logits / 2, p, reduction="none")
    torch.testing.assert_close(values, 4 * (cross - entropy).flatten(1).mean(1), rtol=1e-4, atol=1e-5)


def test_classes_of_pixels_share_a_probability_and_a_coarser_teacher_is_enlarged() -> None:
    head = Head("label", "multiclass_mask", LABEL.classes)
    model, batch, logits = teacher(head, (4, 2, 2)), images(), torch.randn(5, 4, 8, 8)
    values = distillation(model, head=head)({"output_label": logits}, batch)
    said = functional.interpolate(model.network(batch)["output_label"], (8, 8), mode="bilinear")
    each = functional.kl_div(logits.log_softmax(1), said.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(values, each.mean((1, 2)))


def test_numbers_differ_in_deviations_of_the_teachers_rows() -> None:
    head = Head("age", "regression")
    model, batch = teacher(head, (1,)), images()
    model.network.scale = scale = nn.Module()
    scale.head = "age"  # type: ignore[assignment]
    scale.register_buffer("deviation", torch.tensor([4.0]))
    numbers = torch.randn(5, 1)
    values = distillation(model, head=head)({"output_age": numbers}, batch)
    torch.testing.assert_close(values, ((numbers - model.network(batch)["output_age"]) / 4).square()[:, 0])


def test_a_mixed_batch_is_looked_at_once_and_counts_once() -> None:
    names, row = Registry(NAMES), LossRow(loss=Spec(name="distillation", params={"teacher": "big"}), weight=2)
    criterion, model = WeightedLosses([row], [LABEL], names), teacher()
    [loss] = [part for part in criterion.modules() if isinstance(part, Distillation)]
    loss.set_teacher([model], Normalize(MEAN, STD), {LABEL: "softmax"})
    batch, outputs = images(), {"output_label": torch.randn(5, 3)}
    plain = criterion(outputs, batch)
    mixed = {**batch, INPUT_PARTNER: torch.arange(5).flip(0), INPUT_SHARE: torch.full((5,), 0.3)}
    found = criterion(outputs, mixed)
    assert model.network.calls == 1
    torch.testing.assert_close(found["loss"], plain["loss"])
    torch.testing.assert_close(plain["loss"], 2 * loss(outputs, batch).mean())
    criterion(outputs, images(1))
    assert model.network.calls == 2


def test_what_cannot_be_learnt_is_refused() -> None:
    with pytest.raises(UserError, match="is about all heads"):
        Distillation(LABEL, teacher="big")
    with pytest.raises(UserError, match="temperature must be above 0"):
        Distillation(None, teacher="big", temperature=0.0)
    with pytest.raises(UserError, match="'whale', of the kind 'embedding'"):
        distillation(teacher(), head=Head("whale", "embedding", ("a", "b")))
    own = PreparedModel(nn.Identity(), Network(LABEL, (3,), 1))
    with pytest.raises(UserError, match="prepare images in other ways"):
        distillation(own)
