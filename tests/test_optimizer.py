"""The optimiser: which parameters share a rate and a decay, how it goes on, and what clipping does to a real step."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from timm.optim import list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn import functional

from pipeline.callbacks.non_finite import knows_flags
from pipeline.config import Optimizer
from pipeline.registry import Registry
from pipeline.training import NAMES
from pipeline.training.optimizer import make_optimizer, parameter_groups, print_rates
from pipeline.training.step import seed_everything
from pipeline.training.trainer import Trainer
from projects import ROOT, Renders, run_script
from toolkit.errors import UserError
from training import demo_project, expect


@pytest.fixture(scope="module", autouse=True)
def rendered(renders: Renders) -> Iterator[None]:
    yield


class Network(nn.Module):
    """An encoder of timm's and a head, as the pipeline's models have them."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.encoder = timm.create_model(encoder, num_classes=0)
        self.heads = nn.ModuleDict({"output_label": nn.Linear(self.encoder.num_features, 10)})


def model_of(network: nn.Module) -> nn.Module:
    """As `PreparedModel` has it."""
    return nn.ModuleDict({"prepare": nn.Identity(), "network": network})


def groups_of(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    return parameter_groups(model, Optimizer(**settings))


def by_parameter(groups: list[dict[str, Any]], key: str) -> dict[int, Any]:
    """A setting of each parameter, which must be in one group only."""
    listed = [(id(parameter), group[key]) for group in groups for parameter in group["params"]]
    assert len(listed) == len(dict(listed)), "a parameter is in two groups"
    return dict(listed)


def test_by_default_the_groups_are_timms() -> None:
    model = model_of(Network("test_resnet"))
    ours = groups_of(model, weight_decay=0.3)
    theirs = param_groups_weight_decay(model, weight_decay=0.3)
    assert [[id(p) for p in group["params"]] for group in ours] == [[id(p) for p in g["params"]] for g in theirs]
    assert [group["weight_decay"] for group in ours] == [group["weight_decay"] for group in theirs] == [0, 0.3]
    assert [group["name"] for group in ours] == ["model (no decay)", "model"]
    assert len(groups_of(model, weight_decay=0)) == 1


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_rates_by_layer_are_timms_for_the_whole_model(encoder: str) -> None:
    """timm decays the layers of a model with its own head; ours has the same encoder below another one."""
    network, whole = Network(encoder), timm.create_model(encoder, num_classes=10)
    model = model_of(network)
    groups = groups_of(model, lr=0.02, layer_decay=0.7, weight_decay=0.3)
    rates, decays = by_parameter(groups, "lr"), by_parameter(groups, "weight_decay")
    assert set(rates) == {id(parameter) for parameter in model.parameters()}, "each is in a group"
    theirs = param_groups_layer_decay(
        whole, weight_decay=0.3, no_weight_decay_list=getattr(whole, "no_weight_decay", set)(), layer_decay=0.7
    )
    scales, expected_decays = by_parameter(theirs, "lr_scale"), by_parameter(theirs, "weight_decay")
    expected = dict(whole.named_parameters())
    for name, parameter in network.encoder.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.02 * scales[id(expected[name])]), name
        assert decays[id(parameter)] == expected_decays[id(expected[name])], name
    assert {rates[id(parameter)] for parameter in network.heads.parameters()} == {0.02}
    below = {rates[id(p)] for name, p in network.encoder.named_parameters() if scales[id(expected[name])] < 1}
    assert max(below) == pytest.approx(0.7 * 0.02), "the last layer is one step below the heads"
    assert all(group["initial_lr"] == group["lr"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    assert {"heads", "heads (no decay)", "encoder_00"} <= {group["name"] for group in groups}


def test_position_embeddings_do_not_decay() -> None:
    network = Network("test_vit")
    decays = by_parameter(groups_of(model_of(network), weight_decay=0.3), "weight_decay")
    assert network.encoder.pos_embed.ndim == 3 and decays[id(network.encoder.pos_embed)] == 0
    assert decays[id(network.encoder.blocks[0].mlp.fc1.weight)] == 0.3


def test_the_encoder_has_a_rate_of_its_own_and_frozen_parameters_are_there() -> None:
    network = Network("test_resnet")
    network.encoder.requires_grad_(False)
    model = model_of(network)
    groups = groups_of(model, lr=0.01, encoder_lr_factor=0.1)
    rates = by_parameter(groups, "lr")
    assert all(rates[id(parameter)] == pytest.approx(0.001) for parameter in network.encoder.parameters())
    assert {rates[id(parameter)] for parameter in network.heads.parameters()} == {0.01}
    assert [group["name"] for group in groups] == ["encoder (no decay)", "encoder", "heads (no decay)", "heads"]
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters()), "and stay frozen"
    both = groups_of(model, lr=0.01, encoder_lr_factor=0.1, layer_decay=0.5)
    assert max(by_parameter(both, "lr")[id(p)] for p in network.encoder.parameters()) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"layer_decay": 0.7}, "layer_decay needs a model"), ({"encoder_lr_factor": 0.5}, "encoder_lr_factor needs")],
)
def test_a_model_without_an_encoder(settings: dict[str, float], message: str) -> None:
    model = model_of(nn.Linear(3, 2))
    assert len(groups_of(model, layer_decay=1.0)) == 2, "1 asks for nothing"
    with pytest.raises(UserError, match=message):
        groups_of(model, **settings)


