"""What the data check says about targets, sizes and channels, each with ids and a remedy."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.check_images import image_faults
from pipeline.data.check_labels import label_faults, spelling_faults, target_faults
from pipeline.data.check_tables import id_spellings, requested_columns, sample_faults, sample_spellings
from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels
from pipeline.data.leaks import TEST
from pipeline.settings import Settings
from projects import Renders, run_script
from toolkit.audit.scan import Look, scan
from toolkit.images.readers import array, image
from training import expect


def table(**columns: Iterable[object]) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    return frame.assign(id=[f"i{number}" for number in range(len(frame))], image=frame.index.astype("str"))


def one(faults: Iterable[Fault], problem: str) -> Fault:
    found = [fault for fault in faults if fault.problem == problem]
    assert len(found) == 1, found
    return found[0]


def test_classes_with_fewer_rows_than_folds() -> None:
    train = table(label=["cat"] * 9 + ["bat"] * 2 + ["owl"] + [None])
    assert not list(target_faults(train[:9], train[:0], ClassLabels(["label"]), 5))
    found = one(target_faults(train, train[:0], ClassLabels(["label"]), 5), "rare classes")
    assert not found.fatal and found.row == "i9, i10, i11"
    for said in ("2 of 3 classes of 'label'", "fewer rows than the 5 folds", "owl: 1, bat: 2", "the 1 with one only"):
        assert said in found.detail
    found = one(target_faults(train, train[:0], ClassLabels(["label"]), 2), "rare classes")
    assert found.row == "i11" and "1 of 3 classes" in found.detail
    # Rows of other sources are in no fold, so they do not count; groups are held out whole.
    mixed = train.assign(source=["competition"] * 4 + ["web"] * 5 + ["competition"] * 4)
    assert "cat: 4" in one(target_faults(mixed, train[:0], ClassLabels(["label"]), 5), "rare classes").detail
    grouped = train.assign(group=["a", "b", "c"] * 3 + ["d"] * 4)
    said = one(target_faults(grouped, train[:0], ClassLabels(["label"]), 3), "rare classes").detail
    assert "fewer groups than the 3 folds (bat: 1, owl: 1)" in said and "the 2 with one only" in said


def test_measurements_are_no_classes() -> None:
    @dataclass(frozen=True)
    class Measured(ClassLabels):
        named = ("grade",)

    train = table(age=[f"{number / 7}" for number in range(20)], grade=["0", "1"] * 10)
    assert not list(target_faults(train, train[:0].assign(age="3"), Measured(["age", "grade"]), 5))
    assert list(target_faults(train, train[:0].assign(age="3"), ClassLabels(["age", "grade"]), 5))
    whales = table(label=[f"w_{number}" for number in range(20)])
    assert (
        "20 of 20 classes" in one(target_faults(whales, whales[:0], ClassLabels(["label"]), 5), "rare classes").detail
    )


def test_what_the_folds_do_with_rare_classes(renders: Renders, tmp_path: Path) -> None:
    """As the check says: folds without the class, and a single row that is never trained on where it is held out."""
    project = renders.copy(tmp_path / "project")
    labels = ["cat"] * 20 + ["bat"] * 2 + ["owl"]
    data = competition(project, labels)
    pd.DataFrame({"image_id": [f"te{n}" for n in range(4)], "label": ["cat", "emu", "emu", "bat"]}).to_csv(
        data / "test.csv", index=False
    )
    expect(run_script(project, "make_folds.py", "--n-folds", "4"))
    checked = " ".join(expect(run_script(project, "check_data.py")).stdout.replace("│", " ").split())
    assert "tr20, tr21, tr22 2 of 3 classes of 'label' have fewer rows than the 4 folds (owl: 1, bat: 2)" in checked
    assert "te1, te2 'label' of 2 test rows is emu" in checked
    folds = pd.read_csv(project / "folds/folds.csv").groupby("label")["fold"].agg(set)
    assert folds["cat"] == set(range(4))
    assert len(folds["bat"]) <= 2 and len(folds["owl"]) == 1


def faults_of_labels(cells: list[str], **columns: list[str]) -> list[Fault]:
    rows = table(label=cells, **columns).assign(fold=0)
    settings = Settings(
        competition="x",
        task="classification",
        metric="accuracy",
        target_columns=("label",),
        train_images="{id}",
        test_images="{id}",
    )
    return list(label_faults(rows, ClassLabels(["label"]), settings, {}))


@pytest.mark.parametrize(
    ("cells", "said", "fatal"),
    [
        (["0", "1", "0.0", "1.0"], "'0' (3 rows), '0.0' (3 rows) differ by", True),
        (["cat", "cat ", "dog"], "'cat' (3 rows), 'cat ' (3 rows)", True),
        (["big cat", "big  cat", "dog"], "'big  cat' (3 rows)", True),
        (["caf\u00e9", "cafe\u0301", "tea"], "differ by", True),
        (["cat", "cat\u200b", "dog"], "differ by", True),
        (["Cat", "cat", "dog"], "'Cat' (3 rows), 'cat' (3 rows)", False),
        (["7", "07", "8"], "'7' (3 rows), '07' (3 rows)", False),
        (["yes", "no", "True", "1"], "'yes' (3 rows), 'True' (3 rows), '1' (3 rows) all say yes", True),
        (["cat", "nan"], "'nan' stands in 3 rows", False),
        (["cat", " "], "' ' stands in 3 rows", True),
    ],
)
def test_one_class_in_several_spellings(cells: list[str], said: str, fatal: bool) -> None:
    found = faults_of_labels(cells * 3)
    assert any(said in fault.detail and fault.fatal == fatal for fault in found), found
    assert all("src/competition/tables.py" in fault.detail for fault in found)


def test_classes_that_only_look_alike_are_none_of_this() -> None:
    for cells in (
        ["0", "1"],
        ["yes", "no"],
        ["True", "False"],
        ["cat", "cats"],
        ["1.5", "15"],
        ["a-b", "a b"],
        ["t", "f", "1"],
    ):
        assert faults_of_labels(cells * 3) == [], cells


def test_one_group_in_several_spellings() -> None:
    """A note, as make_folds keeps them together; folds that tear them are a fault where they cannot be two groups."""
    labels = ["a", "b"] * 6
    [note] = faults_of_labels(labels, group=[("P3", "p3 ")[n % 2] for n in range(6)] + ["q"] * 6)
    assert not note.fatal and "'P3' (3 rows), 'p3 ' (3 rows) differ by" in note.detail
    assert "keeps them together" in note.detail

    def faults(*groups: str) -> list[Fault]:
        rows = table(group=[*groups] * 4, fold=[0, 1, 0] * 4)
        return list(spelling_faults("groups", rows["group"], rows["fold"]))

    [fault] = faults("7", "7.0", "8")
    assert fault.fatal and "lie in several folds: make the folds anew" in fault.detail
    [case] = faults("aB", "Ab", "c")
    assert not case.fatal, "hashes may differ by case"
    [missing] = faults("nan", "8", "9")
    assert "'nan' stands in 4 rows" in missing.detail
    assert not faults("7", "8", "9")


@pytest.mark.parametrize(
    ("asked", "test", "said"),
    [
        (["7.0", "8.0"], ["7", "8"], "2 of its ids are spelled otherwise ('7.0' for '7'"),
        (["0007"], ["7"], "'0007' for '7'"),
        (["a.JPG", "b.jpg"], ["a", "b"], "'a.JPG' for 'a'"),
        (["A", "b "], ["a", "b"], "'A' for 'a', 'b ' for 'b'"),
        (["test/a.png"], ["a"], "'test/a.png' for 'a'"),
    ],
)
def test_ids_that_the_sample_spells_otherwise(asked: list[str], test: list[str], said: str, tmp_path: Path) -> None:
    pd.DataFrame({"image_id": asked, "label": "x"}).to_csv(tmp_path / "sample_submission.csv", index=False)
    settings = Settings(
        competition="x", task="y", metric="z", target_columns=("label",), train_images="{id}", test_images="{id}"
    )
    [fault] = sample_faults(settings, tmp_path, table(image=test).assign(id=test), ClassLabels(("label",)))
    assert fault.fatal and said in fault.detail and "src/competition/tables.py" in fault.detail


@pytest.mark.parametrize(
    ("columns", "cells", "decides", "said"),
    [
        (["label"], ["0", "1"], True, "2 of its 'label' cells are spelled otherwise ('0' for '0.0'"),
        (["Target"], ["0"], True, "'0' for '0.0'"),
        (["label"], ["0"], False, ""),  # it holds numbers
        (["label"], ["0.0", "2"], True, ""),
        ([" 0.0", "1.0"], ["0.5"], False, "1 of its columns are spelled otherwise (' 0.0' for '0.0'"),
        (["label "], ["0.0"], True, "'label ' for 'label'"),
    ],
)
def test_classes_that_the_sample_spells_otherwise(
    columns: list[str], cells: list[str], decides: bool, said: str
) -> None:
    settings = Settings(
        competition="x", task="y", metric="z", target_columns=("label",), train_images="{id}", test_images="{id}"
    )
    sample = pd.DataFrame({"image_id": [f"t{n}" for n in range(len(cells))], **dict.fromkeys(columns, cells)})
    train = table(label=["0.0", "1.0"] * 4)
    found = list(sample_spellings(settings, sample, train, ClassLabels(["label"]), decides))
    assert bool(found) == bool(said)
    assert all(said in note.detail and not note.fatal for note in found)


def test_ids_in_several_spellings_are_a_note() -> None:
    [note] = id_spellings(table(x=[1] * 4).assign(id=["a", "A ", "7", "7.0"]), "train rows")
    assert not note.fatal and "2 of them stand in several spellings ('a' and 'A ', '7' and '7.0')" in note.detail
    assert not list(id_spellings(table(x=[1] * 4).assign(id=["7", "07", "a.png", "a.jpg"]), "train rows"))


def test_equal_targets_and_unseen_labels() -> None:
    train = table(first=["a", "b"] * 10, second=["a", "b"] * 10, third=["b", "a"] * 10)
    found = one(target_faults(train, train[:0], ClassLabels(["first", "second", "third"]), 5), "equal targets")
    assert found.row == "first, second" and "drop one" in found.detail and not found.fatal
    test = table(first=["a", "c", "d", None])
    found = one(target_faults(train, test, ClassLabels(["first", "third"]), 5), "unseen labels")
    assert found.row == "i1, i2" and "'first' of 2 test rows is c, d" in found.detail
    assert not list(target_faults(train, test[["id"]], ClassLabels(["first", "third"]), 5))


def looks(sizes: Iterable[tuple[int, int]]) -> tuple[pd.DataFrame, list[Look]]:
    seen = [Look("x", "", size, "uint8", 3) for size in sizes]
    return table(fold=[0] * len(seen)), seen


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a_root", "a_vowel", "b_1_root", "b_1_vowel"], []),
        (["a_root", "a_vowel", "c_root"], ["c", "b_1"]),
        (["a", "b_1"], []),
        (["x_root", "y_mark"], ["sample_submission.csv"]),
    ],
)
def test_a_sample_with_a_row_for_each_image_and_column_asks_for_test_rows(
    tmp_path: Path, rows: list[str], said: list[str]
) -> None:
    text = "".join(f"{row},0\n" for row in rows)
    (tmp_path / "sample_submission.csv").write_text(f"row_id,target\n{text}")
    settings = Settings(
        competition="graphemes",
        task="multitask",
        metric="accuracy",
        target_columns=("root", "vowel"),
        train_images="{image_id}",
        test_images="{image_id}",
    )
    faults = sample_faults(settings, tmp_path, table(image=["a", "b"]).assign(id=["a", "b_1"]), ClassLabels(("label",)))
    assert [fault.row for fault in faults] == said


def test_sizes_that_stand_out() -> None:
    generator = np.random.default_rng(0)
    usual = [tuple(pair) for pair in generator.integers(300, 900, (200, 2))]
    rows, seen = looks([*usual, (9000, 9000), (40, 40), (100, 4000), (650, 650)])
    found = one(image_faults(rows, seen), "odd sizes")
    assert found.row == "i200, i201, i202" and not found.fatal
    assert "3 images of 9000x9000, 40x40, 100x4000 pixels" in found.detail and "drop their rows" in found.detail
    # Where sizes differ anyway, none stands out; nor do small differences where all others are equal.
    spread = [(side, side) for side in np.geomspace(20, 4000, 200).astype(int)]
    assert not list(image_faults(*looks(spread)))
    assert not list(image_faults(*looks([(100, 100)] * 50 + [(100, 250), (390, 390)])))
    assert one(image_faults(*looks([(100, 100)] * 50 + [(100, 310)])), "odd sizes").row == "i50"
    assert not list(image_faults(*looks([(1, 1), (900, 900)])))


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    """Not those that a JPEG is decoded at."""
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), (900, 500))
    names = ["a.jpg", "a.png", "a.webp", "a.npy"]
    for name in names[:3]:
        assert cv2.imwrite(str(tmp_path / name), pixels)
    np.save(tmp_path / "a.npy", pixels)
    assert [seen.size for seen in scan([tmp_path / name for name in names], image)] == [(500, 900)] * 4


def test_values_that_are_hardly_seen_are_a_note(tmp_path: Path) -> None:
    """Of 12 bits in files of 16; the remedy that the note names makes it go away."""
    values = np.random.default_rng(0).integers(0, 4096, (3, 40, 40), dtype=np.uint16)
    values[1, 0, 0] = 4095
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, values, strict=True):
        assert cv2.imwrite(str(path), pixels)
    rows = table(fold=[0] * 3)
    found = one(image_faults(rows, scan(paths, image)), "dark images")
    assert not found.fatal and found.row == "i0, i1, i2"
    assert "6.25% of white" in found.detail and "image.reader.params.high" in found.detail and "(4095 " in found.detail
    assert not list(image_faults(rows, scan(paths, partial(image, high=4095))))
    assert cv2.imwrite(str(paths[2]), (values[2] // 16).astype(np.uint8))
    assert not [fault for fault in image_faults(rows, scan(paths, image)) if fault.problem == "dark images"]


def test_channels_that_cannot_be_stacked(tmp_path: Path) -> None:
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", np.full((9, 9, 4 if number == 3 else 5), number, np.uint8))
    rows = table(fold=[0] * 5)
    seen = scan([tmp_path / f"{number}.npy" for number in range(5)], array)
    found = [fault for fault in image_faults(rows, seen) if fault.problem == "mixed channels"]
    assert [(fault.row, fault.fatal) for fault in found] == [("i0, i1, i2 and 1 more", True), ("i3", True)]
    assert "1 images are read as 4; set image.reader.params.channels" in found[1].detail


def test_a_pattern_that_finds_nothing_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(b"PK\5\6" + b"\0" * 18)
    rows = table(fold=[0] * 30 + [TEST])
    seen = scan([tmp_path / f"train/{number}.png" for number in range(31)], image)
    faults = list(image_faults(rows, seen))
    found = one(faults, "image pattern")
    assert found.row == "training rows" and "none of their 30 images is there" in found.detail
    assert "unpack train.zip" in found.detail
    assert one(faults, "missing image").row == "i30"


def test_a_package_that_is_missing_is_one_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for number in range(30):
        (tmp_path / f"{number}.dcm").write_bytes(bytes([number + 1]))
    seen = scan([tmp_path / f"{number}.dcm" for number in range(30)], image)
    found = one(image_faults(table(fold=[0] * 30), seen), "missing package")
    assert found.row == "i0, i1, i2 and 27 more" and "'pydicom'" in found.detail and found.fatal


def test_labels_that_the_sample_leaves_out_are_a_note() -> None:
    """Eleven labels of which nine are asked for; other forms of a sample are none of this."""
    labels = ("CVC - Normal", "ETT - Abnormal", "Swan Ganz Catheter Present")
    paths = {"train_images": "train/{uid}.jpg", "test_images": "test/{uid}.jpg"}
    settings = Settings(
        competition="x", task="multilabel", metric="roc_auc", id_column="uid", target_columns=labels, **paths
    )
    [note] = requested_columns(settings, ["uid", labels[2], labels[0]])
    assert not note.fatal and "does not ask for 1 of the 3 target columns (ETT - Abnormal)" in note.detail
    assert "metric.py" in note.detail
    [note] = requested_columns(settings, ["uid", labels[2], "CVC - Normale"])
    assert not note.fatal and "'CVC - Normale' is no target column; did you mean 'CVC - Normal'?" in note.detail
    assert list(requested_columns(settings, ["uid", *reversed(labels)])) == []
    assert list(requested_columns(settings, ["uid", "labels"])) == []


EXTERNAL = """

