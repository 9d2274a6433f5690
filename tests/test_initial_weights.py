"""`model.weights`: what is loaded, what is told, and what is refused."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, Image, Model
from pipeline.data import NAMES
from pipeline.inference.weights import load_initial_weights, save_weights
from pipeline.project import Project
from pipeline.registry import Registry
from pipeline.settings import Settings
from pipeline.tasks.image_level.task import ImageLevelTask
from toolkit.errors import UserError


def make_model(seed: int = 0, channels: int = 3, classes: str = "abc") -> Any:
    """`Prepare` and network as a training makes them."""
    torch.manual_seed(seed)
    task = ImageLevelTask(Competition(Settings.model_construct()), [Head("label", "multiclass", tuple(classes))])
    settings = Model(encoder="test_resnet", pretrained=False, in_chans=channels)
    return task.model(Experiment(image=Image(size=(32, 32)), model=settings), Registry(NAMES, task.NAMES), False)


def load(model: nn.Module, root: Path, source: str, fold: str = "0", folds: str = "abc") -> None:
    load_initial_weights(model, source, Project.at(root), fold, folds)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def run_folder(root: Path, name: str = "first", folds: str = "abc", chosen: str = "0", seed: int = 7) -> Any:
    """A run as training leaves it: config, run.json, and the best weights of one fold."""
    model = make_model(seed)
    folder = root / "runs" / name
    (folder / f"fold_{chosen}").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"folds": folds}))
    (folder / f"fold_{chosen}" / "fold.json").write_text("{}")
    save_weights(model.state_dict(), folder / f"fold_{chosen}" / "best.safetensors", {})
    return model


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("whole.safetensors", lambda state: state),
        ("whole.pt", lambda state: state),
        ("ddp.pth", lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}}),
        ("lightning.ckpt", lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}}),
        ("compiled.bin", lambda state: {"model": {f"_orig_mod.{name}": value for name, value in state.items()}}),
        ("ema.pth", lambda state: {"state_dict": {}, "state_dict_ema": state, "epoch": 3}),
        ("network.pt", lambda state: {k.removeprefix("network."): v for k, v in state.items() if "prepare" not in k}),
    ],
)
def test_a_whole_model_in_any_wrapping(file: str, wrap: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = make_model(seed=1), make_model(seed=2)
    (save_file if file.endswith("safetensors") else torch.save)(wrap(copied(source)), tmp_path / file)
    assert not same(target, copied(source))
    load(target, tmp_path, file)
    assert same(target, copied(source))
    count = len(source.state_dict()) - 2  # scale and shift of `Prepare` are settings
    assert capsys.readouterr().out == f"weights: {count} of {count} tensors of the model are from {file}\n"


@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone."])
def test_an_encoder_alone(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    encoder = timm.create_model("test_resnet")  # with a classifier of its own
    state = {f"{prefix}{name}": value.clone() for name, value in encoder.state_dict().items()}
    save_file(state, tmp_path / "encoder.safetensors")
    model = make_model(seed=2)
    head = model.network.heads["output_label"].weight.clone()
    load(model, tmp_path, str(tmp_path / "encoder.safetensors"))
    for name, value in model.network.encoder.state_dict().items():
        assert torch.equal(value, state[prefix + name])
    assert torch.equal(model.network.heads["output_label"].weight, head)
    printed = capsys.readouterr().out
    total, loaded = len(model.state_dict()) - 2, len(model.network.encoder.state_dict())
    assert f"weights: {loaded} of {total} tensors" in printed
    assert "not in the file, 2: network.heads.output_label.weight, network.heads.output_label.bias" in printed
    assert f"not in the model, 2: {prefix}fc.bias, {prefix}fc.weight" in printed
    assert "of another shape" not in printed


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_and_other_classes(channels: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = make_model(seed=1), make_model(seed=2, channels=channels, classes="abcde")
    save_file(copied(source), tmp_path / "weights.safetensors")
    before, given = copied(target), copied(source)
    load(target, tmp_path, "weights.safetensors")
    stem = "network.encoder.conv1.0.weight"
    after = copied(target)
    assert torch.equal(after[stem], adapt_input_conv(channels, given[stem])) and after[stem].shape[1] == channels
    for name in ("network.heads.output_label.weight", "prepare.scale"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["network.encoder.layer1.0.conv1.weight"], given["network.encoder.layer1.0.conv1.weight"])
    line = "of another shape, 2: network.heads.output_label.weight (3, 96) for (5, 96), network.heads"
    assert line in capsys.readouterr().out


def test_settings_of_prepare_stay_the_experiments_own(tmp_path: Path) -> None:
    source, target = make_model(seed=1), make_model(seed=2)
    source.prepare.scale += 1
    save_file(copied(source), tmp_path / "weights.safetensors")
    before = target.prepare.scale.clone()
    load(target, tmp_path, "weights.safetensors")
    assert torch.equal(target.prepare.scale, before)


def test_the_same_fold_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = run_folder(tmp_path), make_model(seed=2)
    load(target, tmp_path, "run:first")
    assert same(target, copied(source))
    assert "warning" not in capsys.readouterr().out


def test_a_named_fold_may_know_the_held_out_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = run_folder(tmp_path, folds="others", chosen="full")
    for fold, warns in (("0", True), ("full", False)):
        target = make_model(seed=2)
        load(target, tmp_path, "run:first/full", fold)
        assert same(target, copied(source))
        printed = capsys.readouterr().out
        assert ("warning: run:first/full may have been trained on rows that fold 0 holds out" in printed) == warns


def test_a_run_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    run_folder(tmp_path, folds="abc", chosen="3")
    run_folder(tmp_path, "other", folds="xyz")
    model = make_model()
    for source, message in (
        ("run:firts", "no run of experiment 'firts'; did you mean 'first'"),
        ("run:first", r"fold 0 of the run 'first' is not trained to the end \(finished: 3\)"),
        ("run:first/full", "fold full of the run 'first' is not trained to the end"),
        ("run:other", "trained on other folds, .*run:other/full or run:other/3"),
    ):
        with pytest.raises(UserError, match=message):
            load(model, tmp_path, source)


class Harmful:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.ones(3)}, "other.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_file(copied(make_model()), whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:5000])
    torch.save(copied(make_model()), "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.pth").write_bytes(b"")
    with zipfile.ZipFile("zip.pt", "w") as archive:
        archive.writestr("hello", "world")
    torch.save({"state_dict": {"a": Harmful()}}, "harmful.pt")
    torch.save(torch.ones(3), "tensor.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    model = make_model(seed=3)
    before = copied(model)
    for file, message in (
        ("missing.pt", r"there is no file missing\.pt"),
        ("cut.safetensors", r"cannot read cut\.safetensors as weights"),
        ("cut.pt", "cannot read"),
        ("text.pth", "cannot read"),
        ("empty.pth", "cannot read"),
        ("zip.pt", "cannot read"),
        ("harmful.pt", r"cannot read harmful\.pt as weights .*weights_only"),
        ("tensor.pt", "cannot read"),
        ("numbers.pt", r"holds no tensors by name \(epoch\)"),
        ("other.safetensors", r"nothing in other\.safetensors fits the model: it holds a, and the model wants"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load(model, tmp_path, file)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()
    assert same(model, before)
