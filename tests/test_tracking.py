"""What is logged can be read back with each tracker's own format, also after a run was cut off."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

import pipeline.trackers.tensorboard as board
from pipeline.callbacks.gradients import SAMPLE, Gradients, spread
from pipeline.config import parse_experiment
from pipeline.trackers import RunInfo, Trackers, make_tracker, say_once
from pipeline.trackers.local import LocalTracker
from pipeline.types import Progress
from projects import ROOT, Renders, run_script
from toolkit.errors import UserError
from trackers import wandb_history, wandb_records
from training import SMALL, expect

EVENTS = [  # in the order of a run: batches at their steps, then both stages of the epoch at the step of its end
    (0, {"epoch": 0.0, "batch/loss": 2.3000001907, "lr/group_0": 0.0}),
    (2, {"epoch": 0.5, "batch/loss": 1.9, "lr/group_0": 1e-3}),
    (4, {"epoch": 1.0, "train/loss": 2.0}),
    (4, {"epoch": 1.0, "valid/loss": 1.8, "valid/accuracy": 0.5}),
    (4, {"epoch": 1.0, "batch/loss": 1.5, "lr/group_0": 9e-4}),
    (6, {"epoch": 1.5, "batch/loss": float("nan"), "lr/group_0": 5e-4}),
    (8, {"epoch": 2.0, "train/loss": 1.25, "batch/extra": 12345.678}),
    (8, {"epoch": 2.0, "valid/loss": 1.1, "valid/accuracy": 0.75}),
]
DRIVER = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pipeline.trackers import Overlay, Points, RunInfo, make_tracker
{before}
generator = np.random.default_rng(0)
images = list(generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
scores = generator.random(50)
worst = pd.DataFrame({{"id": ["a", "b|", "c"], "loss": [3.0, 2.0, 1.5]}})
overlay = Overlay(images[0], {{"truth": np.eye(16, dtype=np.uint8)}}, {{1: "cat"}})
points = Points(generator.random((3, 4)).astype(np.float32), ["cat", "dog", "?"], images)
for fold in "01":
    folder, config = Path("runs/baseline/fold_" + fold), {{"seed": 7, "optimizer": {{"lr": 0.001}}}}
    info = RunInfo("digits-demo", "baseline", fold, folder, config, ("first", "try"), "id" + fold, 0)
    tracker = make_tracker(info, {trackers})
    print(sorted(tracker.trackers))
    for step, values in {events}:
        tracker.scalars(values, step)
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    tracker.figure("confusion_matrix/label", figure, 8)
    tracker.histogram("predictions/label:cat", scores, 8)
    tracker.pr_curve("pr/label:cat", scores > 0.6, scores, 8)
    tracker.table("worst_samples", worst, images, 8)
    tracker.overlay("masks/worst", overlay, 8)
    tracker.embedding("embedding/label", points, 8)
    tracker.summary({{"best_epoch": 2, "accuracy": 0.75}})
    Path("weights.safetensors").write_bytes(b"weights")
    tracker.checkpoint(Path("weights.safetensors"))
    tracker.finish(True)
"""


