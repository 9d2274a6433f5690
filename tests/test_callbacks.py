"""The default callbacks, driven by a small fold that is no real training."""

import importlib
import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from toolkit.distributed import ALONE

ROOT = Path(__file__).resolve().parents[1]
BATCHES, EPOCHS = 4, 3
IDS = ["a1", "b2", "c3"]


USED = {
    "pipeline.callbacks": ["CallbackList"],
    "pipeline.callbacks.default": ["default_callbacks"],
    "pipeline.callbacks.log": ["Log"],
    "pipeline.callbacks.pictures": ["Embeddings", "Pictures"],
    "pipeline.competition": ["Head", "Metric"],
    "pipeline.config": ["parse_experiment"],
    "pipeline.types": ["Best", "PreparedModel", "Progress", "StageResult"],
    "toolkit.plots.images": ["visible"],
    "pipeline.trackers": ["RunInfo", "make_tracker"],
}


@pytest.fixture(scope="module")
def pipeline() -> Iterator[SimpleNamespace]:
    """What the tests use of the pipeline."""
    modules = {module: importlib.import_module(module) for module in USED}
    yield SimpleNamespace(**{name: getattr(modules[module], name) for module in USED for name in USED[module]})


class Log:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[str] = []

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def later(self, is_there: Callable[[], bool], log: Callable[[], None]) -> None:
        log()

    def figure(self, name: str, figure: Any, step: int) -> None:
        self.pictures.append(name)


class Samples:
    """A dataset of three grey images."""

    def picture(self, row: int) -> np.ndarray:
        return np.full((8, 8, 1), 0.25 * row, dtype=np.float32)


@dataclass
class Task:
    """Draws empty figures, and looks at the images it is given."""

    shown: list[Any] = field(default_factory=list)
    named: tuple[str, ...] = ("label",)
    sample_score: str = ""

    @property
    def figures(self) -> "Task":
        return self

    def overview(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Any]:
        from matplotlib.figure import Figure

        return {"confusion_matrix/label": Figure()}

    def curves(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Any]:
        return {}

    def class_maps(self, sample: Any) -> dict[str, Any]:
        return {}

    def examples(self, rows: pd.DataFrame, images: Any, predictions: pd.DataFrame) -> dict[str, Any]:
        from matplotlib.figure import Figure

        self.shown = [(name, image[0, 0].tolist()) for name, image in zip(rows["id"], images, strict=True)]
        return {head: Figure() for head in self.named}


@dataclass
class Fold:
    """A fold's run, as far as callbacks see one. Its losses are functions of the position."""

    pipeline: SimpleNamespace
    folder: Path
    tracker: Any
    settings: dict[str, Any] = field(default_factory=dict)
    scores: tuple[float, ...] = (0.5, 0.75, 0.6)
    held_out: bool = True

    def __post_init__(self) -> None:
        self.experiment, self.fold, self.heads = "baseline", "0", ()
        self.config = self.pipeline.parse_experiment(self.settings, "test")
        self.metrics = [self.pipeline.Metric("accuracy", lambda *_: 0.0)]
        layer = torch.nn.Linear(2, 2)
        self.model = self.pipeline.PreparedModel(torch.nn.Identity(), layer)
        groups = [{"params": [layer.weight], "lr": 1e-3}, {"params": [layer.bias], "lr": 1e-4}]
        self.optimizer = torch.optim.AdamW(groups)
        self.progress, self.processes = self.pipeline.Progress(), ALONE
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.epochs, self.batches_per_epoch = EPOCHS, BATCHES
        self.best: Any = None

    def samples(self, stage: str) -> tuple[list[Any], list[Any]]:
        return [], []

    def run(self, callbacks: Any) -> None:
        """The order of events is that of the pipeline's loop."""
        accumulate = self.config.training.accumulate
        callbacks.on_run_start(self)
        for epoch in range(EPOCHS):
            self.progress.epoch = epoch
            callbacks.on_epoch_start(self, "train")
            for self.progress.batch in range(BATCHES):
                loss = torch.tensor(2.0 / (1 + epoch * BATCHES + self.progress.batch), requires_grad=True)
                self._batch(callbacks, "train", loss)
                self.progress.step += (self.progress.batch + 1) % accumulate == 0
            if self.held_out:
                callbacks.on_epoch_start(self, "valid")
                self._batch(callbacks, "valid", torch.tensor(1.0))
            self.progress.epoch, self.progress.batch = epoch + 1, 0
            best = max(range(epoch + 1), key=lambda each: np.nan_to_num(self.scores[each], nan=-1.0))
            self.best = self.pipeline.Best(best, self.scores[best])
            result = self.pipeline.StageResult
            callbacks.on_epoch_end(self, result("train", epoch, {"loss": 1.0 / (epoch + 1)}, seconds=61.2))
            if self.held_out:
                scores = {"accuracy": self.scores[epoch]}
                losses = {"loss": 0.5 + epoch / 8, "label_cross_entropy": 0.5}
                callbacks.on_epoch_end(self, result("valid", epoch, losses, scores, seconds=2.0))

    def _batch(self, callbacks: Any, stage: str, loss: torch.Tensor) -> None:
        batch = {"input_id": IDS}
        result = {"loss": loss, "losses": {"label_cross_entropy": loss.detach() * 2}, "sample_losses": {}}
        callbacks.on_batch_start(self, stage, batch)
        callbacks.on_batch_end(self, stage, batch, {**result, "outputs": {}})

    def final(self) -> Any:
        truth = pd.DataFrame({"label": ["x", "y"]}, index=pd.Index(["c3", "a1"], name="id"))
        return self.pipeline.StageResult("valid", 1, {}, {"accuracy": 0.75}, truth, truth, weights="best epoch 2")


