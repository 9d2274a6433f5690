"""Encoders of many families, their pooling, and what the network does around them, each against an oracle."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, Image, LossRow, Model
from pipeline.data import NAMES
from pipeline.keys import mask_key
from pipeline.losses.criterion import WeightedLosses
from pipeline.models.encoder_heads import EncoderHeads
from pipeline.models.pooling import GeneralizedMean, average, features, width
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.tasks.image_level.task import ImageLevelTask
from toolkit.errors import UserError

# Encoder, image size, and whether its own pooling is the mean of the map that it gives.
FAMILIES = [
    ("test_resnet", 64, True),
    ("test_convnext", 64, True),
    ("test_efficientnet", 64, True),
    ("mobilenetv3_small_050", 64, True),
    ("test_vit", 64, False),
    ("deit_tiny_distilled_patch16_224", 64, False),
    ("swin_tiny_patch4_window7_224", 64, True),
    ("test_maxvit", 64, True),
    ("test_coatnet", 64, True),
    ("efficientvit_b0", 128, True),
    ("test_nfnet", 64, True),
    ("eva02_tiny_patch14_224", 56, True),
    ("regnetx_002", 64, True),
    ("hgnetv2_b0", 64, True),
    ("test_mambaout", 64, True),
    ("vit_base_patch16_siglip_224", 64, False),
    ("resnet50_clip", 64, False),
]
OWN = """
import torch
from torch import nn


class Map(nn.Module):
    num_features = 6

    def __init__(self, in_chans, pretrained, *, pooled: bool = False):
        super().__init__()
        self.conv, self.pooled = nn.Conv2d(in_chans, 6, 3, stride=2), pooled

    def forward(self, image):
        found = self.conv(image)
        return found.mean((2, 3)) if self.pooled else found


class Nameless(nn.Module):
    def __init__(self, in_chans, pretrained):
        super().__init__()
