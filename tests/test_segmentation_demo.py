"""The demo of masks: its files, and that what stands in them is what was painted."""

import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pandas as pd
import pytest

from demo_data.files import ANSWERS
from demo_data.leaderboard import answer_rows
from demo_data.masks import CLASSES, LARGE, write_demo
from pipeline.competition import Competition
from pipeline.data.tables import read_table
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import RunLengths
from pipeline.tasks.segmentation.tables import mask_rows, rows_to_predict
from toolkit.errors import UserError

FORM = RunLengths("rle", classes="class")


def settings(**changed: object) -> Settings:
    values = {
        "competition": "x",
        "task": "segmentation",
        "metric": "dice",
        "target_columns": ("mask",),
        "train_images": "train/{image_id}.png",
        "test_images": "test/{image_id}.png",
    }
    return Settings.model_validate({**values, **changed})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("demo") / "raw"
    write_demo(settings(group_column="writer"), data)
    return data


def test_tables_and_images(demo: Path) -> None:
    given = settings(group_column="writer")
    train = mask_rows(read_table(demo / "train.csv"), given, FORM, CLASSES, demo)
    sample = read_table(demo / "sample_submission.csv")
    test = rows_to_predict(sample, given, FORM, CLASSES, demo)
    assert len(train) == 240 and len(test) == 60 and len(sample) == 120 and sample["rle"].isna().all()
    assert test["id"].tolist() == read_table(demo / "test.csv")["image_id"].tolist()
    sizes = pd.Series([truth.size for truth in train["mask"]])
    assert sizes[0] == LARGE and sizes.nunique() > 200 and max(map(max, sizes[1:])) <= 224
    present = np.array([truth.present() for truth in train["mask"]])
    assert (np.abs(1 - present.mean(axis=0) - 0.22) < 0.08).all() and 0.3 < present.all(axis=1).mean() < 0.8
    assert (~present.any(axis=1)).sum() >= 4
    assert not set(train["group"]) & set(read_table(demo / "test.csv")["writer"])


def test_the_answers_of_a_trained_competition_are_those_of_its_test_rows(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What forms weights goes by the settings of the run, and the answers do not."""
    monkeypatch.setitem(sys.modules, "of_masks.targets", ModuleType("of_masks.targets"))
    given = settings(group_column="writer")

    def rows(asked: Settings, data: Path) -> pd.DataFrame:
        return mask_rows(read_table(data / asked.train_csv), asked, FORM, CLASSES, data)

    trained = Competition(given, "of_masks", parts={"tables:train_rows": rows}, trained_with=given)
    answers = answer_rows(trained, demo)
    assert answers["id"].tolist() == read_table(demo / "test.csv")["image_id"].tolist()
    assert all(truth.present().any() or not truth.read().any() for truth in answers["mask"])


def test_light_is_lighter_and_dark_is_darker_than_what_is_around(demo: Path) -> None:
    answers = mask_rows(read_table(demo / ANSWERS), settings(train_images="test/{image_id}.png"), FORM, CLASSES, demo)
    for image, truth in zip(answers["image"], answers["mask"], strict=True):
        grey = cv2.imread(str(demo / image), cv2.IMREAD_GRAYSCALE).astype(float)
        light, dark = truth.read()
        assert not (light & dark).any()
        for mask, sign in ((light, 1), (dark, -1)):
            if mask.any():
                rim = (cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 1) & (mask == 0)
                assert sign * (grey[mask == 1].mean() - grey[rim].mean()) > 30


def test_it_is_the_same_each_time_and_never_overwrites(demo: Path, tmp_path: Path) -> None:
    write_demo(settings(group_column="writer"), tmp_path / "raw")
    for path in ("train.csv", ANSWERS, "train/0000.png", "test/0299.png"):
        assert (tmp_path / "raw" / path).read_bytes() == (demo / path).read_bytes()
    (tmp_path / "raw" / "mine.csv").write_text("x")
    with pytest.raises(UserError, match=r"not the demo's \(mine.csv\)"):
        write_demo(settings(), tmp_path / "raw")
    with pytest.raises(UserError, match="the demo is one of segmentation"):
        write_demo(settings(task="other"), tmp_path / "other")