def test_scalars_at_their_cadence(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    log = Log()
    Fold(pipeline, tmp_path, log, {"tracking": {"every_steps": 3}}).run(pipeline.Log(3, Console(file=io.StringIO())))
    batches = [(step, row) for step, row in log.rows if "batch/loss" in row]
    assert [step for step, _ in batches] == [0, 3, 6, 9]
    assert batches[1][1] == {
        "epoch": 0.75,
        "batch/loss": pytest.approx(0.5),
        "batch/label_cross_entropy": pytest.approx(1.0),
        "lr/group_0": 1e-3,
        "lr/group_1": 1e-4,
        "momentum/group_0": 0.9,
        "momentum/group_1": 0.9,
        "weight_decay/group_0": 0.01,
        "weight_decay/group_1": 0.01,
    }
    epochs = [(step, row) for step, row in log.rows if "batch/loss" not in row]
    assert epochs[:2] == [
        (
            4,
            {
                "epoch": 1.0,
                "train/loss": 1.0,
                "time/train_seconds": 61.2,
                "time/data_share": 0.0,
                "time/images_per_second": pytest.approx(12 / 61.2),
            },
        ),
        (
            4,
            {
                "epoch": 1.0,
                "valid/loss": 0.5,
                "valid/label_cross_entropy": 0.5,
                "valid/accuracy": 0.5,
                "time/valid_seconds": 2.0,
            },
        ),
    ]


def test_one_rate_of_each_part_where_there_are_more_than_two_groups(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    log = Log()
    fold = Fold(pipeline, tmp_path, log)
    parts = {"encoder_00 (no decay)": 1e-4, "encoder_00": 1e-4, "heads (no decay)": 1e-3, "heads": 1e-3}
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.0, "initial_lr": rate, "name": name}
        for name, rate in parts.items()
    ]
    fold.optimizer = torch.optim.SGD([*groups, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5}])
    fold.run(pipeline.Log(3, Console(file=io.StringIO())))
    rates = {tag: value for tag, value in log.rows[0][1].items() if tag.startswith("lr/")}
    assert rates == {"lr/encoder_00": 0, "lr/heads": 0, "lr/group_4": 0.5}, "rates that meet at 0 are still apart"


def test_one_row_per_step_when_gradients_are_accumulated(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    log = Log()
    settings = {"tracking": {"every_steps": 1}, "training": {"accumulate": 2}}
    Fold(pipeline, tmp_path, log, settings).run(pipeline.Log(3, Console(file=io.StringIO())))
    batches = [(step, row["epoch"]) for step, row in log.rows if "batch/loss" in row]
    assert batches == [(0, 0), (1, 0.5), (2, 1), (3, 1.5), (4, 2), (5, 2.5)]


def printed(pipeline: SimpleNamespace, fold: Fold, terminal: bool, count: int = 3) -> tuple[str, Any]:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=100 if terminal else 160, highlight=False, no_color=False
    )
    table = pipeline.Log(count, console)
    fold.run(table)
    table.on_run_end(fold, fold.final() if fold.held_out else None)
    return out.getvalue(), table


