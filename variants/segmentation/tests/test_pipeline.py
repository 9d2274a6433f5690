"""The whole path on a small competition: train, evaluate, predict, submit."""

import pandas as pd
import pytest

from small_project import SmallProject
from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.masks.rle import decode


def test_a_fold_predicts_what_it_held_out(trained: SmallProject) -> None:
    folds = pd.read_csv(trained.root / "folds" / "folds.csv", dtype={"id": str})
    for fold in (0, 1):
        oof = pd.read_parquet(trained.project.run("small") / f"fold_{fold}" / "oof.parquet")
        assert sorted(oof["id"]) == sorted(folds["id"][folds["fold"] == fold])
        assert oof.notna().all(axis=None)


def test_it_learns(trained: SmallProject) -> None:
    trained.evaluate("small")
    score = read_json(trained.project.run("small") / "cv.json")
    assert score["metric"] == "dice" and score["rows"] == 60
    assert score["score"] > score["constant"]["dice"] + 0.3
    assert (trained.project.run("small") / "figures" / "shape_iou.png").is_file()


def test_a_submission_says_where_shapes_are(trained: SmallProject) -> None:
    trained.evaluate("small")
    trained.predict("small")
    made = trained.submit("small").fillna("")
    answers = trained.table("answers.csv").fillna("")
    assert list(made["picture"]) == list(answers["picture"]) and list(made["class"]) == list(answers["class"])
    overlap = total = 0
    for said, true, name in zip(made["rle"], answers["rle"], made["picture"], strict=True):
        size = (48, 80) if int(name) % 12 == 0 else (32, 40)
        one, other = decode(said, size), decode(true, size)
        overlap, total = overlap + int((one & other).sum()), total + int(one.sum() + other.sum())
    assert 2 * overlap / total > 0.7


def test_settings_that_do_not_exist_are_refused(project: SmallProject) -> None:
    with pytest.raises(UserError, match="unknown setting 'veiw'"):
        project.train("small", "task.params.veiw=whole")


def test_folds_share_the_images_without_a_shape(project: SmallProject) -> None:
    folds = pd.read_csv(project.root / "folds" / "folds.csv", dtype={"id": str})
    assert folds.groupby("group")["fold"].nunique().max() == 1
