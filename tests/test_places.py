"""Where images are: patterns, folders that are labels, and archives that are read as folders."""

import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.folders import rows_from_folders
from pipeline.data.image_cache import stamp_of
from pipeline.data.tables import image_paths, read_table
from projects import Renders, run_script
from toolkit.errors import UserError
from toolkit.images.readers import array, image
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


@pytest.fixture(params=["folder", "zip", "zip with a top folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A data folder, and how the folder `train` in it is called, which may be an archive."""
    names = ["p1/a.jpg", "p1/b.JPG", "p2/c.png", "p2/d.v2.webp", "p2/e.tif", "p2/f.png.txt", "g.npy"]
    if request.param == "folder":
        fill(tmp_path / "train", *names)
        return tmp_path, "train"
    top = "train/" if "top" in request.param else ""
    extra = [f"{top}p1/", f"__MACOSX/{top}p1/._a.jpg"]
    pack(tmp_path / "train.zip", [*extra, *(top + name for name in names)])
    return tmp_path, "train.zip"


def test_files_of_any_ending_are_found_by_stem(place: tuple[Path, str]) -> None:
    data, train = place
    table = pd.DataFrame(
        {"who": ["p1", "p1", "p2", "p2", "p2", "p2"], "id": ["a", "b", "c", "d.v2", "e.tif", "nowhere"]}, dtype="str"
    )
    paths = image_paths(table, train + "/{who}/{id}", data)
    assert paths.tolist() == [
        f"{train}/{name}" for name in ("p1/a.jpg", "p1/b.JPG", "p2/c.png", "p2/d.v2.webp", "p2/e.tif", "p2/nowhere")
    ]


def test_the_top_folder_of_an_archive_may_be_named(tmp_path: Path) -> None:
    pack(tmp_path / "train.zip", {"train/p/a.png": png()})
    table = pd.DataFrame({"id": ["a"]}, dtype="str")
    for folder in ("train.zip/p", "train.zip/train/p"):
        path = image_paths(table, folder + "/{id}", tmp_path)[0]
        assert path == f"{folder}/a.png"
        assert np.array_equal(image(tmp_path / path, None), PIXELS)
    for pattern in ("train.zip/{who}/*", "train.zip/train/{who}/*"):
        assert rows_from_folders(tmp_path, pattern)["who"].tolist() == ["p"]


def test_the_first_pattern_with_a_file_wins(tmp_path: Path) -> None:
    fill(tmp_path, "one/a.png", "two/a.png", "two/b.jpg")
    pack(tmp_path / "three.zip", ["b.png", "c.png"])
    table = pd.DataFrame({"id": ["a", "b", "c", "d"]}, dtype="str")
    patterns = ["one/{id}.png", "two/{id}", "three.zip/{id}.png"]
    assert image_paths(table, patterns, tmp_path).tolist() == ["one/a.png", "two/b.jpg", "three.zip/c.png", "one/d.png"]
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


def test_images_are_read_in_place(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    packed = pack(
        tmp_path / "test.zip", {"a.png": png(), "deep/a.npy": (tmp_path / "a.npy").read_bytes(), "empty.png": b""}
    )
    assert np.array_equal(image(packed / "a.png", (2, 2)), PIXELS)
    assert np.array_equal(array(packed / "deep" / "a.npy", None), PIXELS)
    assert "empty file" in refusal(image, packed / "empty.png", None)
    assert "there is no image" in refusal(image, packed / "b.png", None)
    # An id of a table that is named like an archive, and a folder that is.
    fill(tmp_path / "odd.zip", "x.txt")
    assert "there is no image" in refusal(image, tmp_path / "odd.zip" / "a.png", None)
    # An archive where the pattern names a folder.
    assert "unpack test.zip" in refusal(image, tmp_path / "test" / "a.png", None)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    packed = pack(tmp_path / "train.zip", {"a.png": png(), "b.png": png(PIXELS[::-1])})
    whole = packed.read_bytes()
    position = whole.index(b"b.png") + 60
    for content in (whole[: len(whole) // 2], b"<html>", whole[:position] + b"\0\0\0\0" + whole[position + 4 :]):
        packed.write_bytes(content)
        said = refusal(image, packed / "b.png", None)
        assert "cannot read the archive" in said and "train.zip" in said


def test_stamps_tell_changed_members(tmp_path: Path) -> None:
    packed = pack(tmp_path / "train.zip", {"a.png": png(), "b.png": png()})
    before = [stamp_of(packed / name) for name in ("a.png", "b.png", "c.png")]
    os.utime(packed, ns=(1, 1))
    assert [stamp_of(packed / name) for name in ("a.png", "b.png", "c.png")] == before
    pack(packed, {"a.png": png(PIXELS[::-1]), "b.png": png()})
    after = [stamp_of(packed / name) for name in ("a.png", "b.png", "c.png")]
    assert [first == second for first, second in zip(before, after, strict=True)] == [False, True, True]
    assert before[2] == (-1, -1)


def test_processes_that_fork_do_not_share_a_handle(tmp_path: Path) -> None:
    """Parent and children read in turns; a shared position in the file would mix their bytes up."""
    images = {f"{number}.png": np.full((90, 90, 3), number, np.uint8) for number in range(40)}
    noise = np.random.default_rng(1).integers(0, 99, (90, 90, 3), dtype=np.uint8)
    packed = pack(tmp_path / "train.zip", {name: png(pixels + noise) for name, pixels in images.items()})
    assert image(packed / "0.png", None).size  # the parent's handle is open

    def wrong() -> int:
        return sum(
            not np.array_equal(image(packed / name, None), pixels + noise)
            for _ in range(5)
            for name, pixels in images.items()
        )

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                os._exit(min(wrong(), 100))
            finally:
                os._exit(101)
        children.append(child)
    assert wrong() == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


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
def test_the_path_from_folders_and_from_archives(digits: Path) -> None:
    """Rows from folders train; from archives, read in place through cache and workers, they give the same."""
    data = digits / "data/raw"
    expect(run_script(digits, "make_folds.py", "--n-folds", "2"))
    expect(run_script(digits, "train.py", "small", "--fold", "0"))
    plain = pd.read_parquet(digits / "runs/small/fold_0/oof.parquet")
    assert len(plain) > 600
    for name in ("train", "test_images"):
        shutil.make_archive(str(data / name), "zip", root_dir=data, base_dir=name)
        shutil.rmtree(data / name)
    for path, before, after in (
        ("src/competition/tables.py", '"train/', '"train.zip/'),
        ("competition.yaml", '"test_images/', '"test_images.zip/'),
    ):
        text = (digits / path).read_text()
        assert before in text
        (digits / path).write_text(text.replace(before, after))
    assert "can be trained on" in expect(run_script(digits, "check_data.py")).stdout
    (digits / "experiments/packed.yaml").write_text((digits / "experiments/small.yaml").read_text())
    first = expect(run_script(digits, "train.py", "packed", "--fold", "0", "machine.workers=2"))
    assert "filling" not in first.stdout and "cache: " in first.stdout
    pd.testing.assert_frame_equal(plain, pd.read_parquet(digits / "runs/packed/fold_0/oof.parquet"), check_exact=True)
    expect(run_script(digits, "predict.py", "packed", "--fold", "0"))
    expect(run_script(digits, "submit.py", "packed"))