def with_external(rows: pd.DataFrame, data: Path) -> pd.DataFrame:
    web = read_table(data / "web.csv")
    rows = pd.concat([rows, web.assign(source="web", weight=0.5)], ignore_index=True)
    return rows.assign(weight=rows["weight"].fillna(1.0), source=rows["source"].fillna("competition"))
"""


def competition(project: Path, labels: list[str], **columns: list[str]) -> Path:
    """Noise as images `tr0`, ... to train on, and four to predict; the data folder."""
    data = project / "data/raw"
    generator = np.random.default_rng(0)
    for folder, count in (("train_images", len(labels)), ("test_images", 4), ("web", 3)):
        (data / folder).mkdir(parents=True)
        for number in range(count):
            noise = generator.integers(0, 256, (30, 30), dtype=np.uint8)
            assert cv2.imwrite(str(data / folder / f"{folder[:2]}{number}.png"), noise)
    ids = [f"tr{number}" for number in range(len(labels))]
    pd.DataFrame({"image_id": ids, "label": labels, **columns}).to_csv(data / "train.csv", index=False)
    sample = pd.DataFrame({"image_id": [f"te{n}" for n in range(4)], "label": "cat"})
    sample.to_csv(data / "sample_submission.csv", index=False)
    return data


def test_groups_that_tables_forgets_are_refused(renders: Renders, tmp_path: Path) -> None:
    """Folds without them would leak."""
    project = renders.copy(tmp_path / "project", {"group_column": "site"})
    competition(project, ["cat", "dog"] * 4)
    tables = project / "src/competition/tables.py"
    tables.write_text(tables.read_text().replace(", *groups]", "]"))
    for script in ("check_data.py", "make_folds.py"):
        said = expect(run_script(project, script), 2).last_line
        assert "no column 'group'" in said and "'site' as group_column" in said and "tables.py" in said


def test_external_rows_that_leak_are_reported(renders: Renders, tmp_path: Path) -> None:
    """A copy of a held-out image, and a row of a group that is held out."""
    project = renders.copy(tmp_path / "project", {"group_column": "site"})
    data = competition(project, ["cat", "dog", "dog"] * 8, site=[f"site{number % 8}" for number in range(24)])
    (data / "web/we0.png").write_bytes((data / "train_images/tr5.png").read_bytes())
    web = pd.DataFrame({"id": ["we0", "we1", "we2"], "label": "cat", "group": ["w", "site3", "w"]})
    web.assign(image="web/" + web["id"] + ".png").to_csv(data / "web.csv", index=False)
    tables = project / "src/competition/tables.py"
    rows = "image_rows(table, settings, settings.train_images, data)"
    assert rows in tables.read_text()
    tables.write_text(tables.read_text().replace(rows, f"with_external({rows}, data)") + EXTERNAL)
    made = expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    assert "3 rows of other sources only train" in made.stdout
    assert len(pd.read_csv(project / "folds/folds.csv")) == 24, "rows of other sources are in no fold"
    leaks = pd.read_csv(project / "folds/folds.leaks.csv", dtype=str)
    pairs = {(row.kind, frozenset((row.id_a, row.id_b))) for row in leaks.itertuples()}
    assert ("identical", frozenset(("tr5", "we0"))) in pairs
    group = {pair for kind, pair in pairs if kind == "group"}
    assert group and all("we1" in pair and pair & {"tr3", "tr11", "tr19"} for pair in group)
    assert not any("we2" in pair for _, pair in pairs)
    checked = run_script(project, "check_data.py")
    assert "leaks, identical: 1" in checked.stdout and "web (trains only)" in checked.stdout
