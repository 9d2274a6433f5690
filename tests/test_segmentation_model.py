"""Decoders with encoders of several families: shapes, gradients, padding, more outputs, and what is refused."""

import copy
import re
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, Model, Optimizer
from pipeline.models import segmenter as model
from pipeline.registry import Registry, Spec, check_params
from pipeline.settings import Settings
from pipeline.tasks.segmentation.task import MODELS, SegmentationTask
from pipeline.training.optimizer import parameter_groups
from toolkit.errors import UserError

HEADS = [Head("mask", "mask", ("a",)), Head("kind", "multiclass_mask", ("a", "b"))]
TRANSFORMERS = {"dpt": "test_vit", "unetplusplus": "convnext_atto", "deeplabv3plus": "mobilenetv3_small_050"}
STRIDES = {
    "unet": [2, 4, 16],
    "unetplusplus": [4, 8],
    "fpn": [4, 8, 32],
    "deeplabv3plus": [4, 16],
    "upernet": [4, 8, 16, 32],
    "segformer": [4, 8],
    "dpt": [4, 8],
}


def made(decoder: str, encoder: str, heads: list[Head] = HEADS, **params: Any) -> Any:
    settings = Model(encoder=encoder, pretrained=False, in_chans=params.pop("in_chans", 3), **params.pop("model", {}))
    if decoder == "dpt":  # its usual width takes seconds
        params.setdefault("decoder_params", {"decoder_intermediate_channels": [16, 16, 32, 32]})
        params.setdefault("decoder_channels", 16)
    network = getattr(model, MODELS[decoder])
    return network(heads, settings, Registry(), **check_params(network, params, decoder))


