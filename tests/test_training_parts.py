"""The parts of a training step, each against an oracle of its own."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from pipeline.competition import Competition, Head
from pipeline.config import Experiment, LossRow, differences, parse_experiment
from pipeline.data.image_dataset import ImageDataset
from pipeline.experiments import parse_overrides
from pipeline.inference.device import choose_device, unusable_gpu
from pipeline.keys import INPUT_IMAGE
from pipeline.losses.criterion import WeightedLosses, take
from pipeline.metrics.image_level import find_metric
from pipeline.models.preprocess import Normalize
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.tasks import task_for
from pipeline.tasks.image_level.task import ImageLevelTask
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.step import seed_everything
from pipeline.training.validation import Monitor, Validation
from pipeline.types import Best, StageResult
from toolkit.errors import UserError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize("as_float", [False, True])
def test_prepare_equals_torchvision_and_is_channels_last(as_float: bool) -> None:
    image = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    given = image / 255 if as_float else image
    batch = {INPUT_IMAGE: given, "other": 1}
    prepared = Normalize(MEAN, STD)(batch)
    expected = vision.normalize(image.permute(0, 3, 1, 2) / 255, MEAN, STD)
    torch.testing.assert_close(prepared[INPUT_IMAGE], expected, atol=1e-5, rtol=1e-5)
    assert prepared[INPUT_IMAGE].is_contiguous(memory_format=torch.channels_last)
    assert prepared["other"] == 1 and batch[INPUT_IMAGE] is given, "the batch itself is not changed"


def test_weights_of_rows_and_of_loss_rows() -> None:
    """Hand-worked: 0.5 * mean(w * CE) + 2 * mean(w * CE with smoothing)."""
    head = Head("label", "multiclass", ("a", "b", "c"))
    smooth = Spec(name="cross_entropy", params={"label_smoothing": 0.2})
    rows = [
        LossRow(head="label", loss=Spec(name="cross_entropy"), weight=0.5),
        LossRow(head="label", loss=smooth, weight=2, name="smooth"),
    ]
    logits, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 1])
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5])
    batch = {"target_label": target, "input_weight": weight}
    result = WeightedLosses(rows, [head], Registry(ImageLevelTask.NAMES))({"output_label": logits}, batch)
    plain = functional.cross_entropy(logits, target, reduction="none")
    smoothed = functional.cross_entropy(logits, target, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(result["loss"], 0.5 * (weight * plain).mean() + 2 * (weight * smoothed).mean())
    torch.testing.assert_close(result["sample_losses"]["label_cross_entropy"], plain.detach())
    assert not result["losses"]["smooth"].requires_grad and result["loss"].requires_grad


def test_a_missing_key_names_the_wiring_and_the_keys_there_are() -> None:
    with pytest.raises(UserError, match=r"loss row 'x' needs the key 'output_a', .* only: output_b, output_c"):
        take({"output_b": torch.ones(1), "output_c": torch.ones(1)}, "output_a", "loss row 'x'", "the model returns")


def test_the_best_epochs_are_kept_and_a_nan_never_is_best(tmp_path: Path) -> None:
    store, model = CheckpointStore(tmp_path, keep=2, greater_is_better=True), nn.Linear(1, 1)
    for epoch, score in enumerate([float("nan"), 0.5, 0.7, 0.7, 0.6]):
        store.offer(model, Best(epoch, score))
        store.save_state({})
    store.wait()
    assert [(best.epoch, best.score) for best in store.ranked] == [(3, 0.7), (2, 0.7)], "of equals the later one"
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"epoch_002.safetensors", "epoch_003.safetensors"}
    again = CheckpointStore(tmp_path, keep=2, greater_is_better=True)
    again.load_state()
    assert again.ranked == store.ranked


@pytest.mark.parametrize("greater_is_better", [True, False])
def test_the_loss_decides_between_equal_scores_and_then_the_later_epoch(
    tmp_path: Path, greater_is_better: bool
) -> None:
    def kept(*offers: tuple[float, float]) -> list[int]:
        """The epochs that are kept, with a kill after each of them."""
        for path in tmp_path.glob("*"):
            path.unlink()
        for epoch, (score, loss) in enumerate(offers):
            store = CheckpointStore(tmp_path, 2, greater_is_better)
            store.load_state()
            store.offer(nn.Linear(1, 1), Best(epoch, score, loss))
            store.save_state({})
            store.wait()
        assert store.best == store.ranked[0]
        return [entry.epoch for entry in store.ranked]

    nan = float("nan")
    assert kept((1.0, 0.9), (1.0, 0.2), (1.0, 0.01), (1.0, 0.3)) == [2, 1]
    assert kept((1.0, 0.2), (1.0, 0.1), (1.0, 0.1)) == [2, 1]
    assert kept((0.1 + 0.2, 0.2), (0.3, 0.1), (0.3, 0.3)) == [1, 0], "the order of a sum decides nothing"
    assert kept((nan, 0.2), (nan, 0.1), (0.5, 9.0), (nan, 0.0)) == [2, 3], "without a score the loss is all there is"
    assert kept((1.0, nan), (1.0, 7.0), (1.0, nan)) == [1, 2]


@pytest.mark.parametrize(
    "by", ["metric", ("f1_macro", "log_loss"), ["log_loss", "loss"], ("loss",), ["metric", "f1_macro"]]
)
def test_the_monitor_asks_the_next_name_between_equal_scores(tmp_path: Path, by: str | list[str]) -> None:
    """Every pair of 81 results, and the epochs that a store keeps with a kill after each of them."""
    metrics = [find_metric(name) for name in ("accuracy", "f1_macro", "log_loss")]
    monitor, states = Monitor(metrics, by), list(itertools.product([0.25, 0.5, float("nan")], repeat=4))
    names = [{"metric": "accuracy"}.get(name, name) for name in ([by] if isinstance(by, str) else by)]
    results, keys = [], []
    for epoch, (accuracy, f1, log_loss, loss) in enumerate(states):
        scores = {"accuracy": accuracy, "f1_macro": f1, "log_loss": log_loss}
        results.append(StageResult("valid", epoch, {"loss": loss}, scores))
        signed = {"accuracy": accuracy, "f1_macro": f1, "log_loss": -log_loss, "loss": -loss}
        keys.append([-np.inf if np.isnan(signed[name]) else signed[name] for name in [*names, "loss"]])
    for one, other in itertools.product(range(81), repeat=2):
        assert monitor.is_better(results[one], results[other]) == (keys[one] > keys[other])
    for result in results[:40:3]:
        store = CheckpointStore(tmp_path, 3, monitor.greater_is_better)
        store.load_state()
        score, ties = monitor.score(result), monitor.ties(result)
        store.offer(nn.Linear(1, 1), Best(result.epoch, score, result.losses["loss"], ties))
        store.save_state({})
        store.wait()
    expected = sorted(range(0, 40, 3), key=lambda epoch: (keys[epoch], epoch), reverse=True)[:3]
    assert [entry.epoch for entry in store.ranked] == expected


@pytest.mark.parametrize("by", ["accuracyy", ["metric", "accuracyy"], ()])
def test_a_monitor_of_no_metric_is_refused(by: Any) -> None:
    with pytest.raises(
        UserError, match="training.monitor: there is no metric '" + ("accuracyy'; did you" if by else "")
    ):
        Monitor([find_metric("accuracy")], by)


def test_the_monitor_is_one_name_as_before_or_several() -> None:
    """Also on the command line; a run that an older version has begun has one name, which stays a text."""
    for given, expected in (("loss", "loss"), ("[f1_macro, loss]", ("f1_macro", "loss"))):
        found = parse_experiment(parse_overrides([f"training.monitor={given}"]), "x")
        assert found.training.monitor == expected
        saved = found.model_dump(mode="json")
        assert parse_experiment(saved, "x") == found and not list(differences(saved, saved))
    assert Experiment().model_dump(mode="json")["training"]["monitor"] == "metric"


def test_where_auc_is_one_in_every_fold_it_is_one_for_all_rows() -> None:
    """The first epoch ranks rows as well as the last, but each fold on a scale of its own."""
    competition, heads = Competition(Settings.model_construct()), [Head("label", "multiclass", ("no", "yes"))]
    task, auc = task_for(competition, heads), find_metric("roc_auc")
    monitor, held = Monitor([auc], "metric"), torch.arange(32) % 4 == 0
    first, best = [], []
    for fold in range(5):
        ids = [f"{fold}-{row}" for row in range(32)]
        rows = pd.DataFrame({"id": ids, "label": ["yes" if yes else "no" for yes in held.tolist()]})
        results = []
        for epoch, (spread, shift) in enumerate([(0.1, 2.0), (0.4, 1.0), (5.0, 0.2), (5.0, 4.0)]):
            logit = (held * 2.0 - 1) * spread + shift * (fold - 2)
            logits = torch.stack([-logit, logit], dim=1) / 2
            seen = Validation(
                task,
                [auc],
                rows,
                lambda batch, out: task.predictions.decode(batch["input_id"], out),
                lambda rows, said: said,
            )
            loss = functional.cross_entropy(logits, held.long())
            seen.add({"input_id": ids}, {"loss": loss, "losses": {}, "outputs": {"output_label": logits}})  # type: ignore[typeddict-item]
            results.append(seen.result(epoch))
        assert {result.metrics["roc_auc"] for result in results} == {1.0}
        chosen = results[0]
        for result in results[1:]:
            chosen = result if monitor.is_better(result, chosen) else chosen
        first.append(results[0])
        best.append(chosen)
    pooled = [
        auc.function(
            *(pd.concat([getattr(one, name) for one in kept]) for name in ("truth", "predictions")), task.heads
        )
        for kept in (first, best)
    ]
    assert pooled[0] < 0.8 and pooled[1] == 1.0
    assert {result.epoch for result in best} == {2}


def test_a_position_gives_its_randomness_whatever_was_drawn_before() -> None:
    seed_everything(0, 1, 2)
    first = torch.rand(3)
    torch.rand(5)
    seed_everything(0, 1, 3)
    other = torch.rand(3)
    seed_everything(0, 1, 2)
    assert torch.equal(first, torch.rand(3)) and not torch.equal(first, other)


def test_augmentations_of_a_sample_are_drawn_independently() -> None:
    """Two coins for an image fall in all four ways, and again the same for the same seed, epoch, row and turn."""
    rows = pd.DataFrame({"id": [str(number) for number in range(200)], "image": "left.png"})
    left = np.zeros((8, 8, 3), np.uint8)
    left[:, :4] = 100
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)])

    def drawn(epoch: int, seed: int, turn: int = 0) -> list[tuple[bool, bool]]:
        dataset = ImageDataset(rows, Path(), lambda path, size: left.copy(), pipeline, (8, 8), {}, seed)
        images = [dataset[epoch, row, turn][INPUT_IMAGE] for row in range(len(rows))]
        return [(image[0, 0, 0] in (0, 255), image.max() == 255) for image in images]

    first = drawn(0, 0)
    for both in ((False, False), (False, True), (True, False), (True, True)):
        assert 30 < first.count(both) < 70
    assert first == drawn(0, 0)
    assert first != drawn(1, 0)
    assert first != drawn(0, 1)
    assert first != drawn(0, 0, turn=1)


def test_an_unusable_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A P100 under a torch without its kernels: `is_available()` is true and the first operation would fail."""
    chosen: list[int] = []
    fake = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        set_device=chosen.append,
        get_device_capability=lambda number: (6, 0),
        get_arch_list=lambda: ["sm_75", "sm_80", "sm_90", "compute_90"],
        get_device_name=lambda number: "Tesla P100",
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert "no kernels for Tesla P100 (sm_60)" in str(unusable_gpu())
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="P100"):
        choose_device("cuda")
    fake.get_device_capability = lambda number: (8, 6)
    assert choose_device("auto") == torch.device("cuda", 0)
    assert choose_device("auto", 1) == torch.device("cuda", 1) and chosen == [0, 1], "each process has its own"
    with pytest.raises(UserError, match="process 3 of this machine finds 2 GPU"):
        choose_device("auto", 2)
