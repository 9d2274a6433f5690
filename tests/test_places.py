"""Where images are: patterns, folders that are labels, and archives that are yet to be unpacked."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.folders import rows_from_folders
from pipeline.data.tables import image_paths, read_table
from projects import Renders, run_script
from toolkit.errors import UserError
from toolkit.images.readers import image
from training import SMALL, expect

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)


def png(pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()


def fill(folder: Path, *names: str) -> None:
    """Files below a folder, each with its own name as content."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def pack(path: Path, members: dict[str, bytes] | list[str]) -> Path:
    """A zip archive; names alone hold themselves."""
    contents = members if isinstance(members, dict) else {name: name.encode() for name in members}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def refusal(function: object, *arguments: object, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **more)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, str]:
    """A data folder, and how the folder `train` in it is called."""
    names = ["p1/a.jpg", "p1/b.JPG", "p2/c.png", "p2/d.v2.webp", "p2/e.tif", "p2/f.png.txt", "g.npy"]
    fill(tmp_path / "train", *names, ".hidden.png", "__MACOSX/p1/a.jpg")
    return tmp_path, "train"


def test_files_of_any_ending_are_found_by_stem(place: tuple[Path, str]) -> None:
    data, train = place
    table = pd.DataFrame(
        {"who": ["p1", "p1", "p2", "p2", "p2", "p2"], "id": ["a", "b", "c", "d.v2", "e.tif", "nowhere"]}, dtype="str"
    )
    paths = image_paths(table, train + "/{who}/{id}", data)
    assert paths.tolist() == [
        f"{train}/{name}" for name in ("p1/a.jpg", "p1/b.JPG", "p2/c.png", "p2/d.v2.webp", "p2/e.tif", "p2/nowhere")
    ]


def test_the_first_pattern_with_a_file_wins(tmp_path: Path) -> None:
    fill(tmp_path, "one/a.png", "two/a.png", "two/b.jpg")
    fill(tmp_path, "three/b.png", "three/c.png")
    table = pd.DataFrame({"id": ["a", "b", "c", "d"]}, dtype="str")
    patterns = ["one/{id}.png", "two/{id}", "three/{id}.png"]
    assert image_paths(table, patterns, tmp_path).tolist() == ["one/a.png", "two/b.jpg", "three/c.png", "one/d.png"]
    assert "did you mean 'id'" in refusal(image_paths, table, ["one/{id}.png", "two/{idd}"], tmp_path)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{who}/*.jpg", [("a", "p1/a.jpg", "p1")]),
        ("p2/{kind}*", [("c", "p2/c.png", "c"), ("d.v2", "p2/d.v2.webp", "d.v2"), ("e", "p2/e.tif", "e")]),
        ("{who}/{id}.png", [("c", "p2/c.png", "p2")]),
        ("**/{letter}.{ending}", None),
    ],
)
def test_folders_are_labels(place: tuple[Path, str], pattern: str, expected: list[tuple[str, ...]] | None) -> None:
    data, train = place
    if expected is None:
        rows = rows_from_folders(data, f"{train}/{pattern}")
        letters = dict(zip(rows["letter"], rows["ending"], strict=True))
        assert letters == {"a": "jpg", "b": "JPG", "c": "png", "d.v2": "webp", "e": "tif", "f.png": "txt", "g": "npy"}
        return
    rows = rows_from_folders(data, f"{train}/{pattern}")
    field = rows.columns.difference(["id", "image"])[0]
    found = list(zip(rows["id"], rows["image"], rows[field], strict=True))
    assert found == [(name, f"{train}/{path}", value) for name, path, value in expected]


def test_the_same_name_stands_for_the_same_text(tmp_path: Path) -> None:
    fill(tmp_path, "cat/cat_1.png", "cat/dog_2.png", "dog/dog_3.png")
    rows = rows_from_folders(tmp_path, "{label}/{label}_{id}.png")
    assert rows.to_dict("list") == {
        "id": ["1", "3"],
        "image": ["cat/cat_1.png", "dog/dog_3.png"],
        "label": ["cat", "dog"],
    }


def test_ids_that_are_no_names(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/2.png")
    said = refusal(rows_from_folders, tmp_path, "train/{label}/*.png")
    assert "1 ids name several images" in said and "train/cat/1.png, train/dog/1.png" in said
    rows = rows_from_folders(tmp_path, "train/{label}/*.png", ids="path")
    assert rows["id"].tolist() == ["cat/1.png", "dog/1.png", "dog/2.png"]
    for pattern, part in (("train/{label}/*.jpg", "no image fits"), ("nowhere/{label}/*", "no image fits")):
        assert part in refusal(rows_from_folders, tmp_path, pattern)
    assert "'fold'" in refusal(rows_from_folders, tmp_path, "train/{fold}/*.png")


def test_an_image_that_is_still_packed(tmp_path: Path) -> None:
    """An archive is not read in place, and both ways to name it say how to unpack it."""
    pack(tmp_path / "test.zip", {"a.png": png()})
    assert "unpack test.zip: scripts/check_data.py --unpack" in refusal(image, tmp_path / "test" / "a.png", None)
    said = refusal(image, tmp_path / "test.zip" / "a.png", None)
    assert "there is no image" in said and "write test/ in the image pattern" in said
    # An id of a table that is named like an archive, and a folder that is.
    fill(tmp_path / "odd.zip", "x.txt")
    assert "there is no image" in refusal(image, tmp_path / "odd.zip" / "a.png", None)
    (tmp_path / "empty.png").touch()
    assert "empty file" in refusal(image, tmp_path / "empty.png", None)
    assert "is a folder" in refusal(image, tmp_path, None)


def test_a_table_in_an_archive_says_how_to_unpack(tmp_path: Path) -> None:
    pack(tmp_path / "birds.zip", {"train.csv": b"image_id,label\n"})
    assert "unpack birds.zip: scripts/check_data.py --unpack" in refusal(read_table, tmp_path / "train.csv")


@pytest.fixture
def digits(renders: Renders, tmp_path: Path) -> Path:
    """The demo competition without a table of labels: its images lie in folders of their classes."""
    project = renders.copy(tmp_path / "project", {"trackers": []})
    expect(run_script(project, "make_demo_data.py"))
    data = project / "data/raw"
    for row in pd.read_csv(data / "train.csv", dtype=str).itertuples():
        folder = data / "train" / row.label
        folder.mkdir(parents=True, exist_ok=True)
        (data / "train_images" / f"{row.image_id}.png").rename(folder / f"{row.image_id}.png")
    (data / "train.csv").unlink()
    tables = project / "src/competition/tables.py"
    code = tables.read_text()
    start, end = code.index("    groups = ["), code.index("def test_rows")
    code = code[:start] + '    return rows_from_folders(data, "train/{label}/*.png")\n\n\n' + code[end:]
    tables.write_text("from pipeline.data.folders import rows_from_folders\n" + code)
    (project / "experiments/small.yaml").write_text(
        SMALL.replace("epochs: 2", "epochs: 1") + "image: {size: 24, cache: true}\n"
    )
    return project


@pytest.mark.slow
def test_the_path_from_folders(digits: Path) -> None:
    """Rows from folders train, predict and submit; an archive in the pattern is refused."""
    expect(run_script(digits, "make_folds.py", "--n-folds", "2"))
    expect(run_script(digits, "train.py", "small", "--fold", "0"))
    assert len(pd.read_parquet(digits / "runs/small/fold_0/oof.parquet")) > 600
    expect(run_script(digits, "predict.py", "small", "--fold", "0"))
    expect(run_script(digits, "submit.py", "small"))