def test_an_encoder_without_layers() -> None:
    network = Network("test_resnet")
    network.encoder = nn.Sequential(nn.Linear(3, 2))
    assert len(groups_of(model_of(network), encoder_lr_factor=0.5)) == 4
    with pytest.raises(UserError, match="group_matcher"):
        groups_of(model_of(network), layer_decay=0.7)


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    )


def optimizer_of(model: nn.Module, name: str, may_fuse: bool = True, **params: Any) -> torch.optim.Optimizer:
    return make_optimizer(
        model, Optimizer(name=name, lr=0.01, weight_decay=0.3, params=params), Registry(NAMES), may_fuse
    )


def test_fused_where_it_can_be_and_every_group_keeps_its_share() -> None:
    optimizer = optimizer_of(small_model(), "adamw")
    assert all(group["fused"] for group in optimizer.param_groups)
    Trainer.set_learning_rate(SimpleNamespace(optimizer=optimizer), 0.25)  # type: ignore[arg-type]
    assert {group["lr"] for group in optimizer.param_groups} == {0.0025}


def test_the_table_names_those_that_leave_a_step_out_by_themselves() -> None:
    page = (ROOT / "template/README.md.jinja").read_text(encoding="utf-8")
    known = [name for name in list_optimizers() if "fused" not in name and not name.startswith("bnb")]
    by_flag = {name for name in known if name != "adahessian" and knows_flags(optimizer_of(small_model(), name))}
    [row] = [line for line in page.splitlines() if line.startswith("| optimiser |")]
    assert set(re.findall(r"`(\w+)`", row.split(".", 2)[2])) == by_flag


NAMES_TRIED = ["adamw", "sgd", "lamb", "lion", "adan", "nadamw", "muon", "radam", "rmsprop", "lookahead_adamw"]


@pytest.mark.parametrize("name", NAMES_TRIED)
def test_an_optimiser_goes_on_bit_for_bit(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 4) for _ in range(12)]

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> bytes:
        for number in range(first, last):
            seed_everything(0, number)
            Trainer.set_learning_rate(SimpleNamespace(optimizer=optimizer), 1 - number / 20)  # type: ignore[arg-type]
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(batches[number][0]), batches[number][1]).backward()
            optimizer.step()
        return b"".join(value.numpy().tobytes() for value in model.state_dict().values())

    model = small_model()
    optimizer = optimizer_of(model, name)
    before = train(model, optimizer, 0, 0)
    assert train(model, optimizer, 0, 7) != before
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = train(model, optimizer, 7, 12)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = small_model()
    optimizer = optimizer_of(again, name)
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert train(again, optimizer, 7, 12) == expected


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("adamm", {}, "unknown optimiser 'adamm'; did you mean 'adam"),
        ("lookahead_adamm", {}, "unknown optimiser 'lookahead_adamm'; did you mean 'adam"),
        ("adahessian", {}, "second derivatives"),
        ("adamw", {"betaz": 1}, "refused its settings: .*betaz"),
        ("sgd", {"fused": True}, "fused is not possible on this kind of device"),
    ],
)
def test_an_optimiser_that_cannot_be(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        optimizer_of(small_model(), name, may_fuse=False, **params)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="apex and bitsandbytes want a GPU")
@pytest.mark.parametrize("name", ["bnbadam8bit", "fusedadam", "lookahead_fusedadam"])
def test_an_optimiser_for_a_gpu(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' refused its settings: CUDA required"):
        optimizer_of(small_model(), name)


def test_the_rates_are_shown_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(Network("test_resnet"))
    print_rates(make_optimizer(model, Optimizer(), Registry(NAMES), fused=True))
    assert capsys.readouterr().out == ""
    print_rates(make_optimizer(model, Optimizer(lr=0.02, layer_decay=0.5), Registry(NAMES), fused=True))
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[1:] for row in rows if row and row[0].startswith(("encoder", "heads"))}
    assert shown["heads"][:2] == ["2.00e-02", f"{sum(p.numel() for p in model['network'].heads.parameters()):,}"]  # type: ignore[index]
    assert shown["encoder_04"][0] == "1.00e-02" and shown["encoder_00"][0] == "6.25e-04" and len(shown) == 6