"""
torch.set_num_threads(1)


def network(encoder: str, size: int = 32, pooling: str = "encoder", names: dict[str, Any] | None = None, **more: Any):
    parameters = {"encoder_params": more.pop("encoder_params", None)}
    params = more.pop("pooling_params", {})
    settings = Model(
        **{"pretrained": False, "image_size": (size, size), **more},
        encoder=encoder,
        pooling=Spec(name=pooling, params=params),
    )
    heads = [Head("label", "multiclass", ("a", "b", "c")), Head("other", "multiclass", ("x", "y"))]
    return EncoderHeads(heads, settings, Registry(ImageLevelTask.NAMES, names or {}), **parameters)


def batch(size: int, count: int = 2, channels: int = 3) -> dict[str, torch.Tensor]:
    return {"input_image": torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(("encoder", "size", "averages"), FAMILIES)
def test_every_family_with_every_pooling(encoder: str, size: int, averages: bool) -> None:
    torch.manual_seed(0)
    model, image, vectors = network(encoder, size).eval().encoder, batch(size)["input_image"], {}
    for name in ("encoder", "avg", "max", "gem", "attention"):
        pooling = Registry(ImageLevelTask.NAMES).bind("pooling", Spec(name=name))(model.num_features)
        vectors[name] = features(model, pooling, image)
        assert vectors[name].shape == (2, width(model, pooling))
        learned = list(pooling.parameters())
        assert bool(learned) == (name in ("gem", "attention"))
        if learned:
            vectors[name].square().sum().backward()
            gradients = [parameter.grad for parameter in learned]
            assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
            assert any(gradient.abs().sum() > 0 for gradient in gradients)
    if averages:  # the layers behind the pooling are the encoder's own, so its own mean gives its own vector
        torch.testing.assert_close(vectors["avg"], vectors["encoder"], atol=1e-3, rtol=1e-3)
    assert not torch.equal(vectors["max"], vectors["avg"])


@pytest.mark.parametrize("pooling", ["encoder", "avg", "max", "gem", "attention"])
def test_pooling_of_an_experiment(pooling: str) -> None:
    """MobileNetV3 hands its heads a wider vector than its map has channels."""
    model = network("mobilenetv3_small_050", 64, pooling)
    outputs = model(batch(64))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "output_label": (2, 3),
        "output_other": (2, 2),
    }
    sum(value.square().sum() for value in outputs.values()).backward()
    assert (model.encoder.num_features, model.heads["output_label"].in_features) == (288, 1024)
    assert all(parameter.grad is not None for parameter in model.pooling.parameters())


def test_prefix_tokens_are_not_pooled() -> None:
    model = network("test_vit").eval()
    image = batch(32)["input_image"]
    with torch.no_grad():
        tokens = model.encoder.forward_features(image)
        assert tokens.shape[1] == 1 + 4, "a class token and 2 x 2 patches"
        torch.testing.assert_close(features(model.encoder, average(64), image), tokens[:, 1:].mean(dim=1))


def test_the_encoders_own_pooling_is_what_it_was() -> None:
    """Same keys and same bits as a plain timm model with a linear layer."""
    torch.manual_seed(3)
    model = network("test_resnet", drop_rate=0.0)
    torch.manual_seed(3)
    encoder, linear = timm.create_model("test_resnet", num_classes=0), nn.Linear(96, 3)
    keys = {f"encoder.{key}" for key in encoder.state_dict()} | {
        f"heads.output_{head}.{part}" for head in ("label", "other") for part in ("weight", "bias")
    }
    assert set(model.state_dict()) == keys
    given = batch(32)
    assert torch.equal(model(given)["output_label"], linear(encoder(given["input_image"])))


@pytest.mark.parametrize("p", [1.0, 3.0, 50.0])
def test_gem_equals_its_formula(p: float) -> None:
    features = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(1)) + 0.01
    double = features.double().requires_grad_()
    power = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    expected = double.pow(power).mean(dim=(2, 3)).pow(1 / power)
    features.requires_grad_()
    pooling = GeneralizedMean(4, p=p)
    found = pooling(features)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(features.grad.double(), double.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooling.p.grad[0].double(), power.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [6e4, 1e-6, 0.0, -5.0])
def test_gem_is_safe_in_half_precision(dtype: torch.dtype, value: float) -> None:
    features = torch.full((1, 2, 4, 4), value, dtype=dtype)
    features[0, 0, 0, 0] = 1.0
    features.requires_grad_()
    pooling = GeneralizedMean(2, p=6.0)
    found = pooling(features)
    found.float().sum().backward()
    assert found.dtype == dtype and found.isfinite().all()
    assert features.grad.isfinite().all() and pooling.p.grad.isfinite().all()
    torch.testing.assert_close(found[0, 1].item(), max(value, 1e-6), rtol=1e-2, atol=1e-6)


def test_a_pooling_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="96 channels cannot be divided among 7 heads"):
        network("test_resnet", pooling="attention", pooling_params={"num_heads": 7})
    model = network("coat_tiny", 64, "gem")
    with pytest.raises(UserError, match=r"CoaT gives no single feature map to pool; set model.pooling to encoder"):
        model(batch(64))


def test_encoders_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"encoder": {"map": "own_encoders:Map", "nameless": "own_encoders:Nameless"}}
    model = network("map", pooling="gem", names=names, in_chans=2)
    outputs = model(batch(32, channels=2))
    assert outputs["output_label"].shape == (2, 3) and model.heads["output_label"].in_features == 6
    pooled = {"encoder_params": {"pooled": True}}
    assert network("map", names=names, **pooled)(batch(32))["output_label"].shape == (2, 3)
    with pytest.raises(UserError, match="encoder Map gives no single feature map"):
        network("map", pooling="gem", names=names, **pooled)(batch(32))
    with pytest.raises(UserError, match="'nameless' does not say how wide"):
        network("nameless", names=names)
    with pytest.raises(UserError, match=r"gets no model.drop_path_rate"):
        network("map", names=names, drop_path_rate=0.1)
    with pytest.raises(UserError, match="'map' cannot recompute its activations"):
        network("map", names=names, grad_checkpointing=True)


def test_position_embeddings_are_resampled_for_the_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("test_vit")  # for 160 px: 10 x 10 patches
    save_file(plain.state_dict(), tmp_path / "vit.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "vit.safetensors")}}
    model = network("test_vit", 96, pretrained=True, encoder_params=overlay)
    expected = resample_abs_pos_embed(plain.pos_embed, new_size=[6, 6], old_size=[10, 10], num_prefix_tokens=1)
    torch.testing.assert_close(model.encoder.pos_embed, expected)
    assert model(batch(96))["output_label"].shape == (2, 3)
    assert model(batch(64))["output_label"].shape == (2, 3), "an intervention may change the size while training"
    native = network("test_vit", 160, pretrained=True, encoder_params=overlay).eval()
    image = batch(160)["input_image"]
    assert torch.equal(native.encoder(image), plain.eval().forward_head(plain.forward_features(image), pre_logits=True))


def test_the_task_builds_for_the_size_of_the_images() -> None:
    task = ImageLevelTask(Competition(Settings.model_construct()), [Head("label", "multiclass", ("a", "b"))])
    experiment = Experiment(image=Image(size=(64, 96)), model=Model(encoder="test_vit", pretrained=False))
    model = task.model(experiment, Registry(NAMES, ImageLevelTask.NAMES), pretrained=False)
    assert model.network.encoder.patch_embed.grid_size == (4, 6)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    assert model({"input_image": images})["output_label"].shape == (2, 2)


@pytest.mark.parametrize(
    ("encoder", "size", "more", "message"),
    [
        ("ghostnet_050", 32, {"drop_path_rate": 0.1}, r"'ghostnet_050' refused its settings .*drop_path_rate"),
        ("pit_ti_224", 64, {"grad_checkpointing": True}, "'pit_ti_224' cannot recompute its activations"),
        ("test_resnet", 32, {"encoder_params": {"deepth": 3}}, r"refused its settings \(.*deepth"),
        ("test_resnet", 32, {"multi_sample_dropout": 4}, "needs a model.drop_rate above 0"),
        ("resnet_18", 32, {}, "unknown encoder 'resnet_18'; did you mean 'resnet18'"),
    ],
)
def test_what_an_encoder_refuses_is_one_line(encoder: str, size: int, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network(encoder, size, **more)


def test_an_image_size_that_an_encoder_refuses_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot take images of 48x48"):
        network("mixer_s32_224", 32)(batch(48))


def test_drop_path_reaches_the_encoder() -> None:
    model = network("test_convnext", drop_path_rate=0.5)
    assert any(type(module).__name__ == "DropPath" for module in model.encoder.modules())
    model.train()
    given = batch(32)
    assert not torch.equal(model(given)["output_label"], model(given)["output_label"])


def test_multi_sample_dropout_has_a_mask_for_each_sample_of_logits() -> None:
    model, given = network("test_resnet", drop_rate=0.5, multi_sample_dropout=3), batch(32, count=4)
    outputs = model(given)
    keys = ["output_label", mask_key("output_label", 1), mask_key("output_label", 2)]
    assert {key for key in outputs if key.startswith("output_label")} == set(keys) and len(outputs) == 6
    assert not torch.equal(outputs[keys[0]], outputs[keys[1]]), "the masks differ"
    target, weight = torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 2.0, 0.5, 1.0])
    row = LossRow(head="label", loss=Spec(name="cross_entropy"))
    criterion = WeightedLosses([row], [Head("label", "multiclass", ("a", "b", "c"))], Registry(ImageLevelTask.NAMES))
    result = criterion(outputs, {"target_label": target, "input_weight": weight})
    each = torch.stack([functional.cross_entropy(outputs[key], target, reduction="none") for key in keys])
    torch.testing.assert_close(result["loss"], (each.mean(dim=0) * weight).mean())
    torch.testing.assert_close(result["sample_losses"]["label_cross_entropy"], each.mean(dim=0).detach())
    assert set(model.eval()(given)) == {"output_label", "output_other"}


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", "test_convnext"])
def test_gradients_with_checkpointing_are_those_without(encoder: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = network(encoder, grad_checkpointing=checkpointing)
        model(batch(32))["output_label"].square().sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert any(name.startswith("encoder.") for name in found)
        gradients.append(found)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


class SilentServer:
    """A hub that is not there: it takes each connection, counts it, and closes it."""

    def __enter__(self) -> "SilentServer":
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address, self.connections = f"http://127.0.0.1:{self.socket.getsockname()[1]}", 0
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


def test_a_hub_out_of_reach_is_asked_once_and_its_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    with SilentServer() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(
            UserError, match=r"cannot fetch the pretrained weights of 'test_resnet' .*pretrained: false"
        ):
            network("test_resnet", pretrained=True)
        assert server.connections == 1
        with pytest.raises(UserError, match="cannot fetch the pretrained weights of 'hf-hub:someone/something'"):
            network("hf-hub:someone/something", pretrained=True)
        assert server.connections == 2
        weights = timm.create_model("test_resnet").state_dict()
        folder = tmp_path / ("models--" + timm.get_pretrained_cfg("test_resnet").hf_hub_id.replace("/", "--"))
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("a" * 40)
        (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
        save_file(weights, folder / "snapshots" / ("a" * 40) / "model.safetensors")
        model = network("test_resnet", pretrained=True)
        assert server.connections == 2, "what is in the cache needs no hub"
    assert all(torch.equal(value, weights[name]) for name, value in model.encoder.state_dict().items())


def test_heads_of_any_name_have_outputs_and_weights_of_their_own() -> None:
    """pandas itself writes `label.1`, and torch takes no dot in the name of a module."""
    columns = ["label", "label.1", "label_1", "type", "training", "T", "a b", "a/b", "größe", "..", ".", "", "a%b"]
    heads = [Head(column, "multiclass", ("a", "b")) for column in columns]
    settings = Model(encoder="test_resnet", pretrained=False, image_size=(32, 32))
    made = EncoderHeads(heads, settings, Registry(ImageLevelTask.NAMES))
    outputs = made({"input_image": torch.randn(2, 3, 32, 32)})
    assert list(outputs) == [head.output_key for head in heads] and len(outputs) == len(columns)
    weights = made.state_dict()
    assert "heads.output_label.weight" in weights and "heads.output_a b.weight" in weights, "ordinary names stay"
    sum(value.sum() for value in outputs.values()).backward()
    assert all(parameter.grad is not None for parameter in made.heads.parameters())
    made.load_state_dict(weights)