def test_the_table_of_epochs_in_a_pipe(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    text, _ = printed(pipeline, Fold(pipeline, tmp_path, Log()), terminal=False)
    assert text.splitlines() == [
        "",
        "baseline / fold 0: 3 epochs of 4 batches, 3 rows held out",
        "  epoch  train loss  valid loss    accuracy        lr    time  data",
        "    1/3      1.0000      0.5000      0.5000   1.0e-03   1m03s    0%  * best",
        "    2/3      0.5000      0.6250      0.7500   1.0e-03   1m03s    0%  * best",
        "    3/3      0.3333      0.7500      0.6000   1.0e-03   1m03s    0%",
        "best epoch 2  on the held-out rows: accuracy 0.7500",
    ]


def test_a_star_never_stands_beside_nan(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    broken = Fold(pipeline, tmp_path, Log(), scores=(float("nan"), 0.5, float("nan")))
    text, _ = printed(pipeline, broken, terminal=False)
    assert [line.endswith("best") for line in text.splitlines()[3:6]] == [False, True, False]


def test_a_bar_on_a_terminal_only(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    text, table = printed(pipeline, Fold(pipeline, tmp_path, Log()), terminal=True)
    assert "epoch 1, train" in text
    assert "epoch 3, valid" in text
    assert "\x1b[1;32m" in text
    assert text.endswith("accuracy 0.7500\n")
    assert table.bar is None


def test_nothing_held_out(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    text, _ = printed(pipeline, Fold(pipeline, tmp_path, Log(), held_out=False), terminal=False, count=0)
    assert text.splitlines()[1:4] == [
        "baseline / fold 0: 3 epochs of 4 batches, nothing held out",
        "  epoch  train loss        lr    time  data",
        "    1/3      1.0000   1.0e-03   1m01s    0%",
    ]


def test_pictures_when_the_run_ends(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    task, rows = Task(), pd.DataFrame({"id": IDS})
    info = pipeline.RunInfo("demo", "baseline", "0", tmp_path, {}, (), "id", 0)
    fold = Fold(pipeline, tmp_path, pipeline.make_tracker(info, []))
    callbacks = pipeline.CallbackList(pipeline.default_callbacks(task, rows, rows, Samples()))
    fold.run(callbacks)
    callbacks.on_run_end(fold, fold.final())
    pictures = sorted(path.relative_to(tmp_path / "figures").as_posix() for path in tmp_path.rglob("*.png"))
    assert pictures == ["confusion_matrix/label.png", "learning_curves.png", "samples.png"]
    assert task.shown == [("c3", [128, 128, 128]), ("a1", [0, 0, 0])]


def test_a_picture_that_fails_is_left_out(
    pipeline: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log()
    fold = Fold(pipeline, tmp_path, log)
    pipeline.Pictures(Task(), pd.DataFrame({"id": IDS}), Samples()).on_run_end(fold, fold.final())
    assert log.pictures == ["confusion_matrix/label", "samples"]
    pipeline.Pictures(Task(named=("a", "b")), pd.DataFrame({"id": IDS}), Samples()).on_run_end(fold, fold.final())
    assert log.pictures[3:] == ["samples/a", "samples/b"], "a picture for each of several heads"
    assert "a picture of fold 0 was left out: " in capsys.readouterr().err
    pipeline.Pictures(Task(), pd.DataFrame({"id": []}), Samples()).on_run_end(fold, None)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_first_embeddings_are_logged_with_their_images(pipeline: SimpleNamespace, dtype: torch.dtype) -> None:
    seen, heads = pipeline.Embeddings(), [pipeline.Head(name, "embedding", ("x", "y")) for name in ("whale", "fin")]
    white = 255 if dtype == torch.uint8 else 1
    for start in range(0, 1200, 400):
        rows = torch.arange(start, start + 400)
        image = (rows % 2 * white).to(dtype).view(-1, 1, 1, 1).expand(-1, 64, 48, 1)
        vectors = torch.stack([rows, -rows], dim=1).bfloat16()
        outputs = {"output_whale@embedding": vectors, "output_fin@embedding": vectors}
        seen.add(heads, {"input_image": image, "target_whale": rows % 3 - 1}, {"outputs": outputs})
    logged: dict[str, Any] = {}
    tracker = SimpleNamespace(
        embedding=lambda name, points, step: logged.update({name: points}), figure=lambda *_: None
    )
    seen.log(SimpleNamespace(heads=heads, tracker=tracker, progress=pipeline.Progress()))
    whale, fin = logged["embedding/whale"], logged["embedding/fin"]
    assert (
        whale.vectors.shape == (1000, 2) and whale.vectors.dtype == np.float32 and whale.vectors[7].tolist() == [7, -7]
    )
    assert list(whale.labels[:4]) == ["?", "x", "y", "?"] and set(fin.labels) == {"?"} and len(fin.labels) == 1000
    assert [image.shape for image in whale.images] == 1000 * [(32, 32, 3)]
    assert [int(image.max()) for image in whale.images[:4]] == [0, 255, 0, 255]


def test_visible(pipeline: SimpleNamespace) -> None:
    grey = np.full((2, 2, 1), 7, dtype=np.uint8)
    assert pipeline.visible(grey).tolist() == np.full((2, 2, 3), 7).tolist()
    deep = np.array([[[0.0, 1.0, np.nan, 0.5, 9.0]]], dtype=np.float32)
    assert pipeline.visible(deep).tolist() == [[[0, 255, 0]]]


def test_watching_draws_no_random_number_and_leaves_no_mode(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    info = pipeline.RunInfo("demo", "baseline", "0", tmp_path, {}, (), "id", 0)
    fold = Fold(pipeline, tmp_path, pipeline.make_tracker(info, []))
    fold.model.train()
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # type: ignore[index]
    rows = pd.DataFrame({"id": IDS})
    callbacks = pipeline.CallbackList(pipeline.default_callbacks(Task(), rows, rows, Samples()))
    fold.run(callbacks)
    callbacks.on_run_end(fold, fold.final())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore[index]
    assert fold.model.training
    assert torch.is_grad_enabled()
    assert fold.model.network.weight.grad is None