WATCH = '''"""Keeps one step: weights and gradients before clipping, and the weights after it."""

import torch

from pipeline.callbacks import Callback
from pipeline.types import Verdict


class Watch(Callback):
    def on_gradients_ready(self, run):
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        self.rates = {
            names[id(parameter)]: group["lr"] for group in run.optimizer.param_groups for parameter in group["params"]
        }
        self.before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
        self.gradients = {name: value.grad.clone() for name, value in run.model.named_parameters()}
        return Verdict.GO

    def on_epoch_end(self, run, result):
        after = {name: value.detach().clone() for name, value in run.model.named_parameters()}
        kept = {"before": self.before, "gradients": self.gradients, "after": after, "rates": self.rates}
        torch.save(kept, run.folder / "step.pt")
'''
CLIPPED = """extends: small
model: {encoder: test_resnet}
training: {epochs: 1, batch_size: 600, accumulate: 1}
optimizer: {name: sgd, lr: 0.5, weight_decay: 0, layer_decay: 0.8, params: {momentum: 0, nesterov: false}}
schedule: {name: constant, warmup_epochs: 0}
callbacks: [watch]
"""


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = demo_project(renders, tmp_path_factory.mktemp("clipped") / "project")
    (project / "src/competition/watch.py").write_text(WATCH)
    init = project / "src/competition/__init__.py"
    init.write_text(init.read_text().replace("names={", 'names={"callback": {"watch": "competition.watch:Watch"}, '))
    (project / "experiments/clipped.yaml").write_text(CLIPPED)
    return project


def clipped_by_hand(
    gradients: dict[str, torch.Tensor], before: dict[str, torch.Tensor], mode: str, limit: float
) -> Any:
    if mode == "norm":
        norm = sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5
        return {name: gradient * min(1.0, limit / norm) for name, gradient in gradients.items()}
    if mode == "value":
        return {name: gradient.clip(-limit, limit) for name, gradient in gradients.items()}
    clipped = {}
    for name, gradient in gradients.items():
        rows = gradient.reshape(len(gradient), -1) if gradient.ndim > 1 else gradient[None]
        weights = before[name].reshape(rows.shape)
        largest = limit * weights.norm(dim=1).clip(min=1e-3)
        scaled = rows * (largest / rows.norm(dim=1)).clip(max=1)[:, None]
        clipped[name] = gradient if ".heads." in name else scaled.reshape(gradient.shape)
    return clipped


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "limit"), [("norm", 0.05), ("value", 1e-3), ("agc", 1e-3)])
def test_a_real_step_is_the_clipped_one(project: Path, mode: str, limit: float) -> None:
    settings = [f"training.clip_grad={limit}", f"training.clip_mode={mode}"]
    expect(run_script(project, "train.py", "clipped", "--fold", "0", "--as", mode, *settings))
    step = torch.load(project / f"runs/{mode}/fold_0/step.pt", weights_only=True)
    clipped = clipped_by_hand(step["gradients"], step["before"], mode, limit)
    bites = 0
    for name, gradient in clipped.items():
        expected = step["before"][name] - step["rates"][name] * gradient
        torch.testing.assert_close(step["after"][name], expected, rtol=1e-5, atol=1e-7)
        unclipped = step["before"][name] - step["rates"][name] * step["gradients"][name]
        bites += not torch.allclose(step["after"][name], unclipped, rtol=1e-5, atol=1e-7)
    assert bites > len(clipped) / 2
    head = [name for name in clipped if ".heads." in name]
    assert len(head) == 2 and len({step["rates"][name] for name in clipped}) == 6
    tags = {column for column in pd.read_csv(project / f"runs/{mode}/fold_0/metrics.csv") if column.startswith("lr/")}
    assert tags == {"lr/heads", *(f"lr/encoder_0{layer}" for layer in range(5))}
