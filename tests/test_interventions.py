"""Settings that are others in some epochs: what trains, how large images are, which loss, which augmentations."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from projects import Renders, imported, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome

WATCH = '''
import json

import torch
from pipeline.callbacks import Callback
from pipeline.types import Verdict


class Watch(Callback):
    """One line of JSON per training batch: its size, brightness, losses, and which parts moved or count statistics."""

    def on_epoch_start(self, run, stage):
        if stage == "train":
            self.before = {k: v.clone() for k, v in run.model.state_dict().items()}

    def on_batch_end(self, run, stage, batch, result):
        image = batch["input_image"]
        line = {
            "stage": stage,
            "epoch": run.progress.epoch + 1,
            "size": list(image.shape[1:3]),
            "terms": sorted(result["losses"]),
            "pixels": int(image.sum()),
        }
        with (run.folder / "watch.jsonl").open("a") as file:
            print(json.dumps(line), file=file)

    def on_epoch_end(self, run, result):
        if result.stage != "train":
            return
        moved = [k for k, v in run.model.state_dict().items() if not torch.equal(v, self.before[k])]
        with (run.folder / "moved.jsonl").open("a") as file:
            print(json.dumps({"epoch": result.epoch + 1, "moved": moved}), file=file)
'''

STOP = '''

class Stop(Callback):
    """Ends a training in the middle of its second epoch, once."""

    def on_batch_start(self, run, stage, batch):
        flag = run.folder / "stopped"
        if stage == "train" and run.progress.epoch == 1 and run.progress.batch == 4 and not flag.exists():
            flag.touch()
            raise OSError("power cut")
'''


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = demo_project(renders, tmp_path_factory.mktemp("interventions") / "project")
    add_callbacks(made, WATCH + STOP, watch="Watch", stop="Stop")
    return made


@pytest.fixture
def pipeline(renders: Renders) -> Iterator[None]:
    with imported(renders.shared()):
        yield


def write(project: Path, name: str, interventions: str, epochs: int = 3) -> None:
    (project / f"experiments/{name}.yaml").write_text(
        f"extends: small\ncallbacks: [watch]\ntraining: {{epochs: {epochs}, batch_size: 128}}\n"
        f"interventions:\n{interventions}"
    )


def train(project: Path, name: str, status: int = 0) -> str:
    result = expect(run_script(project, "train.py", name, "--fold", "0"), status)
    return result.stderr if status else result.stdout


def lines(project: Path, name: str, file: str) -> list[dict]:
    return [json.loads(line) for line in (project / f"runs/{name}/fold_0/{file}").read_text().splitlines()]


@pytest.mark.slow
def test_image_size_losses_and_augmentations_change_for_training_only(project: Path) -> None:
    write(
        project,
        "changing",
        "  - {epochs: [1, 1], set: {image.size: 16}}\n"
        "  - {epochs: [2, -1], set: {losses: [{head: label, loss: {name: cross_entropy, "
        "params: {label_smoothing: 0.2}}, name: smooth}]}}\n"
        "  - {epochs: [-1, -1], set: {augmentations.params.strength: 0}}\n",
    )
    train(project, "changing")
    seen = lines(project, "changing", "watch.jsonl")
    stages = {(line["stage"], line["epoch"]): line for line in seen}
    assert [stages["train", epoch]["size"] for epoch in (1, 2, 3)] == [[16, 16], [32, 32], [32, 32]]
    assert [stages["valid", epoch]["size"] for epoch in (1, 2, 3)] == [[32, 32]] * 3
    assert stages["train", 1]["terms"] == ["label_cross_entropy"]
    assert stages["train", 2]["terms"] == stages["train", 3]["terms"] == ["smooth"]
    assert stages["valid", 3]["terms"] == ["label_cross_entropy"], "scores stay comparable"
    assert len([line for line in seen if line["stage"] == "train"]) == 3 * 8, "8 batches in every epoch"
    write(project, "unchanged", "  - {epochs: [3, 3], set: {augmentations.params.strength: 0}}\n")
    train(project, "unchanged")
    other = [line["pixels"] for line in lines(project, "unchanged", "watch.jsonl") if line["epoch"] == 3]
    assert [line["pixels"] for line in seen if line["epoch"] == 3] == other, "pixels are a function of epoch and row"


@pytest.mark.slow
def test_frozen_parts_do_not_move_until_they_are_unfrozen(project: Path) -> None:
    write(project, "frozen", "  - {epochs: [1, 2], set: {model.frozen: [encoder]}}\n")
    train(project, "frozen")
    moved = {line["epoch"]: set(line["moved"]) for line in lines(project, "frozen", "moved.jsonl")}
    heads = {"network.heads.output_label.weight", "network.heads.output_label.bias"}
    assert moved[1] == moved[2] == heads, "weight decay and batch norm's statistics included"
    assert any(name.startswith("network.encoder") and "running_mean" in name for name in moved[3])
    assert len(moved[3]) > 20


@pytest.mark.slow
def test_freeze_norm_keeps_statistics_weights_and_biases(project: Path) -> None:
    write(project, "norms", "  - {epochs: [1, 2], set: {model.freeze_norm: true}}\n")
    train(project, "norms")
    moved = {line["epoch"]: set(line["moved"]) for line in lines(project, "norms", "moved.jsonl")}
    norms = {name.rpartition(".")[0] for name in moved[3] if "running_mean" in name}
    assert norms and not any(name.rpartition(".")[0] in norms for name in moved[1] | moved[2])
    assert any(name.startswith("network.encoder") for name in moved[1]), "convolutions train"


@pytest.mark.slow
def test_a_run_that_is_cut_off_goes_on_inside_an_intervention(project: Path) -> None:
    text = (
        "  - {epochs: [1, 2], set: {model.frozen: [encoder.layer1], image.size: 24}}\n"
        "  - {epochs: [2, 3], set: {augmentations.params.rotate: 40}}\n"
    )
    for name in ("whole", "cut"):
        write(project, name, text)
        path = project / f"experiments/{name}.yaml"
        own = "[watch, stop]" if name == "cut" else "[watch]"
        path.write_text(path.read_text().replace("[watch]", own) + "checkpoints: {save_minutes: 1.0e-6}\n")
    train(project, "whole")
    assert run_script(project, "train.py", "cut", "--fold", "0").status == 1
    assert "going on at epoch 2, batch 4" in train(project, "cut")
    assert_same_outcome(outcome(project, "whole"), outcome(project, "cut"))


@pytest.mark.parametrize(
    ("intervention", "hint"),
    [
        ("{epochs: [1, 2], set: {optimizer.lr: 1}}", "'optimizer.lr' cannot change while training"),
        ("{epochs: [1, 2], set: {image.siz: 24}}", "did you mean 'image.size'"),
        ("{epochs: [0, 2], set: {image.size: 24}}", "counted from 1"),
        ("{epochs: [3, 2], set: {image.size: 24}}", "counted from 1"),
        ("{epochs: [5, 6], set: {image.size: 24}}", "none of the 3 epochs"),
        ("{epochs: [1, 2], set: {}}", "set"),
        ("{epochs: [1, 2], set: {image.size: 0}}", "interventions.0: the experiment: 'image.size"),
        ("{epochs: [1, 2], set: {model.frozen: [encoder.layer9]}}", "did you mean 'encoder.layer"),
        ("{epochs: [1, 2], set: {model.frozen: [encoder, heads]}}", "nothing to train"),
        ("{epochs: [1, 2], set: {augmentations.params.strenght: 1}}", "strength"),
        ("{epochs: [1, 2], set: {losses: [{head: lable, loss: cross_entropy}]}}", "label"),
    ],
)
def test_what_is_wrong_is_said_before_anything_trains(project: Path, intervention: str, hint: str) -> None:
    name = f"bad-{abs(hash(intervention))}"
    write(project, name, f"  - {intervention}\n")
    said = train(project, name, status=2)
    assert hint in said and said.count("\n") == 1
    assert not (project / f"runs/{name}/fold_0/metrics.csv").is_file()


def test_what_is_frozen_is_named_by_parts_and_patterns(pipeline: None) -> None:
    from pipeline.config import Model
    from pipeline.training.model import freeze

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"layer1": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))})
            self.encoder["layer10"] = nn.Linear(1, 1)
            self.heads = nn.Linear(1, 1)

    network = Network()

    def frozen(*patterns: str) -> set[str]:
        freeze(network.train(), Model(frozen=patterns))
        return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}

    assert frozen("*.bias") >= {"encoder.layer10.bias", "heads.bias"}
    assert frozen("encoder.layer1") == {
        f"encoder.layer1.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    assert not network.encoder["layer1"][1].training and network.heads.training
    freeze(network.train(), Model())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.encoder["layer1"][1].training


def test_params_of_an_intervention_are_kept_with_their_defaults(project: Path) -> None:
    """A default that changes later must not change an old run: the whole stage is in the run's settings."""
    with imported(project):
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training.setup import prepare

        write(project, "kept", "  - {epochs: [-1, -1], set: {losses: [{head: label, loss: cross_entropy}]}}\n")
        at = Project.at(project)
        setup = prepare(at, competition, "kept", load_experiment(at, "kept"))
    [row] = setup.config.interventions[0].set["losses"]
    assert row["loss"] == {"name": "cross_entropy", "params": {"label_smoothing": 0.0}}
    first, second, third = setup.epoch_configs
    assert first is second and first is not third
