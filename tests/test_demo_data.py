"""The demo competition: real digits in Kaggle's layout, whatever the answers are."""

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from demo_data.files import remove_demo
from demo_data.image_level import write_demo
from pipeline.data.marker import demo_files, is_demo
from pipeline.data.tables import image_rows, read_table
from pipeline.settings import Settings
from projects import Renders, run_script
from toolkit.errors import UserError
from toolkit.images.readers import image

USUAL: dict[str, Any] = {
    "competition": "digits-demo",
    "task": "classification",
    "metric": "accuracy",
    "target_columns": ("label",),
    "train_images": "train_images/{image_id}.png",
    "test_images": "test_images/{image_id}.png",
}
ODD: dict[str, dict[str, Any]] = {
    "jpg": {"train_images": "images/{image_id}.jpg", "test_images": "images/{image_id}.jpg"},
    "without extension": {"train_images": "train/{image_id}", "test_images": "test/{image_id}"},
    "folders by group": {
        "group_column": "writer",
        "train_images": "train/{writer}/{image_id}.tif",
        "test_images": "test/{writer}/{image_id}.tif",
    },
    "folders by label": {"train_images": "train/{label}/{image_id}.bmp"},
    "an unknown column": {"train_images": "{split}/{image_id}.png", "test_images": "test/{path}.webp"},
    "other names": {
        "id_column": 'Image "ID": #1',
        "target_columns": ("Class Label", "a.b", "007", "- x", "yes"),
        "group_column": "Patient's [ID]",
        "train_csv": "labels/Train: set #1.csv",
        "train_images": '{Class Label}/{Image "ID": #1}',
        "test_images": "test/%s & 'co' {1e3}.jpg",
    },
    "arrays": {"train_images": "train/{image_id}.npy", "test_images": "test/{image_id}.npy"},
}


def settings(**changed: Any) -> Settings:
    return Settings.model_validate({**USUAL, **changed})


def test_kaggles_layout(tmp_path: Path) -> None:
    began = time.perf_counter()
    write_demo(settings(), tmp_path)
    assert time.perf_counter() - began < 20  # about one second on an idle machine
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".answers.csv",
        ".demo",
        "sample_submission.csv",
        "test.csv",
        "test_images",
        "train.csv",
        "train_images",
    ]
    train, test = read_table(tmp_path / "train.csv"), read_table(tmp_path / "test.csv")
    sample, answers = read_table(tmp_path / "sample_submission.csv"), read_table(tmp_path / ".answers.csv")
    assert (len(train), len(test)) == (1297, 500)
    assert list(train) == list(sample) == list(answers) == ["image_id", "label"] and list(test) == ["image_id"]
    assert set(train["label"]) == set(answers["label"]) == set("0123456789")
    assert sample["label"].nunique() == 1
    assert test["image_id"].tolist() == sample["image_id"].tolist() == answers["image_id"].tolist()
    assert not set(train["image_id"]) & set(test["image_id"])
    shapes = {cv2.imread(str(path), -1).shape for path in (tmp_path / "train_images").iterdir()}
    assert len(shapes) > 100
    assert len(list((tmp_path / "test_images").iterdir())) == 500


def test_deterministic(tmp_path: Path) -> None:
    write_demo(settings(), tmp_path / "a")
    write_demo(settings(), tmp_path / "b")
    assert demo_files(tmp_path / "a") == demo_files(tmp_path / "b")
    assert len(demo_files(tmp_path / "a")) == 1797 + 4


@pytest.mark.parametrize("name", ODD)
def test_odd_answers(name: str, tmp_path: Path) -> None:
    chosen = settings(**ODD[name])
    write_demo(chosen, tmp_path)
    train = image_rows(read_table(tmp_path / chosen.train_csv), chosen, chosen.train_images, tmp_path)
    test = image_rows(read_table(tmp_path / "test.csv"), chosen, chosen.test_images, tmp_path)
    assert (len(train), len(test)) == (1297, 500)
    paths = [*train["image"], *test["image"]]
    assert len(set(paths)) == 1797
    assert all(image(tmp_path / path, (32, 32)).shape[2] == 3 for path in paths[::40])
    assert all((tmp_path / path).is_file() for path in paths)
    for column in chosen.target_columns:
        assert 2 <= train[column].nunique() <= 10
        assert column not in test
    if chosen.group_column:
        assert train["group"].value_counts().min() > 5
        assert not set(train["group"]) & set(test["group"])


