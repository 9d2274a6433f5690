"""Averages of weights: over steps, over epochs, over the best epochs, over seeds."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.config import Averaging
from pipeline.inference.weights import save_weights
from pipeline.training.averaging import WeightAverages
from pipeline.training.finish import load_mean
from projects import Renders, run_script
from toolkit.errors import UserError
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome

RECORDER = '''
import torch
from pipeline.callbacks import Callback


class Recorder(Callback):
    """Keeps the weights at the end of every epoch."""

    def on_epoch_end(self, run, result):
        self.keep(run, f"epoch_{result.epoch}" if result.stage == "valid" else f"end_{result.epoch}")

    def keep(self, run, name):
        torch.save({k: v.clone() for k, v in run.model.state_dict().items()}, run.folder / f"{name}.pt")
'''


@pytest.fixture
def pipeline(renders: Renders) -> Iterator[None]:
    yield


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = demo_project(renders, tmp_path_factory.mktemp("averaging") / "project")
    add_callbacks(made, RECORDER, recorder="Recorder")
    return made


def train(project: Path, name: str, *settings: str, fold: str = "0") -> str:
    result = run_script(project, "train.py", "small", *settings, "--as", name, "--fold", fold)
    return expect(result).stdout


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_equals_its_formula(pipeline: None, warmup: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averages = WeightAverages(model, Averaging(ema_decay=0.6, ema_warmup=warmup), epochs=1)
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 7):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.randn_like(value.float()) * 10)
        decay = min(0.6, 1 - (1 + (step - 1)) ** (-2 / 3)) if warmup else 0.6
        for name, value in model.state_dict().items():
            first = step == 1 or not value.is_floating_point()  # the first step is the average; counters are copied
            expected[name] = value.clone() if first else decay * expected[name] + (1 - decay) * value
        assert averages.ema is not None
        averages.ema.update(model, step)
    for name, value in averages.scored(model).state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert averages.scored(model) is not model


@pytest.mark.parametrize(("start", "epochs"), [(3, [2, 3, 4]), (-2, [3, 4]), (5, [4])])
def test_swa_is_the_mean_of_the_epochs_from_its_start(pipeline: None, start: int, epochs: list[int]) -> None:
    model = nn.Linear(3, 2)
    averages = WeightAverages(model, Averaging(swa_start=start), epochs=5)
    seen = []
    for epoch in range(5):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3))
        seen.append(model.weight.detach().clone())
        averages.epoch_ended(model, epoch)
        state = averages.state_dict()
        averages = WeightAverages(model, Averaging(swa_start=start), epochs=5)  # as after a kill
        averages.load_state_dict(state)
    assert averages.swa is not None
    torch.testing.assert_close(averages.swa.module.weight, torch.stack([seen[epoch] for epoch in epochs]).mean(dim=0))


@pytest.mark.parametrize("start", [0, 6, -6])
def test_swa_from_no_epoch_is_refused(pipeline: None, start: int) -> None:
    with pytest.raises(UserError, match="5 epochs"):
        WeightAverages(nn.Linear(1, 1), Averaging(swa_start=start), epochs=5)


def test_the_mean_of_files(pipeline: None, tmp_path: Path) -> None:
    models = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(3)]
    for number, model in enumerate(models):
        nn.init.normal_(model[1].running_mean)
        save_weights(model.state_dict(), tmp_path / f"{number}.safetensors", {})
    target = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    load_mean(target, [tmp_path / f"{number}.safetensors" for number in range(3)])
    for name, value in target.state_dict().items():
        if value.is_floating_point():
            states = [model.state_dict()[name] for model in models]
            torch.testing.assert_close(value, torch.stack(states).mean(dim=0), msg=name)


@pytest.mark.slow
def test_a_run_with_ema_scores_and_keeps_it_beside_the_raw_weights(project: Path) -> None:
    train(project, "ema", "averaging.ema_decay=0.9", "callbacks=[recorder]", "training.epochs=3")
    fold = project / "runs/ema/fold_0"
    best = json.loads((fold / "fold.json").read_text())["best_epoch"]
    ema, raw = load_file(fold / "best.safetensors"), load_file(fold / "best.raw.safetensors")
    recorded = torch.load(fold / f"epoch_{best - 1}.pt", weights_only=True)
    assert all(torch.equal(raw[name], recorded[name]) for name in raw), "the weights as they trained"
    assert any(not torch.equal(ema[name], raw[name]) for name in raw)
    metrics = pd.read_csv(fold / "metrics.csv")
    rows = metrics.dropna(subset=["valid/accuracy"])
    assert {"valid_raw/accuracy", "valid_raw/loss"} <= set(metrics)
    assert (rows["valid/loss"] != rows["valid_raw/loss"]).all()
    assert not list((fold / "checkpoints").glob("*")), "what a finished fold needs no more is gone"
    plain = project / "runs/plain/fold_0"
    train(project, "plain", "callbacks=[recorder]", "training.epochs=3")
    for epoch in range(3):
        first, second = (torch.load(folder / f"epoch_{epoch}.pt", weights_only=True) for folder in (fold, plain))
        assert all(torch.equal(first[name], second[name]) for name in first), "an average changes no step"


@pytest.mark.slow
def test_averages_over_epochs_are_kept_only_if_they_are_better(project: Path) -> None:
    said = train(
        project,
        "epochs",
        *("averaging.best_epochs=2", "averaging.swa_start=-2", "training.epochs=3", "callbacks=[recorder]"),
    )
    assert "mean of epochs 2 to 3 (SWA)" in said and "mean of epochs" in said and "best epoch" in said
    fold = project / "runs/epochs/fold_0"
    kept = json.loads((fold / "fold.json").read_text())
    table = [line for line in said.splitlines() if "epoch" in line and "│" in line]
    scores = {line.split("│")[2].strip(): float(line.split("│")[4]) for line in table}
    assert len(scores) == 3 and kept["weights"] in scores
    assert scores[kept["weights"]] == max(scores.values()), "chosen by the metric on the held-out rows"
    assert kept["metrics"]["accuracy"] == pytest.approx(max(scores.values()), abs=1e-4)


@pytest.mark.slow
def test_with_nothing_held_out_the_mean_that_was_asked_for_is_taken(project: Path) -> None:
    train(project, "all", "averaging.swa_start=2", "training.epochs=3", "callbacks=[recorder]", fold="full")
    fold = project / "runs/all/fold_full"
    weights = load_file(fold / "best.safetensors")
    assert "SWA" in json.loads((fold / "fold.json").read_text())["weights"]
    epochs = [torch.load(fold / f"end_{epoch}.pt", weights_only=True) for epoch in (1, 2)]
    for name, value in weights.items():
        if "running" not in name and value.is_floating_point():
            torch.testing.assert_close(value, (epochs[0][name] + epochs[1][name]) / 2, msg=name)
    assert any(not torch.allclose(weights[name], epochs[1][name]) for name in weights if "running_var" in name), (
        "batch norm is measured anew"
    )


@pytest.mark.slow
def test_several_seeds_are_averaged(project: Path) -> None:
    settings = ("seeds=2", "seed=3", "training.epochs=1")
    train(project, "seeds", *settings)
    fold = project / "runs/seeds/fold_0"
    parts = [pd.read_parquet(fold / f"seed_{seed}/oof.parquet").set_index("id") for seed in (3, 4)]
    mean = pd.read_parquet(fold / "oof.parquet").set_index("id")
    columns = [column for column in mean if column.startswith("label:")]
    assert not np.allclose(parts[0][columns], parts[1][columns])
    np.testing.assert_allclose(mean[columns], (parts[0][columns] + parts[1][columns]) / 2, atol=1e-6)
    train(project, "third", "seed=3", "training.epochs=1")
    assert_same_outcome(outcome(project, "third"), outcome(project, "seeds", fold="0/seed_3"))
    expect(run_script(project, "evaluate.py", "seeds", "--fold", "0"))
    assert "2 seeds each" in expect(run_script(project, "predict.py", "seeds", "--fold", "0")).stdout
    single = [pd.DataFrame()] * 2
    for number, seed in enumerate((3, 4)):
        name = f"only-{seed}"
        train(project, name, f"seed={seed}", "training.epochs=1")
        expect(run_script(project, "predict.py", name, "--fold", "0"))
        single[number] = pd.read_parquet(project / f"runs/{name}/test.parquet").set_index("id")
    both = pd.read_parquet(project / "runs/seeds/test.parquet").set_index("id")
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    again = expect(run_script(project, "train.py", "seeds", "--fold", "0")).stdout
    assert again.count("nothing to do") == 2
    assert math.isclose(json.loads((fold / "fold.json").read_text())["metrics"]["accuracy"], accuracy(project, mean))


def accuracy(project: Path, oof: pd.DataFrame) -> float:
    truth = pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")["label"]
    predicted = oof[[f"label:{digit}" for digit in range(10)]].to_numpy().argmax(axis=1).astype(str)
    return float((truth.loc[oof.index].to_numpy() == predicted).mean())
