"""Losses, class weights, online hard examples and soft targets, each against an independent oracle."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.loss import AsymmetricLossSingleLabel, BinaryCrossEntropy
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import sigmoid_focal_loss

from pipeline.competition import Head
from pipeline.config import LossRow
from pipeline.heads.base import kind_of
from pipeline.losses.criterion import WeightedLosses, class_weights
from pipeline.registry import Registry, Spec
from pipeline.tasks.image_level.task import ImageLevelTask
from projects import Renders, run_script
from test_constant import task_of
from toolkit.errors import UserError
from training import demo_project, expect, outcome

CLASSES = ("ant", "bee", "cat", "dog")
HEAD, NAMES = Head("label", "multiclass", CLASSES), Registry(ImageLevelTask.NAMES)
NUMBERS = torch.tensor([0, 2, 1, 3, 2])
SOFT = torch.tensor([[1.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0.5, 0.5, 0], [0.25] * 4, [0, 0, 1, 0]])
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.2}),
    ("bce", {}),
    ("bce", {"label_smoothing": 0.1, "sum_classes": True}),
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 2.0, "alpha": 0.25}),
    ("focal", {"gamma": 1.0, "alpha": 0.25, "sigmoid": True}),
    ("asymmetric", {}),
    ("asymmetric", {"gamma_pos": 0.5, "gamma_neg": 0.5, "eps": 0.0}),
]


def make_loss(name: str, **params: Any) -> Any:
    return NAMES.bind("loss", Spec(name=name, params=params))(HEAD)


def make_criterion(rows: pd.DataFrame | None = None, name: str = "cross_entropy", **settings: Any) -> Any:
    """The criterion of one loss row, as the task makes it from the rows that train."""
    row = LossRow(head="label", loss=Spec(name=name), name="term", **settings)
    return task_of(HEAD).criterion([row], NAMES, table("ant") if rows is None else rows)


def table(*labels: str) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"r{number}" for number in range(len(labels))], "label": list(labels)})


class Crossings(TorchDispatchMode):
    """Writes down each operation of tensors of several devices: on a GPU a copy that is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if len({value.device for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)}) > 1:
            self.found.append(str(function))
        return result