def test_targets_are_questions_about_the_digit(tmp_path: Path) -> None:
    write_demo(settings(target_columns=("digit", "parity", "ink")), tmp_path)
    train = read_table(tmp_path / "train.csv")
    assert ((train["digit"].astype(int) % 2 == 0) == (train["parity"] == "even")).all()
    assert set(train["ink"]) == {"light", "medium", "heavy"}


def test_a_metric_of_probabilities_has_a_column_per_class(tmp_path: Path) -> None:
    write_demo(settings(metric="log_loss"), tmp_path)
    sample = pd.read_csv(tmp_path / "sample_submission.csv", dtype={"image_id": str})
    assert list(sample) == ["image_id", *"0123456789"]
    assert np.allclose(sample.drop(columns="image_id").sum(axis=1), 1)
    write_demo(settings(metric="roc_auc", target_columns=("digit", "parity")), tmp_path)
    assert "parity_even" in pd.read_csv(tmp_path / "sample_submission.csv")


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("real")
    with pytest.raises(UserError, match=r"train\.csv.*never overwritten"):
        write_demo(settings(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    (tmp_path / "train.csv").unlink()
    write_demo(settings(), tmp_path)
    assert is_demo(tmp_path)
    (tmp_path / "train.csv").write_text("image_id,label\nreal,1\n")  # real data unpacked over the demo
    assert not is_demo(tmp_path)
    with pytest.raises(UserError, match="never overwritten"):
        write_demo(settings(), tmp_path)
    remove_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_a_changed_answer_replaces_the_demo(tmp_path: Path) -> None:
    write_demo(settings(), tmp_path)
    write_demo(settings(**ODD["jpg"]), tmp_path)
    assert is_demo(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"images"}
    remove_demo(tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_interrupted_write_is_still_the_demos(tmp_path: Path) -> None:
    write_demo(settings(), tmp_path)
    for path in ("sample_submission.csv", "train_images/00001.png"):
        (tmp_path / path).unlink()
    write_demo(settings(), tmp_path)
    assert is_demo(tmp_path) and (tmp_path / "train_images/00001.png").is_file()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_images": "train/{label}.png"}, "same path"),
        ({"test_images": "test/{label}/{image_id}.png"}, "names a target column"),
        ({"train_images": "train/{image_id}.dcm"}, r"cannot write images as '\.dcm'"),
    ],
)
def test_patterns_the_demo_cannot_follow(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        write_demo(settings(**changed), tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_scripts_on_the_demo(renders: Renders, tmp_path: Path) -> None:
    answers = {
        "id_column": "digit",
        "target_columns": "number, parity",
        "group_column": "writer",
        "train_images": "scans/{writer}/{digit}",
        "test_images": "scans/{writer}/{digit}",
    }
    house = renders.copy(tmp_path / "project", answers)
    assert run_script(house, "make_demo_data.py").status == 0
    assert run_script(house, "make_demo_data.py").status == 0
    folds = run_script(house, "make_folds.py")
    assert folds.status == 0, folds
    assert "no leaks among 1797 rows" in folds.stdout
    checked = run_script(house, "check_data.py")
    assert (checked.status, checked.stderr) == (0, ""), checked
    table = pd.read_csv(house / "folds/folds.csv", dtype=str)
    assert list(table) == ["id", "fold", "group", "number", "parity"]
    assert table.groupby("group")["fold"].nunique().max() == 1
    classes = json.loads((house / "folds/classes.json").read_text())
    assert classes == {"number": [*"0123456789"], "parity": ["even", "odd"]}
    assert not (house / "folds/folds.leaks.csv").exists()
    (house / "data/raw/notes.txt").write_text("mine")
    refused = run_script(house, "make_demo_data.py")
    assert refused.status == 2 and "notes.txt" in refused.last_line