def drive(folder: Path, trackers: list[str], before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Log the events in a process of its own: wandb reads its environment once per process."""
    events = EVENTS[:5] + EVENTS[6:]  # a NaN has no place in the JSON of W&B
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(folder), "NETRC": str(folder / "none"), "PYTHONPATH": str(ROOT / "template/src")}
    return subprocess.run(
        [sys.executable, "-c", DRIVER.format(before=before, trackers=trackers, events=events)],
        cwd=folder,
        env={**clean, **home, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two folds logged to all trackers, without a key."""
    folder = tmp_path_factory.mktemp("logged")
    return folder, drive(folder, ["wandb", "tensorboard"])


def fold_0(folder: Path) -> Path:
    return folder / "runs" / "baseline" / "fold_0"


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_wandb_goes_offline_by_itself_and_says_so_once(
    logged: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = logged
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "wandb" in line.lower() or "W&B" in line]
    notes = [line for line in lines if not line.startswith("[")]
    assert notes == [
        "note: W&B has no API key, so the run is logged offline; upload it later with: "
        "wandb login && wandb sync runs/baseline/fold_*/wandb/offline-run-*"
    ]
    assert len(list(folder.glob("runs/baseline/fold_*/wandb/offline-run-*"))) == 2
    assert not (folder / "wandb").exists()


def test_wandb_holds_the_run(logged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    records = wandb_records(fold_0(logged[0]))
    [run] = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.project, run.run_group, run.job_type) == ("id0", "digits-demo", "baseline", "fold_0")
    assert (run.display_name, list(run.tags)) == ("baseline/fold_0", ["first", "try"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["seed"] == 7
    assert config["optimizer"] == {"lr": 0.001}
    summary: dict[str, Any] = {}
    for record in records:
        for item in record.summary.update:
            summary[item.key] = json.loads(item.value_json)
    assert (summary["best_epoch"], summary["accuracy"]) == (2, 0.75)
    artifacts = [record.request.log_artifact.artifact for record in records if record.HasField("request")]
    artifacts += [record.artifact for record in records if record.HasField("artifact")]
    assert [artifact.name for artifact in artifacts if artifact.type == "model"] == ["baseline-fold_0"]
    [exit_record] = [record.exit for record in records if record.HasField("exit")]
    assert exit_record.exit_code == 0


def test_every_tracker_has_the_same_tags_and_values(
    logged: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = fold_0(logged[0])
    expected: dict[tuple[str, int], float] = {}
    for step, values in EVENTS[:5] + EVENTS[6:]:
        expected.update({(tag, step): value for tag, value in values.items()})

    local = {
        (tag, int(row["step"])): float(text)
        for row in table(folder)
        for tag, text in row.items()
        if text and tag != "step"
    }
    assert local == pytest.approx(expected, rel=1e-6)

    history = wandb_history(wandb_records(folder))
    online = {(tag, step): value for step, row in history.items() for tag, value in row.items() if ":" not in tag}
    assert history[8]["confusion_matrix/label:_type"] == "image-file"
    assert online == pytest.approx(expected, rel=1e-6)

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    final = {"best_epoch": 2.0, "accuracy": 0.75}
    board = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert board == pytest.approx(expected | {(tag, 8): value for tag, value in final.items()}, rel=1e-6)
    assert events.Tags()["images"] == ["confusion_matrix/label"]
    folders = [path.name for path in (folder / "tensorboard").iterdir() if path.is_dir()]
    assert folders == ["00008"], "the embedding's; hyper-parameters open no second run"


def test_each_tracker_shows_more_by_its_own_means(logged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = fold_0(logged[0])
    events = EventAccumulator(str(folder / "tensorboard"), {"histograms": 0, "tensors": 0})
    events.Reload()
    [spread] = events.Histograms("predictions/label:cat")
    assert (spread.step, spread.histogram_value.num) == (8, 50)
    [curve] = events.Tensors("pr/label:cat")
    hits, false_alarms = make_ndarray(curve.tensor_proto)[:2, 0]  # at the threshold 0 everything is positive
    assert hits + false_alarms == 50
    assert 0 < hits < 50
    [text] = events.Tensors("worst_samples/text_summary")
    assert b"| b/ | 2.0 |" in make_ndarray(text.tensor_proto).tolist()[0]
    projector = (folder / "tensorboard/projector_config.pbtxt").read_text()
    assert "embedding/label" in projector
    assert len((folder / "tensorboard/00008").rglob("tensors.tsv").__next__().read_text().splitlines()) == 3

    history = wandb_history(wandb_records(folder))[8]
    assert history["predictions/label:cat:_type"] == "histogram"
    assert history["worst_samples:_type"] == "table-file"
    assert (history["worst_samples:nrows"], history["worst_samples:ncols"]) == (3, 3)
    assert history["masks/worst:_type"] == "image-file"
    assert history["masks/worst:masks:truth:_type"] == "mask"
    assert history["embedding/label:ncols"] == 5
    [path] = folder.rglob("media/table/worst_samples_*.table.json")
    assert json.loads(path.read_text())["data"][1][1:] == ["b|", 2.0]

    assert (folder / "tables/worst_samples.csv").read_text().splitlines()[1] == "a,3.0"
    with np.load(folder / "tables/embedding/label.npz") as saved:
        assert saved["vectors"].shape == (3, 4)
        assert saved["labels"].tolist() == ["cat", "dog", "?"]


def test_weights_and_gradients_are_spread_once_in_an_epoch_that_draws(tmp_path: Path) -> None:
    """At the last step of the epoch, block by block, as NumPy counts them; what is frozen has no gradient."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    network[0].requires_grad_(False)
    network[1].weight.grad = torch.arange(20.0).reshape(5, 4)
    network[1].bias.grad = torch.tensor([1.0, float("nan"), float("inf"), 2.0, -100.0])
    tracker = make_tracker(RunInfo("demo", "one", "0", tmp_path, {}, (), "id", 0), ["tensorboard"])
    run = SimpleNamespace(model=SimpleNamespace(network=network), tracker=tracker, progress=Progress(), epochs=4)
    run.batches_per_epoch, run.config = 3, parse_experiment({"watch": {"figure_epochs": 3}}, "test")
    callback = Gradients()
    callback.on_run_start(run)
    callback.cadence = 100
    for step in range(1, 12):
        run.progress = Progress(step // 3, step % 3, step)
        callback.on_gradients_ready(run)
    tracker.finish(True)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"histograms": 0})
    events.Reload()
    assert events.Tags()["histograms"] == ["weights/0", "weights/1", "gradients/1"]
    for tag, count in (("weights/0", 16), ("weights/1", 25), ("gradients/1", 23)):
        found = [(each.step, each.histogram_value.num) for each in events.Histograms(tag)]
        assert found == [(8, count), (11, count)], "the third epoch, and the last"
    value = events.Histograms("gradients/1")[0].histogram_value
    assert (value.min, value.max, value.sum) == (-100, 19, sum(range(20)) + 1 + 2 - 100)

    large = torch.nn.Linear(300, 300)
    weights = spread(list(large.parameters()))
    every = -(-90300 // SAMPLE)
    expected = [part.detach().numpy().ravel()[::every] for part in (large.weight, large.bias)]
    np.testing.assert_array_equal(weights, np.concatenate(expected))
    assert len(weights) <= SAMPLE + 2


def test_tensorboard_holds_the_hyper_parameters(logged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    events = EventAccumulator(str(fold_0(logged[0]) / "tensorboard"))
    events.Reload()
    plugin = events.PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info.hparams
    assert (started["seed"].number_value, started["optimizer.lr"].number_value) == (7, 0.001)
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {"best_epoch", "accuracy"}


def test_local_files(logged: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = fold_0(logged[0])
    assert json.loads((folder / "summary.json").read_text()) == {"best_epoch": 2, "accuracy": 0.75}
    with Image.open(folder / "figures" / "confusion_matrix" / "label.png") as image:
        assert image.size == (200, 100)
        assert len(image.getcolors(1 << 16) or []) > 5
    assert list(table(folder)[0])[:3] == ["step", "epoch", "batch/loss"]


@pytest.mark.parametrize(
    ("head", "file"),
    [
        ("ink", "ink"),
        ("a/b", "a/b"),
        ("two words", "two words"),
        ("../../up", "_/_/up"),
        ("/etc/x", "etc/x"),
        ('C:\\x*?"<>|\n', "C__x_______"),
        ("end. ", "end_"),
        ("..", "_"),
    ],
)
def test_the_name_of_a_head_leads_nowhere_else(head: str, file: str, info: Any) -> None:
    """Whatever a column is called, its pictures and tables lie in the run's folder."""
    tracker = make_tracker(info, [])
    tracker.figure(f"scatter/{head}", Figure(figsize=(1, 1)), 0)
    tracker.table(head, pd.DataFrame({"id": ["a"]}), [], 0)
    folder = info.folder
    written = {path.relative_to(folder).as_posix() for path in folder.parent.rglob("*") if path.is_file()}
    assert written - {"metrics.csv", "gradients.csv"} == {f"figures/scatter/{file}.png", f"tables/{file}.csv"}


@pytest.mark.slow
def test_evaluating_names_pictures_as_training_does(renders: Renders, tmp_path: Path) -> None:
    answers = {"task": "regression", "target_columns": "in k:/px ", "trackers": []}
    project = renders.copy(tmp_path / "project", answers)
    (project / "experiments/small.yaml").write_text(SMALL)
    for words in (["make_demo_data.py"], ["make_folds.py", "--n-folds", "2"]):
        expect(run_script(project, *words))
    settings = ["training.epochs=1", "watch.figure_epochs=1", "--fold", "all"]
    expect(run_script(project, "train.py", "small", *settings, "--as", "odd"))
    expect(run_script(project, "evaluate.py", "odd"))
    for folder in (project / "runs/odd/figures", project / "runs/odd/fold_0/figures"):
        assert (folder / "scatter/in k_/px.png").is_file() and (folder / "errors/in k_/px.png").is_file()


@pytest.mark.slow
def test_an_unreachable_server_is_waited_for_once(tmp_path: Path) -> None:
    before = "import pipeline.trackers.wandb as ours; ours.INIT_SECONDS = 2"
    key = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = drive(tmp_path, ["wandb"], before, **key)
    [note] = done.stderr.splitlines()
    assert note.startswith("note: W&B cannot be used now (")
    assert note.endswith("upload it later with: wandb sync runs/baseline/fold_*/wandb/offline-run-*")
    assert 8 in wandb_history(wandb_records(fold_0(tmp_path)))
    assert len(list(tmp_path.glob("runs/baseline/fold_*/wandb/run-*"))) == 1, "the second fold does not try again"


@pytest.fixture
def info(tmp_path: Path) -> Any:
    return RunInfo("digits-demo", "baseline", "0", tmp_path / "fold_0", {}, (), "id", 0)


@pytest.mark.parametrize("saved", range(len(EVENTS) + 1))
def test_a_continued_table_has_the_same_bytes(saved: int, info: Any, tmp_path: Path) -> None:
    def log(tracker: Any, events: list[Any]) -> None:
        for step, values in events:
            tracker.scalars(values, step)

    whole = LocalTracker(info)
    log(whole, EVENTS)
    expected = (info.folder / "metrics.csv").read_bytes()
    step = EVENTS[saved - 1][0] if saved else 0
    for killed in range(saved, len(EVENTS) + 1):
        for rubbish in (b"", b"6,1.", b'99,"'):
            cut = replace(info, folder=tmp_path / f"{killed}{len(rubbish)}")
            log(LocalTracker(cut), EVENTS[:killed])
            with (cut.folder / "metrics.csv").open("ab") as file:
                file.write(rubbish)
            log(LocalTracker(replace(cut, step=step)), EVENTS[saved:])
            assert (cut.folder / "metrics.csv").read_bytes() == expected


def test_a_continued_table_knows_nothing_of_the_future(info: Any) -> None:
    tracker = LocalTracker(info)
    for step, values in EVENTS:
        tracker.scalars(values, step)
    LocalTracker(replace(info, step=2))
    rows = table(info.folder)
    assert [row["step"] for row in rows] == ["0", "2"]
    assert list(rows[0]) == ["step", "epoch", "batch/loss", "lr/group_0"]


def test_tensorboard_hides_what_is_logged_again(info: Any) -> None:
    for step, values in ((0, [1.0, 2.0, 3.0]), (10, [2.5])):
        tracker = board.TensorBoardTracker(replace(info, step=step))
        for number, value in enumerate(values):
            tracker.scalars({"batch/loss": value}, step + 10 * number + (10 if step else 0))
        tracker.finish(False)
    events = EventAccumulator(str(info.folder / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("batch/loss")] == [(0, 1.0), (10, 2.0), (20, 2.5)]


class Broken:
    """A tracker whose library is in trouble."""

    def __init__(self, info: Any) -> None:
        self.calls = 0

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("no route to host\nand a long story")

    def finish(self, succeeded: bool) -> None:
        self.calls += 10


def test_a_tracker_that_fails_is_left_behind(info: Any, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken(info)
    tracker = Trackers({"broken": broken, "local": LocalTracker(info)})  # type: ignore[dict-item]
    for step in (1, 2):
        tracker.scalars({"batch/loss": 1.0}, step)
    tracker.finish(True)
    assert broken.calls == 11
    assert len(table(info.folder)) == 2
    assert (
        capsys.readouterr().err == "note: the tracker 'broken' failed (no route to host); the run goes on without it\n"
    )


def test_a_tracker_that_does_not_start_is_left_behind(
    info: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(info: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(board, "TRACKER", refuse)
    assert list(make_tracker(info, ["tensorboard"]).trackers) == ["local"]
    assert "'tensorboard' failed (no space left on device)" in capsys.readouterr().err


def test_a_full_disk_does_not_stop_a_training(
    info: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = make_tracker(info, [])
    tracker.scalars({"batch/loss": 1.0}, 1)
    (info.folder / "metrics.csv").unlink()
    (info.folder / "metrics.csv").mkdir()
    tracker.scalars({"batch/loss": 1.0}, 2)
    assert tracker.trackers == {}
    say_once("twice")
    say_once("twice")
    assert capsys.readouterr().err.count("note: ") == 2


def test_an_unknown_tracker(info: Any) -> None:
    with pytest.raises(UserError) as caught:
        make_tracker(info, ["wandb", "mlflow"])
    assert "'mlflow'" in str(caught.value)
    assert "copier update -d trackers='[tensorboard, wandb, mlflow]'" in str(caught.value)
    assert not info.folder.exists()


def test_a_tracker_that_is_not_installed(info: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.trackers.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"needs the package 'torch.utils.tensorboard', which is not installed"):
        make_tracker(info, ["tensorboard"])


def test_without_trackers_none_is_rendered(renders: Renders) -> None:
    folder = renders.shared({"trackers": []}) / "src" / "pipeline" / "trackers"
    assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", "local.py"]
    assert not [
        path for path in folder.rglob("*.py") if "wandb" in path.read_text() or "tensorboard" in path.read_text()
    ]