def crossings(criterion: Any, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[str]:
    """What crosses over in a step of a criterion that was moved to the device of the batch."""
    device = batch["input_weight"].device
    criterion.to(device)
    with Crossings() as mode:
        criterion({key: value.to(device).requires_grad_() for key, value in outputs.items()}, batch)["loss"].backward()
    return [name for name in mode.found if "fill" not in name]


def logits_of(count: int = 5) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * 3


def oracle(name: str, params: dict[str, Any], logits: Tensor, truth: Tensor) -> Tensor:
    """The formulas, written out in float64 for probabilities (B, C)."""
    x, t = logits.double(), truth.double()
    smoothing = params.get("label_smoothing", params.get("eps", 0.1 if name == "asymmetric" else 0.0))
    smoothed = (1 - smoothing) * t + smoothing / t.shape[1]
    log_p = x - x.logsumexp(dim=1, keepdim=True)
    p, s = log_p.exp(), x.sigmoid()
    log_s, log_rest = -torch.logaddexp(torch.zeros(()).double(), -x), -torch.logaddexp(torch.zeros(()).double(), x)
    if name == "cross_entropy":
        return -(smoothed * log_p).sum(dim=1)
    if name == "bce":
        values = -(smoothed * log_s + (1 - smoothed) * log_rest)
        return values.sum(dim=1) if params.get("sum_classes") else values.mean(dim=1)
    if name == "asymmetric":
        rest = 1 - t * p - (1 - t) * (1 - p)
        power = params.get("gamma_pos", 1.0) * t + params.get("gamma_neg", 4.0) * (1 - t)
        return -(smoothed * rest**power * log_p).sum(dim=1)
    gamma, alpha = params.get("gamma", 2.0), params.get("alpha")
    if params.get("sigmoid"):
        share = 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        return (-share * (1 - s * t - (1 - s) * (1 - t)) ** gamma * (t * log_s + (1 - t) * log_rest)).sum(dim=1)
    return -(alpha or 1.0) * (t * (1 - p) ** gamma * log_p).sum(dim=1)


@pytest.mark.parametrize(("name", "params"), EVERY)
@pytest.mark.parametrize("soft", [False, True])
def test_a_loss_equals_its_formula(name: str, params: dict[str, Any], soft: bool) -> None:
    truth = SOFT if soft else functional.one_hot(NUMBERS, 4)
    logits = logits_of().requires_grad_()
    double = logits.detach().double().requires_grad_()
    found = make_loss(name, **params)(logits, SOFT if soft else NUMBERS)
    expected = oracle(name, params, double, truth)
    assert found.shape == (5,) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(logits.grad.double(), double.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "params"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [NUMBERS, SOFT])
def test_a_loss_is_finite_for_the_largest_logits(
    name: str, params: dict[str, Any], dtype: torch.dtype, target: Tensor
) -> None:
    top = torch.finfo(torch.float16).max
    logits = torch.tensor(
        [[top, -top, -top, -top], [top, -top, 0, 0], [-top, top, 1, -1], [0, 0, 0, -top], [-top] * 4]
    ).to(dtype)
    given = logits.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make_loss(name, **params)(given, target)
        found.sum().backward()
    truth = target if target.is_floating_point() else functional.one_hot(target, 4)
    assert found.isfinite().all() and given.grad.isfinite().all()
    torch.testing.assert_close(found.double(), oracle(name, params, logits, truth), atol=1e-4, rtol=1e-5)


def test_losses_equal_those_of_the_libraries() -> None:
    logits, one_hot = logits_of(), functional.one_hot(NUMBERS, 4).float()
    torch.testing.assert_close(
        make_loss("cross_entropy", label_smoothing=0.1)(logits, SOFT),
        functional.cross_entropy(logits, SOFT, reduction="none", label_smoothing=0.1),
    )
    timm_bce = BinaryCrossEntropy(smoothing=0.1, reduction="none")(logits, NUMBERS)
    torch.testing.assert_close(make_loss("bce", label_smoothing=0.1)(logits, NUMBERS), timm_bce.mean(dim=1))
    thresholded = BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2, reduction="none")(logits, NUMBERS)
    found = make_loss("bce", label_smoothing=0.1, target_threshold=0.2, sum_classes=True)(logits, NUMBERS)
    torch.testing.assert_close(found, thresholded.sum(dim=1))
    torch.testing.assert_close(
        make_loss("asymmetric", gamma_pos=0.0, gamma_neg=4.0, eps=0.1)(logits, NUMBERS),
        AsymmetricLossSingleLabel(gamma_pos=0, gamma_neg=4, eps=0.1, reduction="none")(logits, NUMBERS),
    )
    for alpha in (0.25, None):
        expected = sigmoid_focal_loss(logits, one_hot, alpha=-1 if alpha is None else alpha, gamma=2.0)
        found = make_loss("focal", gamma=2.0, alpha=alpha, sigmoid=True)(logits, NUMBERS)
        torch.testing.assert_close(found, expected.sum(dim=1))
    torch.testing.assert_close(
        make_loss("focal", gamma=0.0)(logits, NUMBERS), functional.cross_entropy(logits, NUMBERS, reduction="none")
    )


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cross_entropy", {"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ("focal", {"gamma": -1.0}, "gamma must be at least 0"),
        ("focal", {"alpha": 2.0, "sigmoid": True}, "alpha is a share"),
        ("focal", {"gamma": 0.5, "sigmoid": True}, "gamma at least 1"),
        ("asymmetric", {"epsilon": 0.1}, "eps"),
    ],
)
def test_settings_out_of_range_are_one_line(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_loss(name, **params)


def test_a_loss_says_which_heads_it_trains() -> None:
    task = task_of(Head("grade", "ordinal", CLASSES))
    for head, said in (
        ("grade", "'focal' trains heads of the kind multiclass; 'grade' is ordinal"),
        (None, "'focal' needs a head"),
    ):
        with pytest.raises(UserError, match=said):
            task.criterion([LossRow(head=head, loss=Spec(name="focal"))], NAMES, table("ant"))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("balanced", [1 / 4, 1 / 2, 1 / 1, 1]),
        ("sqrt", [1 / 2, 1 / math.sqrt(2), 1.0, 1]),
        ({"bee": 3.0, "dog": 7.0}, [1.0, 3.0, 1.0, 7.0]),
    ],
)
def test_class_weights_are_of_mean_one_over_the_rows(chosen: Any, expected: list[float]) -> None:
    """Four ants, two bees, a cat, and no dog: it is weighted like a single one."""
    rows = table(*["ant"] * 4, *["bee"] * 2, "cat")
    counts = kind_of(HEAD).class_counts(rows)
    assert counts.tolist() == [4, 2, 1, 0]
    weights = class_weights(chosen, CLASSES, counts)
    assert (weights * counts).sum().item() / 7 == pytest.approx(1)
    torch.testing.assert_close(weights / weights[0], torch.tensor(expected) / expected[0])
    logits, target = logits_of(), torch.tensor([0, 2, 1, 1, 0])
    result = make_criterion(rows, class_weights=chosen)(
        {"output_label": logits}, {"target_label": target, "input_weight": torch.ones(5)}
    )
    expected_loss = functional.cross_entropy(logits, target, weight=weights, reduction="none")
    torch.testing.assert_close(result["loss"], expected_loss.mean())
    plain = functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(result["sample_losses"]["term"], plain)  # shown without weights


