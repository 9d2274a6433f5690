"""Cells that are no text: whatever dtype `tables.py` gives a column, it is read as a csv would hold it."""

import datetime
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.folds import load_folds
from pipeline.data.tables import image_paths, image_rows
from pipeline.heads.base import kind_of
from pipeline.project import Project
from pipeline.rows import as_text, plain_rows
from pipeline.settings import Settings
from pipeline.tasks.segmentation.tables import mask_rows
from projects import Renders, imported, run_script
from toolkit.errors import UserError
from training import expect


@pytest.mark.parametrize(
    ("cells", "dtype", "expected"),
    [
        ([1, 0], "int64", ["1", "0"]),
        ([1.0, None, 2.0], "float64", ["1", None, "2"]),
        ([0.5, 2.0], "float64", ["0.5", "2.0"]),
        ([1, None], "Int64", ["1", None]),
        ([True, False], "bool", ["True", "False"]),
        (["b", None], "category", ["b", None]),
        ([3, 4], "category", ["3", "4"]),
        (["007", 7, 7.0, None, np.int8(1), np.float32(2)], object, ["007", "7", "7", None, "1", "2"]),
        ([pd.Timestamp("2020-01-02"), None], object, ["2020-01-02", None]),
        ([datetime.date(2020, 1, 2), pd.NaT], object, ["2020-01-02", None]),
        ([["a", "b"], np.array([1, 2]), None], object, ["['a', 'b']", "['1', '2']", None]),
        ([b"cat", Path("a/b.png")], object, ["cat", "a/b.png"]),
        (["1.0", "NA"], "string", ["1.0", "NA"]),  # text stays what it is
    ],
)
def test_cells_are_what_a_csv_would_hold(cells: list[Any], dtype: Any, expected: list[str | None]) -> None:
    found = as_text(pd.Series(cells, dtype=dtype))
    assert found.dtype == "str"
    assert found.astype(object).where(found.notna(), None).tolist() == expected


def test_what_is_no_cell_of_a_csv_stays(tmp_path: Path) -> None:
    truth = object()
    assert as_text(pd.Series([truth, None, 1])).tolist()[0] is truth
    rows = pd.DataFrame({"id": ["a", "b"], "image": "x", "group": [{"a": 1}, None]})
    with pytest.raises(UserError, match=r"'group' of train.csv holds no text in 1 rows, but dict"):
        plain_rows(rows, "train.csv", [])


def test_rows_of_several_tables_are_whole() -> None:
    """What `pd.concat` leaves empty where one table has no such column."""
    own = pd.DataFrame({"id": [1, 2], "image": [Path("a"), Path("b")], "label": [1.0, 0.0]})
    rows = pd.concat([own, own.assign(id=["w1", "w2"], source="web", weight=["0.5", 2])], ignore_index=True)
    found = plain_rows(rows, "train.csv", ["label"])
    assert found["id"].tolist() == ["1", "2", "w1", "w2"] and found["label"].tolist() == ["1", "0", "1", "0"]
    assert found["source"].tolist() == ["competition", "competition", "web", "web"]
    assert found["weight"].tolist() == [1.0, 1.0, 0.5, 2.0] and found["image"].tolist() == ["a", "b"] * 2
    for change, said in (
        ({"weight": "heavy"}, "weight 'heavy'"),
        ({"weight": -1}, "weight '-1'"),
        ({"id": [None, 1, 2, 3]}, "1 rows of train.csv have no 'id'"),
        ({"image": [None, "a", "b", "c"]}, "no 'image' .id 1"),
    ):
        with pytest.raises(UserError, match=said):
            plain_rows(rows.assign(**change), "train.csv", ["label"])


SETTINGS = Settings(
    competition="x",
    task="classification",
    metric="accuracy",
    target_columns=("label",),
    group_column="site",
    train_images="{site}/{image_id}.png",
    test_images="{image_id}.png",
)


def test_ids_and_columns_of_a_pattern_may_be_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [12, 7], "site": [3.0, 4.0], "label": [1, 0]})
    rows = image_rows(table, SETTINGS, SETTINGS.train_images, tmp_path)
    assert rows["image"].tolist() == ["3/12.png", "4/7.png"]
    assert rows["id"].tolist() == ["12", "7"] and rows["group"].tolist() == ["3", "4"]


def test_parts_of_a_column_in_a_pattern(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["0a1b", "f00d"], "x[0]": ["p", "q"]}, dtype="str")
    found = image_paths(
        table, "train/{image_id[0]}/{image_id[:2]}/{image_id[-1]}{image_id[1:3]}/{image_id}.png", tmp_path
    )
    assert found.tolist() == ["train/0/0a/ba1/0a1b.png", "train/f/f0/d00/f00d.png"]
    assert image_paths(table, "{x[0]}.png", tmp_path).tolist() == ["p.png", "q.png"]  # a column of that name
    with pytest.raises(UserError, match="did you mean 'image_id'"):
        image_paths(table, "{image[0]}.png", tmp_path)
    with pytest.raises(
        UserError, match=r"2 cells of 'image_id' \('0a1b', 'f00d'\) are too short for '{image_id\[4\]}'"
    ):
        image_paths(table, "{image_id[4]}.png", tmp_path)


