"""Tables, readers, and what the data check finds."""

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data.check_tables import csv_faults
from pipeline.data.tables import image_paths, image_rows, read_table, sample_ids
from pipeline.settings import Settings
from projects import Renders, Result, run_script
from toolkit.errors import UserError
from toolkit.images.header import describe
from toolkit.images.readers import array, image


def settings(**changed: object) -> Settings:
    values = {
        "competition": "birds",
        "task": "classification",
        "metric": "accuracy",
        "target_columns": ("label",),
        "train_images": "train/{image_id}.png",
        "test_images": "test/{image_id}.png",
    }
    return Settings.model_validate({**values, **changed})


def refusal(function: object, *arguments: object, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **more)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something smooth and colourful, RGB uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path: Path, pixels: np.ndarray, *options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    return path


def test_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("image_id,label,note\n00012,NA,\n1.0,None,nan\na.b.c,null,N/A\n1e5,1,-\n", encoding="utf-8-sig")
    table = read_table(path, ["image_id"])
    assert table["image_id"].tolist() == ["00012", "1.0", "a.b.c", "1e5"]
    assert table["label"].tolist() == ["NA", "None", "null", "1"]
    assert table["note"].isna().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no train.csv"),
        (b"", "not a csv file"),
        (b"imageid,label\na,b\n", "did you mean 'imageid'"),
        (b"image_id,lable\na,b\n", "did you mean 'lable'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x81", "not a csv file"),
        (b'image_id,label\n"a,b\nc', "not a csv file"),
        (b"image_id,label\na,b\nc,d,e\n", "not a csv file"),
        (b"image_id,label\na,b,c\n", "more cells"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    assert said in refusal(read_table, path, ["image_id", "label"])


HEAD = "image_id,label,note\n"
LINES = [f"i{row:03},{'ab'[row % 2]},fine" for row in range(30)]


@pytest.mark.parametrize(
    ("changes", "fatal", "said"),
    [
        ({10: 'i010,"a,fine', 20: 'i020,a",fine'}, True, "column 'label' of line 12 goes on to line 22"),
        ({10: '"i010,a,fine', 20: 'i020",a,fine'}, True, "column 'image_id' of line 12 goes on to line 22"),
        ({10: 'i010,a,"fine', 20: 'i020,a,fine"'}, True, "a cell of line 12 goes on to line 22"),
        ({10: '"i010,a,fine'}, True, "column 'image_id' of line 12 goes on to line 31"),
        (
            {10: 'i010,a,"Dear all,\nwell, well, well\nbye"'},
            False,
            "1 of 30 rows hold line breaks in a cell (lines 12 to 14)",
        ),
        ({10: "i010", 3: "i003,b"}, False, "2 of 30 rows have fewer cells than the 3 columns (line 5: 2, 12: 1)"),
        ({10: 'i010,a",fine'}, False, "line 12, 'label': 'a\"'"),
        ({10: "i0\x0010,a,fine"}, True, "line 12 holds a NUL byte"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_by_line(
    tmp_path: Path, changes: dict[int, str], fatal: bool, said: str
) -> None:
    path, lines = tmp_path / "train.csv", [changes.get(row, line) for row, line in enumerate(LINES)]
    path.write_text(HEAD + "\n".join(lines) + "\n")
    [fault] = csv_faults(path, ["image_id", "label"])
    assert (fault.fatal, said in fault.detail) == (fatal, True), fault


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_sound_csv_has_no_faults(tmp_path: Path, end: str) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes((HEAD + end.join([*LINES, 'i030,"a, b","5 ""inches"" wide"'])).encode("utf-8-sig"))
    assert list(csv_faults(path, ["image_id", "label"])) == []
    assert list(csv_faults(tmp_path / "none.csv", [])) == []


def test_other_separators_and_encodings(tmp_path: Path) -> None:
    path, text = tmp_path / "train.csv", HEAD + "\n".join(LINES)
    for mark in ";\t":
        path.write_text(text.replace(",", mark))
        assert read_table(path, ["label"]).shape == (30, 3)
        [note] = csv_faults(path, ["image_id"])
        assert not note.fatal and f"divided by {mark!r}" in note.detail
    path.write_bytes(text.encode("utf-16"))
    assert "save it as CSV UTF-8" in refusal(read_table, path)
    path.write_text(HEAD + 'i1,"a,fine\n')
    assert "close a quotation mark" in refusal(read_table, path)


def test_a_zip_beside_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv.zip").write_bytes(b"PK")
    assert "unpack train.csv.zip" in refusal(read_table, tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("pattern", "cells", "expected"),
    [
        ("train/{image_id}.png", ["00012", "a.png", "a.b.c", "B.PNG"], ["00012.png", "a.png", "a.b.c.png", "B.PNG"]),
        ("train/{image_id}", ["a", "a.b.c", "x.jpeg", "nowhere"], ["a.JPG", "a.b.c.tif", "x.jpeg", "nowhere"]),
        (
            "{where}/{image_id}_green.png",
            ["a", "b", "c", "d"],
            ["a_green.png", "b_green.png", "c_green.png", "d_green.png"],
        ),
        ("train/{image_id}.{kind}", ["a", "b", "c", "d"], ["a.gif", "b.gif", "c.gif", "d.gif"]),
    ],
)
def test_image_paths(tmp_path: Path, pattern: str, cells: list[str], expected: list[str]) -> None:
    for name in ("a.JPG", "a.txt", "a.b.c.tif", "x.jpeg", "x.b.png"):
        save(tmp_path / "train" / "x.png", photo(4, 4)).rename(tmp_path / "train" / name)
    table = pd.DataFrame({"image_id": cells, "where": "train", "kind": "gif"}, dtype="str")
    assert image_paths(table, pattern, tmp_path).tolist() == [f"train/{name}" for name in expected]


def test_image_paths_that_cannot_be(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["a", None]}, dtype="str")
    assert "did you mean 'image_id'" in refusal(image_paths, table, "{image}.png", tmp_path)
    assert "line 3" in refusal(image_paths, table, "{image_id}.png", tmp_path)
    for suffix in (".png", ".jpg"):
        save(tmp_path / f"a{suffix}", photo(4, 4))
    assert "a.jpg, a.png" in refusal(image_paths, table[:1], "{image_id}", tmp_path)


def test_rows(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_id": ["7"],
            "label": ["x"],
            "site": ["s"],
            "weight": ["80"],
            "source": ["web"],
            "id": ["1"],
            "age": ["3"],
        }
    )
    rows = image_rows(table, settings(group_column="site"), "train/{image_id}.png", tmp_path)
    assert rows.to_dict("records") == [
        {"id": "7", "image": "train/7.png", "group": "s", "image_id": "7", "label": "x", "site": "s", "age": "3"}
    ]
    assert "is empty in 1 rows (line 2)" in refusal(
        image_rows, table.assign(image_id=None), settings(), "train/{image_id}.png", tmp_path
    )
    clash = settings(target_columns=("weight",))
    assert "'weight'" in refusal(image_rows, table, clash, "train/{image_id}.png", tmp_path)
    (tmp_path / "sample.csv").write_text("name,label\n007,0\n")
    assert sample_ids(tmp_path / "sample.csv", "image_id").to_dict("list") == {"image_id": ["007"]}


def test_readers_give_rgb_bytes(tmp_path: Path) -> None:
    pixels = photo(40, 60)
    for suffix in (".png", ".bmp", ".tif"):
        read = image(save(tmp_path / f"a{suffix}", pixels), None)
        assert read.dtype == np.uint8
        assert np.array_equal(read, pixels), suffix
    grey = save(tmp_path / "grey.png", pixels[:, :, 0])
    assert np.array_equal(image(grey, (8, 8)), np.repeat(pixels[:, :, :1], 3, axis=2))
    assert image(grey, (8, 8), channels=1).shape == (40, 60, 1)
    assert image(tmp_path / "a.png", None, channels=1).shape == (40, 60, 1)
    alpha = np.dstack([pixels, np.full((40, 60), 9, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha[:, :, [2, 1, 0, 3]])
    assert np.array_equal(image(tmp_path / "alpha.png", None), pixels)
    assert np.array_equal(image(tmp_path / "alpha.png", None, channels=4), alpha)
    assert image(tmp_path / "a.png", None, channels=4)[..., 3].min() == 255
    assert "3 channels, and 5 are wanted" in refusal(image, tmp_path / "a.png", None, channels=5)
    floats = image(tmp_path / "a.png", None, as_float=True)
    assert floats.dtype == np.float32 and np.allclose(floats, pixels / 255)


@pytest.mark.parametrize("target", [(64, 64), (100, 100), (32, 200), (200, 32), (300, 300), (999, 10)])
@pytest.mark.parametrize("source", [(400, 600), (257, 1025), (801, 803), (64, 64)])
def test_reduced_decoding_never_falls_below_the_target(
    tmp_path: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    path = save(tmp_path / "a.jpg", photo(*source))
    read = image(path, target)
    for got, wanted, whole in zip(read.shape, target, source, strict=False):
        assert got >= min(wanted, whole)
    reducible = min(source[0] // target[0], source[1] // target[1])
    assert (read.shape[:2] != source) == (reducible >= 2)
    assert read.shape[0] / target[0] < 4 or read.shape[1] / target[1] < 4 or reducible >= 16
    twice = image(path, target, oversize=2.0)
    assert all(got >= min(2 * wanted, whole) for got, wanted, whole in zip(twice.shape, target, source, strict=False))
    full = cv2.resize(photo(*source), read.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(read.astype(int) - full).mean() < 6  # the same picture, colours in the same order
    assert image(path, target, channels=1).shape == (*read.shape[:2], 1)


def test_a_turned_jpeg_is_not_reduced_too_far(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: height and width swap
    Image.fromarray(photo(200, 800)).save(tmp_path / "a.jpg", exif=exif)
    assert image(tmp_path / "a.jpg", None).shape == (800, 200, 3)
    read = image(tmp_path / "a.jpg", (50, 200))
    assert read.shape[0] >= 50 and read.shape[1] >= 200


def test_deeper_pixels_become_floats(tmp_path: Path) -> None:
    deep = photo(20, 30).astype(np.uint16) * 257
    for suffix in (".png", ".tif"):
        for pixels in (deep, deep[:, :, 0]):
            read = image(save(tmp_path / f"deep{suffix}", pixels), (8, 8))
            assert read.dtype == np.float32 and read.shape == (20, 30, 3)
            assert np.allclose(read, (pixels if pixels.ndim == 3 else pixels[:, :, None]) / 65535, atol=1e-6)
    twelve = save(tmp_path / "twelve.png", deep[:, :, 0] // 16)
    assert np.allclose(image(twelve, None, high=4095)[..., 0], deep[:, :, 0] // 16 / 4095)
    for channels in (1, 3):
        floats = save(tmp_path / "floats.tif", (photo(20, 30) / 255).astype(np.float32))
        read = image(floats, None, channels=channels)
        assert read.dtype == np.float32 and read.shape == (20, 30, channels) and 0 <= read.min() < read.max() <= 1
    assert "set image.reader.params low and high" in refusal(
        image, save(tmp_path / "ct.tif", photo(9, 9)[:, :, 0].astype(np.float32) * 9 - 1000), None
    )
    assert image(tmp_path / "ct.tif", None, low=-1000, high=1295).max() <= 1
    assert "must be more than" in refusal(image, tmp_path / "ct.tif", None, low=5, high=5)


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for pixels, expected in (
        (photo(5, 6), (5, 6, 3)),
        (photo(5, 6)[:, :, 0], (5, 6, 1)),
        (np.zeros((5, 6, 7), bool), (5, 6, 7)),
        (np.full((5, 6), 2**16 - 1, np.uint16), (5, 6, 1)),
    ):
        np.save(path, pixels)
        read = array(path, (2, 2))
        assert read.shape == expected
        assert read.dtype == (np.uint8 if pixels.dtype == np.uint8 else np.float32)
    assert read.max() == 1
    assert image(path, None).shape == (5, 6, 3)
    np.save(path, np.zeros((2, 5, 6), np.float32))
    assert array(path, None, channels_first=True).shape == (5, 6, 2)
    np.save(path, np.arange(4, dtype=np.int16).reshape(2, 2))
    assert "low and high" in refusal(array, path, None)
    np.save(path, np.full((2, 2), np.nan, np.float32))
    assert "low and high" in refusal(array, path, None)
    path.write_bytes(b"junk")
    assert "a.npy" in refusal(array, path, None)
    assert "there is no image" in refusal(array, tmp_path / "b.npy", None)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_truncated_and_broken_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", photo(200, 300))
    whole = path.read_bytes()
    assert image(path, (32, 32)).size
    for keep in (0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * keep)])
        said = refusal(image, path, (32, 32))
        assert path.name in said
        if suffix != ".tif":
            assert "truncated" in said
    path.write_bytes(b"<html>log in first</html>")
    assert "cannot read" in refusal(image, path, None)
    path.write_bytes(b"")
    assert "empty" in refusal(image, path, None)
    path.unlink()
    assert "there is no image" in refusal(image, path, None)


def test_a_jpeg_may_end_with_anything_and_hold_a_thumbnail(tmp_path: Path) -> None:
    from PIL import Image

    path = save(tmp_path / "a.jpg", photo(200, 300))
    path.write_bytes(path.read_bytes() + b"\0" * 64 + b"trailer")
    assert image(path, None).shape == (200, 300, 3)
    thumbnail = io.BytesIO()
    Image.fromarray(photo(20, 30)).save(thumbnail, "jpeg")
    exif = b"Exif\0\0" + thumbnail.getvalue()
    Image.fromarray(photo(200, 300)).save(path, exif=exif)
    whole = path.read_bytes()
    assert image(path, None).shape == (200, 300, 3)
    path.write_bytes(whole[:-600])  # the thumbnail's end marker is still there
    assert "truncated" in refusal(image, path, None)
    assert image(path, None, allow_truncated=True).shape == (200, 300, 3)


def test_headers_are_described() -> None:
    grey, colour = photo(8, 8)[:, :, 0], photo(8, 8)
    kinds = {
        "8-bit grey": (".jpg", grey),
        "8-bit colour": (".jpg", colour),
        "16-bit grey": (".png", grey.astype(np.uint16)),
        "8-bit colour with alpha": (".png", np.dstack([colour, grey])),
        "": (".bmp", colour),
    }
    for expected, (suffix, pixels) in kinds.items():
        assert describe(cv2.imencode(suffix, pixels)[1].tobytes()) == expected


@pytest.fixture
def house(renders: Renders, tmp_path: Path) -> Path:
    """A project with twelve photos to train on and four to predict."""
    root = renders.copy(tmp_path / "project")
    data = root / "data/raw"
    ids = [f"{number:03d}" for number in range(16)]
    for number, name in enumerate(ids):
        save(data / ("train_images" if number < 12 else "test_images") / f"{name}.png", photo(60, 80, number))
    labels = ["cat", "dog", "owl"] * 4
    pd.DataFrame({"image_id": ids[:12], "label": labels}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"image_id": ids[12:]}).to_csv(data / "test.csv", index=False)
    pd.DataFrame({"image_id": ids[12:], "label": "cat"}).to_csv(data / "sample_submission.csv", index=False)
    return root


def check(house: Path, *arguments: str) -> Result:
    result = run_script(house, "check_data.py", *arguments)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def test_good_data_pass(house: Path) -> None:
    result = check(house)
    assert (result.status, result.stderr) == (0, "")
    assert "12 training rows and 4 test rows" in result.stdout and "can be trained on" in result.stdout
    (house / "data/raw/test.csv").unlink()  # the sample submission names the ids then
    assert check(house).status == 0
    assert run_script(house, "make_folds.py", "--n-folds", "3").status == 0
    assert check(house, "--experiment", "demo").status == 0


def test_all_faults_are_found_at_once(house: Path) -> None:
    data = house / "data/raw"
    table = pd.read_csv(data / "train.csv", dtype=str)
    table.loc[0, "label"] = None
    table.loc[11, "image_id"] = "010"
    table.to_csv(data / "train.csv", index=False)
    (data / "train_images/001.png").unlink()
    (data / "train_images/002.png").unlink()
    broken = data / "train_images/003.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    (data / "train_images/004.png").write_bytes(b"no image")
    (data / "train_images/005.png").write_bytes((data / "train_images/006.png").read_bytes())
    (data / "test_images/012.png").write_bytes((data / "train_images/007.png").read_bytes())
    save(data / "train_images/008.png", photo(60, 80, 8)[:, :, 0].astype(np.uint16) * 257)
    with (data / "sample_submission.csv").open("a") as file:
        file.write("extra,cat\n")
    result = check(house)
    assert result.status == 2
    for said in (
        "duplicate id: 1",
        "missing label: 1",
        "missing image: 2",
        "truncated image: 1",
        "unreadable image: 1",
        "sample submission: 1",
        "mixed value types",
        "note, kinds of images",
        "note, copies with different labels: 1",
        "005, 006",
        "leaks, identical: 1",
        "train and test",
    ):
        assert said in result.stdout, said
    assert result.stderr.count("\n") == 1
    assert "faults in the data" in result.last_line and "2 x missing image" in result.last_line


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("train.csv", "image_id,label\n", "no training rows"),
        ("train.csv", "id,label\na,b\n", "no column 'image_id'"),
        ("train.csv", "image_id,class\na,b\n", "no column 'label'"),
        ("train.csv", None, "there is no train.csv"),
        (
            "train.csv",
            "image_id,label\n" + "".join(f"{number:03d},cat\n" for number in range(12)),
            "all rows have the label",
        ),
        ("test.csv", "image\n012\n", "no column 'image_id'"),
        ("sample_submission.csv", None, "there is no sample_submission.csv"),
        ("sample_submission.csv", "image_id\n012\n", "one column only"),
    ],
)
def test_tables_that_do_not_fit(house: Path, file: str, content: str | None, said: str) -> None:
    path = house / "data/raw" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    result = check(house)
    assert result.status == 2
    assert said in " ".join(result.stdout.replace("│", " ").split())


def test_only_the_first_twenty_of_a_kind_are_shown(house: Path) -> None:
    rows = "".join(f"new{number:03d},cat\nold{number:03d},dog\n" for number in range(30))
    with (house / "data/raw/train.csv").open("a") as file:
        file.write(rows)
    result = check(house)
    assert "missing image: 60 (the first 20)" in result.stdout
    assert result.stdout.count("there is no image") == 20


def test_faults_of_one_sort_are_one_row(house: Path) -> None:
    path = house / "data/raw/train.csv"
    pd.read_csv(path, dtype=str).assign(label=["cat", None, "dog", None] * 3).to_csv(path, index=False)
    result = check(house)
    assert result.status == 2 and "6 x missing label" in result.last_line
    [line] = [line for line in result.stdout.splitlines() if "'label' is empty" in line]
    assert " ".join(line.replace("│", " ").split()) == "6 001, 003, 005 and 3 more 'label' is empty"


def test_an_unclosed_quote_and_classes_in_two_spellings_are_told(house: Path) -> None:
    path = house / "data/raw/train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3].replace(",", ',"'), *lines[4:6], lines[6] + '"', *lines[7:]]))
    result = check(house)
    assert result.status == 2 and "swallowed rows" in result.last_line
    assert "column 'label' of line 4 goes on to line 7" in " ".join(result.stdout.replace("│", " ").split())
    labels = [f"{row % 2}" if row < 6 else f"{row % 2}.0" for row in range(12)]
    pd.DataFrame({"image_id": [f"{row:03d}" for row in range(12)], "label": labels}).to_csv(path, index=False)
    result = check(house)
    assert result.status == 2 and "2 x labels" in result.last_line
    made = run_script(house, "make_folds.py", "--n-folds", "3", "--no-leak-report")
    assert made.status == 0 and "are one in several spellings ('0' and '0.0', '1' and '1.0')" in made.stdout
    assert "0: 1, 0.0: 1, 1: 1, 1.0: 1" in made.stdout


def test_missing_data(renders: Renders, tmp_path: Path) -> None:
    root = renders.copy(tmp_path / "project")
    for script in ("check_data.py", "make_folds.py"):
        result = run_script(root, script)
        assert result.status == 2
        assert "make_demo_data.py" in result.last_line
    with contextlib.suppress(FileNotFoundError):
        assert not any((root / "data").iterdir())