@pytest.mark.parametrize("decoder", STRIDES)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_outputs_have_the_images_size_and_all_that_trains_has_gradients(decoder: str, in_chans: int) -> None:
    for encoder in ("resnet18", TRANSFORMERS.get(decoder, "pvt_v2_b0")):
        network = made(decoder, encoder, in_chans=in_chans, presence=True, deep_supervision=STRIDES[decoder][:1])
        assert len(network.mean) == len(network.std) == in_chans
        outputs = network({"input_image": torch.randn(2, in_chans, 70, 45)})
        stride = STRIDES[decoder][0]
        smaller = (-(-70 // stride), -(-45 // stride))
        assert {key: tuple(value.shape) for key, value in outputs.items()} == {
            "output_mask": (2, 1, 70, 45),
            "output_kind": (2, 3, 70, 45),
            "output_mask@presence": (2, 1),
            "output_kind@presence": (2, 2),
            f"output_mask@stride{stride}": (2, 1, *smaller),
            f"output_kind@stride{stride}": (2, 3, *smaller),
        }
        sum(value.square().sum() for value in outputs.values()).backward()
        assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_a_dot_in_the_name_of_a_head() -> None:
    heads = [Head("tumour.grade", "mask", ("a.b",)), HEADS[1]]
    network = made("unet", "resnet18", heads, presence=True, deep_supervision=[4])
    outputs = network({"input_image": torch.randn(2, 3, 64, 64)})
    expected = {f"{head.output_key}{end}" for head in heads for end in ("", "@presence", "@stride4")}
    assert set(outputs) == expected
    assert "presence.output_kind.weight" in network.state_dict(), "an ordinary name stays as it is"


def test_it_is_smps_network() -> None:
    """With the weights of smp's own network, the same logits; and an odd size is the padded one, cut."""
    torch.manual_seed(0)
    theirs = smp.Unet("tu-resnet18", encoder_weights=None, classes=1).eval()
    ours = made("unet", "resnet18", HEADS[:1]).eval()
    state = theirs.state_dict()
    for part in ("encoder", "decoder"):
        own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        getattr(ours, part).load_state_dict(own)
    ours.heads["output_mask"].load_state_dict(theirs.segmentation_head.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours({"input_image": image})["output_mask"], theirs(image))
        image = torch.randn(1, 3, 50, 70)
        padded = torch.nn.functional.pad(image, (0, 26, 0, 14), mode="replicate")
        torch.testing.assert_close(ours({"input_image": image})["output_mask"], theirs(padded)[..., :50, :70])


@pytest.mark.parametrize("decoder", STRIDES)
def test_strides_of_deep_supervision(decoder: str) -> None:
    encoder = "test_vit" if decoder == "dpt" else "resnet18"
    network = made(decoder, encoder, HEADS[:1], deep_supervision=STRIDES[decoder])
    copied = copy.deepcopy(network).eval()  # as a moving average of the weights is one
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first, second = network.eval()({"input_image": image}), copied({"input_image": image})
    for stride in STRIDES[decoder]:
        assert first[f"output_mask@stride{stride}"].shape == (1, 1, 64 // stride, 64 // stride)
        torch.testing.assert_close(first[f"output_mask@stride{stride}"], second[f"output_mask@stride{stride}"])
    with pytest.raises(UserError, match=r"no features of stride 64; model.params.deep_supervision takes .*4"):
        made(decoder, encoder, deep_supervision=[64])


def test_encoders_that_do_not_fit_are_refused_with_some_that_do() -> None:
    with pytest.raises(UserError, match=r"unet cannot take the encoder 'test_vit'.*resnet34"):
        made("unet", "test_vit")
    with pytest.raises(UserError, match=r"deeplabv3plus cannot take the encoder 'pvt_v2_b0'.*resnet34"):
        made("deeplabv3plus", "pvt_v2_b0")
    with pytest.raises(UserError, match="unknown encoder 'resnet19'; did you mean"):
        made("unet", "resnet19")
    with pytest.raises(UserError, match=r"or correct model\.params"):
        made("unet", "resnet18", decoder_channels=[8, 8])
    with pytest.raises(UserError, match="has 0 classes"):
        made("unet", "resnet18", [Head("mask", "mask")])


def test_an_encoder_of_a_fixed_size_takes_the_images() -> None:
    settings = {"image_size": (70, 100)}
    network = made("upernet", "swin_tiny_patch4_window7_224", HEADS[:1], model=settings)
    assert network({"input_image": torch.randn(2, 3, 70, 100)})["output_mask"].shape == (2, 1, 70, 100)


def test_width_of_the_decoder_and_drop_path() -> None:
    small = made(
        "unet", "resnet18", decoder_channels=[32, 16, 16, 8, 4], model={"drop_path_rate": 0.1, "drop_rate": 0.2}
    )
    assert small.heads["output_mask"][0].in_channels == 4
    assert made("fpn", "resnet18", decoder_channels=64).heads["output_mask"][0].in_channels == 64
    assert made("unet", "resnet18", decoder_params={"decoder_attention_type": "scse"}).decoder.blocks[0].attention1


def test_the_contract_names_what_does_not_fit() -> None:
    network = made("unet", "resnet18", presence=True).eval()
    batch = {
        "input_id": ["a", "b"],
        "input_image": torch.zeros(2, 40, 32, 3, dtype=torch.uint8),
        "input_window": torch.zeros(2, 9, dtype=torch.int64),
        "target_mask": torch.zeros(2, 1, 40, 32, dtype=torch.uint8),
        "target_kind": torch.zeros(2, 40, 32, dtype=torch.uint8),
    }
    with torch.no_grad():
        outputs = network({"input_image": batch["input_image"].float().permute(0, 3, 1, 2)})
    check = SegmentationTask(Competition(Settings.model_construct()), HEADS).batch_schema
    table = check(batch, outputs)
    assert ("target_kind", "uint8", "(2, 40, 32)", "batch") in table
    assert ("output_kind", "float32", "(2, 3, 40, 32)", "output") in table
    wrong = {
        "target_mask": batch["target_mask"].long(),
        "target_kind": batch["target_kind"][:, None],
        "input_window": batch["input_window"][:, :7],
        "input_image": batch["input_image"].double(),
    }
    for key, value in wrong.items():
        with pytest.raises(UserError, match=r"'input_|head '"):
            check({**batch, key: value}, outputs)
    for key in ("output_kind", "output_mask@presence"):
        with pytest.raises(UserError, match="is expected"):
            check(batch, {**outputs, key: outputs[key][:, :0]})
    with pytest.raises(UserError, match="output_kind"):
        check(batch, {"output_mask": outputs["output_mask"]})


LAYERED = {
    "unet": ("resnet18", "test_convnext", "efficientnet_b0", "regnety_004", "maxvit_pico_rw_256"),
    "upernet": ("swin_tiny_patch4_window7_224",),
    "fpn": ("hiera_tiny_224",),
    "dpt": ("test_vit",),
}


@pytest.mark.parametrize(("decoder", "encoder"), [(name, each) for name, found in LAYERED.items() for each in found])
def test_rates_by_layer_are_timms_whatever_the_parameters_are_called(decoder: str, encoder: str) -> None:
    network, whole = made(decoder, encoder, HEADS[:1]), timm.create_model(encoder)
    groups = parameter_groups(nn.ModuleDict({"network": network}), Optimizer(lr=1.0, layer_decay=0.5))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == {id(parameter) for parameter in network.parameters()}
    theirs = param_groups_layer_decay(whole, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in theirs for parameter in group["params"]}
    by_name = {name.replace(".", "_"): scales[id(parameter)] for name, parameter in whole.named_parameters()}
    found = {name: rates[id(parameter)] for name, parameter in network.encoder.named_parameters()}
    known = {name: by_name[re.sub(r"^(model\.)+", "", name).replace(".", "_")] for name in found}
    assert found == known and min(found.values()) < 0.2
    assert {rates[id(parameter)] for parameter in [*network.decoder.parameters(), *network.heads.parameters()]} == {1.0}


def test_crops_and_a_cache_do_not_go_together() -> None:
    experiment = Experiment(image={"cache": True}, model={"encoder": "test_resnet", "pretrained": False})
    task, names = SegmentationTask(Competition(Settings.model_construct()), HEADS), Registry(SegmentationTask.NAMES)
    with pytest.raises(UserError, match=r"^image\.cache holds whole images.* task\.params\.view: whole$"):
        task.check_settings(experiment, names)
    whole = experiment.model_copy(update={"task": Spec(name="default", params={"view": "whole"})})
    task.check_settings(whole, names)


def test_an_encoder_whose_layers_nobody_knows() -> None:
    network = made("unet", "caformer_s18", HEADS[:1])
    with pytest.raises(UserError, match=r"layers timm knows, and 'caformer_s18' is none; set .*encoder_lr_factor"):
        parameter_groups(nn.ModuleDict({"network": network}), Optimizer(layer_decay=0.5))
