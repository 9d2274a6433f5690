"""What a user can do wrong: one line that says what, where and what to do; status 2; no traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from projects import Renders, run_script
from training import demo_project, expect

Spoil = Callable[[Path], None]


def edit_csv(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    def spoil(project: Path) -> None:
        path = project / "data/raw/train.csv"
        change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)

    return spoil


def first_image(project: Path) -> Path:
    folds = pd.read_csv(project / "folds/folds.csv", dtype=str)
    return project / "data/raw/train_images" / f"{folds[folds['fold'] != '0']['id'].iloc[0]}.png"


def truncate(project: Path) -> None:
    path = first_image(project)
    path.write_bytes(path.read_bytes()[:60])


CASES: dict[str, tuple[Spoil, list[str], list[str]]] = {
    "no data": (lambda p: shutil.rmtree(p / "data"), [], ["data/raw", "make_demo_data.py"]),
    "no table": (lambda p: (p / "data/raw/train.csv").unlink(), [], ["train.csv"]),
    "no id column": (edit_csv(lambda t: t.rename(columns={"image_id": "img"})), [], ["image_id", "img"]),
    "no target column": (edit_csv(lambda t: t.rename(columns={"label": "labels"})), [], ["label", "labels"]),
    "empty table": (edit_csv(lambda t: t.iloc[:0]), [], ["train.csv"]),
    "duplicate ids": (edit_csv(lambda t: pd.concat([t, t.iloc[:2]])), [], ["train.csv", "2 ids"]),
    "a lost row": (edit_csv(lambda t: t.iloc[1:]), [], ["1 of its rows are gone", "make_folds.py"]),
    "other data": (edit_csv(lambda t: t.assign(image_id="x" + t["image_id"])), [], ["folds.csv", "make_folds"]),
    "missing label": (edit_csv(lambda t: t.assign(label=t["label"].where(t.index != 5))), [], ["label"]),
    "unknown label": (edit_csv(lambda t: t.assign(label=t["label"].where(t.index != 5, "ten"))), [], ["'ten'"]),
    "no fold file": (lambda p: (p / "folds/folds.csv").unlink(), [], ["make_folds.py"]),
    "no class order": (lambda p: (p / "folds/classes.json").unlink(), [], ["make_folds.py"]),
    "missing image": (lambda p: first_image(p).unlink(), [], ["train_images", "row"]),
    "truncated image": (truncate, [], ["train_images", "row"]),
    "missing image in a worker": (lambda p: first_image(p).unlink(), ["machine.workers=2"], ["train_images", "row"]),
    "fold out of range": (lambda p: None, ["--fold", "9"], ["fold '9'", "0, 1"]),
    "fold that is no number": (lambda p: None, ["--fold", "first"], ["first", "all"]),
    "another fold file": (lambda p: None, ["folds=fold"], ["fold.csv", "folds"]),
    "a GPU that is not there": (lambda p: None, ["machine.device=cuda"], ["machine.device", "auto"]),
    "fp16 without a GPU": (lambda p: None, ["training.precision=fp16"], ["fp16", "auto"]),
    "unknown encoder": (lambda p: None, ["model.encoder=resnet10tt"], ["resnet10t"]),
    "encoder setting it does not take": (
        lambda p: None, ["model.params={encoder_params: {colour: red}}"], ["test_resnet", "colour"],
    ),
    "unknown optimiser": (lambda p: None, ["optimizer.name=adamww"], ["adamw"]),
    "optimiser setting it does not take": (lambda p: None, ["optimizer.params={speed: 1}"], ["adamw", "speed"]),
    "loss of a head that is not there": (
        lambda p: None, ["losses=[{loss: cross_entropy, head: labell}]"], ["labell", "'label'"],
    ),
    "unknown loss": (lambda p: None, ["losses=[{loss: cross_entropi, head: label}]"], ["cross_entropy"]),
    "label smoothing of two": (
        lambda p: None, ["losses=[{loss: {name: cross_entropy, params: {label_smoothing: 2}}, head: label}]"],
        ["label_smoothing"],
    ),
    "channels that do not fit": (lambda p: None, ["model.in_chans=1"], ["in_chans"]),
    "no hub": (lambda p: None, ["model.pretrained=true", "model.encoder=resnet18"], ["model.pretrained"]),
}  # fmt: skip


@pytest.fixture
def project(renders: Renders, tmp_path: Path) -> Path:
    return demo_project(renders, tmp_path / "project")


@pytest.mark.parametrize("case", CASES)
def test_training_refuses(project: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no minute of retries
    spoil, arguments, hints = CASES[case]
    spoil(project)
    arguments = arguments if "--fold" in arguments else [*arguments, "--fold", "0"]
    result = expect(run_script(project, "train.py", "small", *arguments), 2)
    assert result.stderr.count("error: ") == 1
    for hint in hints:
        assert hint in result.last_line


def test_a_run_that_is_not_there_names_the_nearest(project: Path) -> None:
    for script in ("evaluate.py", "predict.py", "submit.py", "report.py"):
        assert "train" in expect(run_script(project, script, "small"), 2).last_line
    assert "'small'" in expect(run_script(project, "train.py", "smal"), 2).last_line


def test_a_tracker_that_is_not_there(project: Path) -> None:
    path = project / "competition.yaml"
    path.write_text(path.read_text().replace("trackers: []", "trackers: [wandb]"))
    assert "copier update" in expect(run_script(project, "train.py", "small", "--fold", "0"), 2).last_line


def test_settings_that_are_wrong(project: Path) -> None:
    path = project / "competition.yaml"
    good = path.read_text()
    for bad, hint in (
        (good.replace("id_column:", "id_colum:"), "id_column"),
        (good.replace("metric: accuracy", "metric: acuracy"), "accuracy"),
        (good + "\nid_column: twice\n", "competition.yaml"),
        (good.replace("target_columns:", "target_columns: ["), "competition.yaml"),
    ):
        path.write_text(bad)
        assert hint in expect(run_script(project, "train.py", "small", "--fold", "0"), 2).last_line


def test_a_restart_that_trains_nothing_brings_the_old_run_back(project: Path) -> None:
    kept = project / "runs/small/fold_0/metrics.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("epoch\n1\n")
    wrong = ("train.py", "small", "--fold", "0", "--restart", "model.encoder=resnet10tt")
    assert "resnet10t" in expect(run_script(project, *wrong), 2).last_line
    assert kept.read_text() == "epoch\n1\n" and not (project / "runs/set_aside/small.1").exists()
    edit_csv(lambda table: table.assign(label=table["label"].where(table.index != 5, "ten")))(project)
    assert "'ten'" in expect(run_script(project, "train.py", "small", "--fold", "0", "--restart"), 2).last_line
    assert kept.is_file()