def test_a_soft_target_has_its_expected_class_weight() -> None:
    rows = table("ant", "ant", "ant", "bee", "cat", "dog")
    logits, weight = logits_of(), torch.tensor([1.0, 2, 0.5, 1, 0])
    batch = {"target_label": SOFT, "input_weight": weight}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = make_criterion(rows, class_weights="balanced")({"output_label": logits}, batch)
    of_class = torch.tensor([1 / 3, 1, 1, 1]) * 6 / 4
    plain = -(SOFT * logits.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(result["loss"], (plain * weight * (SOFT * of_class).sum(dim=1)).mean())


def test_wrong_class_weights_are_one_line() -> None:
    with pytest.raises(UserError, match="no class 'beee'; did you mean 'bee'"):
        make_criterion(class_weights={"beee": 2.0})
    with pytest.raises(UserError, match="weight of 'bee' must be at least 0"):
        make_criterion(class_weights={"bee": -2.0})
    with pytest.raises(UserError, match="every row that trains has the weight 0"):
        make_criterion(table("bee"), class_weights={"bee": 0.0})
    with pytest.raises(UserError, match="'own' has class_weights and no head"):
        WeightedLosses([LossRow(loss=Spec(name="own"), class_weights="sqrt")], [HEAD], Registry({}))


@pytest.mark.parametrize(("share", "kept"), [(0.5, 2), (0.75, 3), (0.01, 1), (1.0, 4)])
def test_only_the_hardest_samples_train(share: float, kept: int) -> None:
    logits = torch.diag(torch.tensor([3.0, 1.0, -2.0, 0.0])).requires_grad_()
    target, weight = torch.arange(4), torch.tensor([1.0, 1.0, 1.0, 0.0])
    batch = {"target_label": target, "input_weight": weight}
    plain = functional.cross_entropy(logits, target, reduction="none")
    assert plain.argsort(descending=True).tolist() == [2, 3, 1, 0]
    order = [2, 1, 0, 3]  # the row of weight 0 trains nothing, and takes nobody's place
    criterion = make_criterion(hardest=share)
    result = criterion({"output_label": logits}, batch)
    torch.testing.assert_close(result["loss"], (plain * weight)[order[:kept]].mean())
    result["loss"].backward()
    assert set(torch.nonzero(logits.grad.abs().sum(dim=1)).flatten().tolist()) == set(order[:kept]) - {3}
    torch.testing.assert_close(result["sample_losses"]["term"], plain.detach())
    with torch.no_grad():
        held_out = criterion({"output_label": logits}, batch)
    torch.testing.assert_close(held_out["loss"], (plain * weight).mean().detach())


def soft_table() -> pd.DataFrame:
    """A labelled row, a row of another run's probabilities without a label, and one of text as a csv holds it."""
    rows = table("bee", "ant", "dog").astype({"label": "object"})
    rows.loc[1, "label"] = None
    columns = {"label:ant": [np.nan, 0.1, "0"], "label:bee": [np.nan, 0.2, "0.5"]}
    return rows.assign(**columns, **{"label:cat": [np.nan, 0.3, "0.5"], "label:dog": [None, 0.4002, "0"]})


def test_rows_may_bring_probabilities() -> None:
    found = kind_of(HEAD).targets(soft_table())
    expected = np.array([[0, 1, 0, 0], np.array([0.1, 0.2, 0.3, 0.4002]) / 1.0002, [0, 0.5, 0.5, 0]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(kind_of(HEAD).class_counts(soft_table()).numpy(), expected.sum(axis=0), atol=1e-6)
    numbers = kind_of(HEAD).targets(table("bee", "dog"))
    assert numbers.dtype == np.int64 and numbers.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (1, [0.1, 0.2, None, 0.7], r"of 1 rows \(id r1\) are filled in part"),
        (1, [-0.1, 0.2, 0.2, 0.7], r"\(id r1\) are .*negative"),
        (2, [0.1, 0.2, 0.2, 0.4], r"\(id r2\) are .*do not sum to 1"),
        (2, ["a", 0.2, 0.2, 0.4], "hold what is no number"),
    ],
)
def test_wrong_probabilities_name_their_rows(row: int, values: list[Any], message: str) -> None:
    rows = soft_table().astype(object)
    for name, value in zip(CLASSES, values, strict=True):
        rows.loc[row, f"label:{name}"] = value
    with pytest.raises(UserError, match=message):
        kind_of(HEAD).targets(rows)
    with pytest.raises(UserError, match="no column label:cat; add it"):
        kind_of(HEAD).targets(rows.drop(columns="label:cat"))


def test_the_contract_takes_numbers_and_probabilities() -> None:
    task = task_of(HEAD)
    batch = {"input_id": ["a"] * 5, "input_image": torch.zeros(5, 4, 4, 3)}
    for target in (NUMBERS, SOFT):
        assert task.batch_schema({**batch, "target_label": target}, {"output_label": logits_of()})
    with pytest.raises(UserError, match=r"target torch.float64 .*float32 \(5, 4\)"):
        task.batch_schema({**batch, "target_label": SOFT.double()}, {"output_label": logits_of()})


SOFTER = """

_labelled = train_rows


def train_rows(settings, data):
    rows = _labelled(settings, data)
    chosen = rows.sample(frac=0.3, random_state=0).index
    for name in "0123456789":
        rows.loc[chosen, f"label:{name}"] = 0.9 * (rows["label"] == name) + 0.01
    return rows
"""
EXPERIMENT = """extends: small
model:
  {encoder: test_resnet, pooling: gem, drop_rate: 0.2, multi_sample_dropout: 2, drop_path_rate: 0.1,
   grad_checkpointing: true}
losses:
  - {head: label, loss: {name: focal, params: {gamma: 1.0}}, class_weights: sqrt, hardest: 0.7}
  - {head: label, loss: {name: bce, params: {sum_classes: true}}, weight: 0.2}
training: {epochs: 3, batch_size: 32}
"""


@pytest.mark.slow
def test_a_training_with_all_of_it(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    (project / "experiments" / "all.yaml").write_text(EXPERIMENT)
    with (project / "src" / "competition" / "tables.py").open("a") as file:
        file.write(SOFTER)
    printed = expect(run_script(project, "train.py", "all", "--fold", "0")).stdout
    contract = next(line for line in printed.splitlines() if "target_label" in line)
    assert "float32" in contract and "(4, 10)" in contract
    oof, weights, (metrics, _) = outcome(project, "all")
    truth = pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")["label"]
    predicted = oof.set_index("id")[[f"label:{digit}" for digit in range(10)]].to_numpy().argmax(axis=1).astype(str)
    assert (truth.loc[oof["id"]].to_numpy() == predicted).mean() > 0.5
    assert "network.pooling.p" in weights and "train/label_focal" in metrics and "valid/label_bce" in metrics


@pytest.mark.parametrize(("name", "params"), EVERY)
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_a_step_copies_nothing_to_the_device(name: str, params: dict[str, Any], weights: Any) -> None:
    row = LossRow(head="label", loss=Spec(name=name, params=params), class_weights=weights)
    criterion = task_of(HEAD).criterion([row], NAMES, table("ant", "bee", "bee"))
    batch = {"target_label": NUMBERS.to("meta"), "input_weight": torch.ones(5, device="meta")}
    logits = torch.zeros(5, 4, device="meta")
    assert crossings(criterion, {"output_label": logits}, batch) == []
    if weights is not None:
        criterion.terms[0].class_weights = torch.ones(4)  # as if it had been left behind
        with pytest.raises(Exception, match="device"):
            criterion({"output_label": logits}, batch)
