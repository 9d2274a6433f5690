"""On the pretended GPU: all losses, batch transforms, averages, callbacks, frozen parts and interventions, a run that
changes its device, and the end of a fold under Lightning."""

from pathlib import Path

import pandas as pd
import pytest

from pretended_gpu import ran
from projects import Renders
from test_pretended_gpu import project_of
from training import assert_same_outcome, expect, outcome

pytestmark = pytest.mark.slow

# Everything at once that goes together, cut off amid the second epoch and continued.
PARTS = """extends: small
model:
  pooling: attention
  drop_rate: 0.1
  multi_sample_dropout: 2
training:
  epochs: 3
  batch_size: 50
  max_rows: 300
  accumulate: 2
  sampler: SAMPLER
  clip_grad: 1
  batch_transforms: [{ name: mixup, params: { mixup_alpha: 0.4, cutmix_alpha: 1, mode: elem } }]
optimizer: { encoder_lr_factor: 0.5 }
schedule: { name: plateau }
averaging: { ema_decay: 0.9, swa_start: 2, best_epochs: 2 }
interventions:
  - { epochs: [2, 2], set: { image.size: 24, model.frozen: [encoder.layer1], training.batch_transforms: [cutmix] } }
  - { epochs: [3, 3], set: { model.freeze_norm: true, training.batch_transforms: [] } }
watch: { figure_epochs: 1, gradient_steps: 3 }
losses:
"""
MASKS = """extends: small
model: { params: { presence: PRESENCE, deep_supervision: [4] } }
training: { epochs: 3, accumulate: 2, clip_grad: 1, max_rows: 80 }
averaging: { ema_decay: 0.9, swa_start: 2, best_epochs: 2 }
interventions:
  - { epochs: [2, 2], set: { model.frozen: [encoder] } }
watch: { figure_epochs: 1, gradient_steps: 3 }
losses:
"""
LOSSES = {
    "classification": ("label", ["cross_entropy", "bce", "focal", "asymmetric"]),
    "multilabel": ("labels", ["bce", "focal", "asymmetric"]),
    "regression": ("ink", ["mse", "mae", "huber", "smooth_l1"]),
    "multitask": ("digit", ["corn"]),
    "metric_learning": ("identity", ["arcface"]),
    "segmentation": ("mask", ["dice", "jaccard", "tversky", "lovasz", "focal", "bce", "boundary"]),
}
IN_ONE_RUN = [("classification", "ignite")]
AND_LONGER = [
    ("regression", "fastai"),
    ("multilabel", "ignite"),
    ("multitask", "catalyst"),
    ("metric_learning", "fastai"),
    ("segmentation", "catalyst"),
]


def parts_of(task: str) -> str:
    """The experiment with all parts that a task has."""
    head, names = LOSSES[task]
    rows = [f"  - {{ head: {head}, loss: {name} }}\n" for name in names]
    if task == "segmentation":
        rows.append(f"  - {{ head: {head}, loss: presence, output: presence, weight: 0.1 }}\n")
        return MASKS.replace("PRESENCE", "true") + "".join(rows)
    if task == "classification":
        rows[0] = rows[0].replace(" }", ", class_weights: balanced, hardest: 0.7 }")
    if task == "multitask":
        rows += [f"  - {{ head: {name}, loss: {loss} }}\n" for name, loss in (("loop", "bce"), ("ink", "huber"))]
    sampler = "{ name: balanced, params: { column: label } }" if task == "classification" else "shuffle"
    return PARTS.replace("SAMPLER", sampler) + "".join(rows)


def train(project: Path, name: str, status: int = 0, fold: str = "0", *settings: str) -> str:
    return expect(ran(project, "train.py", name, *settings, "--fold", fold), status).stdout


def interrupted(project: Path, name: str, text: str, epoch: int, batch: int, *settings: str) -> None:
    """Train an experiment up to a batch."""
    text += f"callbacks: [{{ name: Interrupt, params: {{ epoch: {epoch}, batch: {batch} }} }}]\n"
    (project / f"experiments/{name}.yaml").write_text(text)
    assert f"epoch {epoch + 1}, batch {batch + 1}" in train(project, name, 130, "0", *settings)
    (project / f"runs/{name}/fold_0/interrupted-epoch").touch()  # once is enough


@pytest.mark.parametrize(
    ("task", "engine"), [*IN_ONE_RUN, *(pytest.param(*case, marks=pytest.mark.full) for case in AND_LONGER)]
)
def test_all_parts_at_once(task: str, engine: str, renders: Renders, tmp_path: Path) -> None:
    project = project_of(renders, tmp_path / "project", engine, task)
    if task == "multitask":
        targets = project / "src/competition/targets.py"
        targets.write_text(targets.read_text().replace('{"ink"', '{"digit": "ordinal", "ink"'))
    (project / "experiments/whole.yaml").write_text(parts_of(task))
    train(project, "whole")
    interrupted(project, "cut", parts_of(task), 1, 3)
    train(project, "cut")
    assert_same_outcome(outcome(project, "whole"), outcome(project, "cut"))
    metrics = pd.read_csv(project / "runs/cut/fold_0/metrics.csv")
    assert metrics["train/loss"].dropna().gt(0).all() and metrics["train/loss"].count() == 3
    expect(ran(project, "predict.py", "cut"))


def test_a_layer_without_a_loss_is_looked_at(renders: Renders, tmp_path: Path) -> None:
    """It never has a gradient; the state is saved right after its blocks were looked at."""
    project = project_of(renders, tmp_path / "project", "ignite", "segmentation")
    text = MASKS.partition("interventions:")[0].replace("PRESENCE", "true").replace("epochs: 3", "epochs: 1")
    text = text.replace("swa_start: 2", "swa_start: 1")
    text += "watch: { figure_epochs: 0, gradient_steps: 3 }\n"
    interrupted(project, "cut", text, 0, 3)
    train(project, "cut")


def test_the_mean_of_moving_averages_is_scored_under_lightning(renders: Renders, tmp_path: Path) -> None:
    project = project_of(renders, tmp_path / "project", "lightning", "classification")
    (project / "experiments/averaged.yaml").write_text("extends: small\naveraging: {ema_decay: 0.9, best_epochs: 2}\n")
    assert "mean of epochs" in train(project, "averaged")


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(first: str, then: str, renders: Renders, tmp_path: Path) -> None:
    """In fp32 the two devices come to the same, up to the rounding of sums, of which early ones weigh most."""
    project = project_of(renders, tmp_path / "project", "ignite", "classification")
    text = "extends: small\ntraining: { precision: fp32, max_rows: 400, batch_size: 50 }\n"
    (project / "experiments/whole.yaml").write_text(text)
    train(project, "whole", 0, "0", f"machine.device={first}", "--as", "undisturbed")
    interrupted(project, "moved", text + "machine: { device: auto }\n", 0, 5, f"machine.device={first}")
    train(project, "moved", 0, "0", f"machine.device={then}")
    ends = [pd.read_csv(project / f"runs/{name}/fold_0/metrics.csv") for name in ("undisturbed", "moved")]
    losses = [end["valid/loss"].dropna().to_numpy() for end in ends]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
