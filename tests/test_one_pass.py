"""Prediction in one pass is what the naive loop gives, a model after another and a view after another; what is cut off
goes on, and not where anything it follows from has changed."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pipeline.competition import Competition, Head
from pipeline.config import parse_experiment
from pipeline.data import NAMES
from pipeline.inference import command, predict, tta
from pipeline.registry import Registry
from pipeline.settings import Settings
from pipeline.tasks import task_for
from projects import Renders, run_process, run_script
from toolkit.errors import Interrupted
from toolkit.masks.maps import probability
from toolkit.signals import LeaveOnSignal
from training import demo_project, expect, register

CLASSES, SIZE = ("left", "middle", "right"), (24, 32)
SWAPS = {"hflip": [("left", "right")], "vflip": (), "rot180": [("left", "right")]}
HEADS = (
    Head("side", "multiclass", CLASSES, swaps=SWAPS),
    Head("parts", "multilabel", CLASSES, swaps=SWAPS),
    Head("grade", "ordinal", ("0", "1", "2", "3")),
    Head("weight", "regression", limits=(-0.1, 0.2)),
    Head("who", "embedding", ("a", "b", "c")),
)
MASKS = (Head("kind", "multiclass_mask", ("x", "y")), Head("mask", "mask", CLASSES, swaps=SWAPS))
VIEWS = ("hflip", "vflip", "rot180")
FLIPS: dict[str, Any] = {"image": (), "hflip": (2,), "vflip": (1,), "rot180": (1, 2)}
SETTINGS: dict[str, Any] = {
    "image": {"size": list(SIZE)},
    "augmentations": "resize",
    "model": {"encoder": "test_resnet", "pretrained": False},
    "machine": {"device": "cpu", "workers": 0, "valid_batch_size": 4},
}


class Case:
    """A task with pictures and models of several seeds."""

    def __init__(self, heads: tuple[Head, ...], folder: Path, **settings: Any) -> None:
        self.task: Any = task_for(Competition(Settings.model_construct(side_columns={})), heads)
        self.names, self.folder = Registry(NAMES, self.task.NAMES), folder
        self.experiment = parse_experiment({**SETTINGS, **settings, "tta": list(VIEWS)}, "test")
        self.gallery = self._rows(9, "g").assign(who=list("abc") * 3) if len(heads) > 2 else None
        self.rows = self._rows(10, "r")

    def _rows(self, count: int, name: str) -> pd.DataFrame:
        generator, ids = np.random.default_rng(len(name) + count), [f"{name}{row}" for row in range(count)]
        for one in ids:
            picture = cv2.resize(generator.integers(0, 256, (5, 6, 3)).astype(np.uint8), SIZE[::-1])
            cv2.imwrite(str(self.folder / f"{one}.png"), picture)
        return pd.DataFrame({"id": ids, "image": [f"{one}.png" for one in ids]})

    def models(self) -> Iterator[nn.Module]:
        for seed in range(3):
            torch.manual_seed(seed)
            model = self.task.model(self.experiment, self.names, False).eval()
            for layer in model.modules():  # so that they differ by more than a trifle
                if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[0] < 9:
                    layer.weight.data *= 20
            yield model

    def predict(self) -> pd.DataFrame:
        given = self.task, self.models(), self.rows, self.folder, self.experiment, self.names, "test", "test"
        return predict.predict_rows(*given, None, self.gallery)

    @torch.inference_mode()
    def outputs(self, rows: pd.DataFrame, model: nn.Module, view: str) -> dict[str, torch.Tensor]:
        """What a model says of all rows under one view."""
        dataset = self.task.dataset(rows, self.folder, self.experiment, self.names, "test")
        found = []
        for batch in DataLoader(dataset, batch_size=3, collate_fn=self.task.collate):
            found.append(model({**batch, "input_image": batch["input_image"].flip(FLIPS[view]).contiguous()}))
        return {key: torch.cat([each[key] for each in found]).double() for key in found[0]}


def naive(case: Case) -> dict[str, np.ndarray]:
    """The mean of the predictions of each model and view, by head."""
    sums: dict[str, list[torch.Tensor]] = {head.name: [] for head in HEADS}
    for model, view in itertools.product(case.models(), FLIPS):
        found, there = (case.outputs(rows, model, view) for rows in (case.rows, case.gallery))
        order = [2, 1, 0] if view in ("hflip", "rot180") else [0, 1, 2]
        sums["side"].append(found["output_side"].softmax(1)[:, order])
        sums["parts"].append(found["output_parts"].sigmoid()[:, order])
        above = found["output_grade"].sigmoid().cumprod(1)
        reached = torch.cat([torch.ones(10, 1), above, torch.zeros(10, 1)], 1)
        sums["grade"].append(reached[:, :-1] - reached[:, 1:])
        sums["weight"].append(found["output_weight"].clamp(-0.1, 0.2))
        cosines = found["output_who@embedding"] @ there["output_who@embedding"].T
        sums["who"].append(torch.stack([cosines[:, k::3].amax(1) for k in range(3)], 1))
    return {name: torch.stack(each).mean(0).numpy() for name, each in sums.items()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(HEADS, tmp_path_factory.mktemp("images"))


def test_every_kind_of_head_is_what_the_naive_loop_gives(images: Case) -> None:
    found, wanted = images.predict(), naive(images)
    assert list(found.index) == list(images.rows["id"])
    for head, names in (("side", CLASSES), ("parts", CLASSES), ("grade", "0123")):
        np.testing.assert_allclose(found[[f"{head}:{name}" for name in names]], wanted[head], atol=1e-5)
        assert wanted[head].std(axis=0).min() > 1e-3, "rows have to differ"
    np.testing.assert_allclose(found[["weight"]], wanted["weight"], atol=1e-5)
    for row, cosines in enumerate(wanted["who"]):
        best = np.argsort(-cosines)
        assert found.iloc[row][[f"who:label_{k}" for k in (1, 2, 3)]].tolist() == [tuple("abc")[k] for k in best]
        scores = found.iloc[row][[f"who:score_{k}" for k in (1, 2, 3)]].to_numpy(float)
        np.testing.assert_allclose(scores, cosines[best], atol=1e-5)


@pytest.mark.parametrize("view", ["whole", "crops"])
def test_masks_are_what_the_naive_loop_gives(view: str, tmp_path: Path) -> None:
    small = {"decoder_channels": [8, 8, 8, 8, 8]}
    model = {"encoder": "test_resnet", "pretrained": False, "params": small}
    case = Case(MASKS, tmp_path, model=model, image={"size": [32, 32]}, task={"params": {"view": view}})
    found, sums = case.predict(), {head.name: [] for head in MASKS}
    for one, name in itertools.product(case.models(), FLIPS):
        outputs = case.outputs(case.rows, one, name)
        back = [axis + 1 for axis in FLIPS[name]]
        order = [2, 1, 0] if name in ("hflip", "rot180") else [0, 1, 2]
        sums["mask"].append(outputs["output_mask"].sigmoid().flip(back)[:, order])
        sums["kind"].append(outputs["output_kind"].softmax(1).flip(back)[:, 1:])
    for head in MASKS:
        wanted = torch.stack(sums[head.name]).mean(0).numpy()
        for row, (cell, name) in itertools.product(range(10), enumerate(head.classes)):
            plane = probability(found[f"{head.name}_{name}"].iloc[row]).astype(float)
            inside = wanted[row, cell][4:28] if view == "crops" else cv2.resize(wanted[row, cell], plane.shape[::-1])
            assert np.abs(plane - 255 * inside).max() <= 1.6, "a byte for each model, and one for their mean"


@pytest.mark.parametrize("halves", [False, True])
def test_models_that_take_turns_on_a_device_predict_the_same(
    halves: bool, images: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, forward, ran = images.predict(), tta.TTAModel.forward, list[tuple[int, int]]()

    def told(self: Any, batch: Any) -> Any:
        if halves and len(batch["input_id"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        ran.append((id(self), len(batch["input_id"])))
        return forward(self, batch)

    monkeypatch.setattr(predict, "fit_together", lambda models, device: False)
    monkeypatch.setattr(predict, "TURN", 2)
    monkeypatch.setattr(tta.TTAModel, "forward", told)
    found = images.predict()
    pd.testing.assert_frame_equal(found, wanted, check_exact=not halves, atol=1e-6)
    turns = [sum(rows for _, rows in group) for _, group in itertools.groupby(ran, key=lambda one: one[0])]
    assert turns == [*[8] * 3, *[1] * 3, *[8] * 3, *[2] * 3], "of the gallery, then of the rows"


def passes(ids: list[str], size: int, stop: LeaveOnSignal | None = None) -> Iterator[Any]:
    for start in range(0, len(ids), size):
        index = pd.Index(ids[start : start + size], name="id")
        if stop is not None and start + size >= len(ids) // 2:
            stop.leaving = True
        yield {(model, 0): pd.DataFrame({"x": np.full(len(index), float(model))}, index=index) for model in (0, 1)}


def average(tables: Any) -> pd.DataFrame:
    return sum(tables) / len(tables)


def test_a_signal_leaves_what_is_done_and_the_rest_goes_on(tmp_path: Path) -> None:
    ids, folder, made_by = [f"i{row}" for row in range(20)], tmp_path / "parts", {"weights": {"a": "1"}, "rows": ["x"]}
    assert command.open_parts(folder, made_by) == []
    signals = LeaveOnSignal()
    with pytest.raises(Interrupted, match="10 of 20 rows are predicted and saved; the same command goes on"):
        command.save_parts(folder, passes(ids, 5, signals), average, 20, True, signals)
    (folder / ".half.parquet.part").write_bytes(b"cut off")
    done = command.open_parts(folder, made_by)
    assert sorted(done) == sorted(ids[:10])
    command.save_parts(folder, passes(ids[10:], 5), average, 10, True, None)
    assert sorted(command.open_parts(folder, made_by)) == sorted(ids)
    table = pd.concat([pd.read_parquet(file) for file in folder.glob("*.parquet")])
    assert table.groupby(["model", "view"])["x"].agg(["size", "mean"]).reset_index().to_numpy().tolist() == [
        [-1, -1, 20, 0.5], [0, 0, 20, 0], [1, 0, 20, 1]
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["views", "settings", "weights", "rows"])
def test_parts_that_follow_from_something_else_are_thrown_away(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, made_by = tmp_path / "parts", {key: ["x"] for key in ("views", "settings", "weights", "rows")}
    command.open_parts(folder, made_by)
    command.save_parts(folder, passes(["a", "b"], 1), average, 2, False, None)
    assert command.open_parts(folder, made_by)
    assert command.open_parts(folder, made_by | {name: ["y"]}) == []
    assert capsys.readouterr().out == f"note: a prediction that was cut off had other {name}; beginning anew\n"


SLOW = """
import time