def write(project: Path, edits: str, sample: str, **columns: Any) -> Path:
    """Noise as images of a table with these columns; `train_rows` and `test_rows` change dtypes by `edits`."""
    data, generator = project / "data/raw", np.random.default_rng(0)
    count = len(next(iter(columns.values())))
    tables = {"train": list(range(count)), "test": [100, 101]}
    for name, ids in tables.items():
        (data / f"{name}_images").mkdir(parents=True)
        for number in ids:
            noise = generator.integers(0, 256, (20, 20), dtype=np.uint8)
            assert cv2.imwrite(str(data / f"{name}_images/{number}.png"), noise)
        pd.DataFrame({"image_id": ids, **(columns if name == "train" else {})}).to_csv(
            data / f"{name}.csv", index=False
        )
    pd.DataFrame({"image_id": tables["test"], **dict.fromkeys(list(columns)[:1], sample)}).to_csv(
        data / "sample_submission.csv", index=False
    )
    with (project / "src/competition/tables.py").open("a") as file:
        file.write(
            f"\n\ndef edited(rows: pd.DataFrame) -> pd.DataFrame:\n    {edits}\n    return rows\n\n\n"
            "plain_train, plain_test = train_rows, test_rows\n\n\n"
            "def train_rows(settings: Settings, data: Path) -> pd.DataFrame:\n"
            "    return edited(plain_train(settings, data))\n\n\n"
            "def test_rows(settings: Settings, data: Path) -> pd.DataFrame:\n"
            "    return plain_test(settings, data).assign(id=lambda rows: rows['id'].astype(int))\n"
        )
    return data


NUMBERS = "rows[['id', 'label']] = rows[['id', 'label']].astype(int)"
CASES = {  # answers, what tables.py does, the columns of train.csv, the truth of the first rows
    "classification": ({"target_columns": "label"}, NUMBERS, {"label": [0, 1] * 8}, [0, 1]),
    "multilabel": (
        {"target_columns": "a,b"},
        "rows[['a', 'b']] = rows[['a', 'b']].astype(int).astype(bool); rows['id'] = rows['id'].astype(float)",
        {"a": [0, 1] * 8, "b": [0, 1, 1, 0] * 4},
        [[0, 0], [1, 1], [0, 1]],
    ),
    "regression": (
        {"target_columns": "label", "metric": "rmse"},
        "rows['label'] = rows['label'].astype('float32'); rows['id'] = rows['id'].astype('int16')",
        {"label": [0.25, 3] * 8},
        [[0.25], [3.0]],
    ),
    "multitask": (
        {"target_columns": "kind,ink"},
        "rows['kind'] = rows['kind'].astype(float).astype('Int64'); rows['ink'] = rows['ink'].astype(float)",
        {"kind": [3, 5, None, 3] * 4, "ink": [1.5, 2] * 8},
        [0, 1],
    ),
    "metric_learning": ({"target_columns": "label"}, NUMBERS, {"label": [4, 4, 9, 9] * 4}, [0, 0, 1, 1]),
}


@pytest.mark.parametrize("task", list(CASES))
def test_columns_of_any_dtype_train(task: str, renders: Renders, tmp_path: Path) -> None:
    """Checked, divided, and read as the truth, where the csv alone would be."""
    answers, edits, columns, truth = CASES[task]
    project = renders.copy(tmp_path / "project", {"task": task, "trackers": [], **answers})
    data = write(project, edits, "0", **columns)
    expect(run_script(project, "check_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2", "--no-leak-report"))
    with imported(project):
        from competition import competition

        rows, unseen = competition.train_rows(data), competition.test_rows(data)
        heads = competition.heads(json.loads((project / "folds/classes.json").read_text()))
    found = kind_of(heads[0]).targets(rows)
    assert found[: len(truth)].tolist() == truth
    loaded = load_folds(Project.at(project), "folds", rows, competition.settings)
    assert not loaded.warnings and loaded.rows["fold"].isin([0, 1]).all()
    assert unseen["id"].tolist() == ["100", "101"]


def test_numbers_as_ids_of_masks(renders: Renders, tmp_path: Path) -> None:
    """A table whose ids became numbers still finds its masks."""
    with imported(renders.shared({"task": "segmentation", "trackers": []})):
        from competition import competition
        from competition.targets import CLASSES, TRUTH
    for folder in ("train_images", "test_images"):
        (tmp_path / folder).mkdir()
    for number in (3, 12):
        assert cv2.imwrite(str(tmp_path / f"train_images/{number}.png"), np.zeros((8, 8), np.uint8))
    columns = [name for name in TRUTH.own_columns if name != "image_id"]
    table = pd.DataFrame({"image_id": [3, 12], **{name: ["1 3", None] for name in columns}})
    for class_column in [name for name in columns if "class" in name]:
        table[class_column] = CLASSES[0]
    rows = mask_rows(table, competition.settings, TRUTH, CLASSES, tmp_path)
    assert rows["id"].tolist() == ["3", "12"]
    assert rows["image"].tolist() == ["train_images/3.png", "train_images/12.png"]
    truth = rows[competition.settings.target_columns[0]]
    assert [int(one.read().sum()) for one in truth] == [3, 0]