from pipeline.inference.tta import View


def slow() -> View:
    def change(images):
        time.sleep(0.3)
        return images.flip(2)

    return View(change, lambda maps, _: maps.flip(3))
"""


@pytest.mark.slow
def test_a_killed_prediction_goes_on_in_two_processes(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    (project / "src/competition/views.py").write_text(SLOW)
    register(project, "view", {"slow": "competition.views:slow"})
    expect(run_script(project, "train.py", "small", "--fold", "0", "training.max_rows=64"))
    arguments = ["predict.py", "small", "--batch-size", "50", "--workers", "0", "--device", "cpu", "--tta"]
    path, saved = project / "runs/small/test.parquet", project / "runs/small/predicting"
    expect(run_script(project, *arguments, "hflip", "--parts"))
    wanted = pd.read_parquet(path).set_index("id")
    parts = pd.read_parquet(project / "runs/small/test_parts.parquet").set_index("id")
    assert parts.groupby(["fold", "view"]).size().to_dict() == {("0", view): 500 for view in ("image", "hflip")}
    mean = parts.groupby("id", sort=False)[list(wanted)].mean()
    np.testing.assert_allclose(mean.loc[wanted.index], wanted, atol=1e-6)
    path.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command_line = [sys.executable, str(project / "scripts" / arguments[0]), *arguments[1:], "slow"]
    child = subprocess.Popen(command_line, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(saved.glob("*.parquet")) and time.monotonic() < end and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not path.exists()
    done = sum(len(pd.read_parquet(file)) for file in saved.glob("*.parquet"))
    assert 0 < done < 500
    result = expect(run_process(project, *arguments, "slow", "--devices", "2"))
    assert f"going on: {done} of 500 rows of 'small' are predicted already" in result.stdout
    assert result.stdout.count("rows with folds") == 1 and not saved.exists()
    found = pd.read_parquet(path).set_index("id")
    pd.testing.assert_frame_equal(found, wanted, check_exact=False, atol=1e-5)
