"""`check_data.py --unpack`: Kaggle's archives become folders, whole or not at all, and nothing is overwritten."""

import io
import shutil
import stat
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.data import unpacking
from pipeline.data.unpacking import unpack
from projects import Renders, files, run_script
from test_data import settings
from toolkit.errors import UserError
from training import expect

SETTINGS = settings()


def packed(*names: str) -> bytes:
    """An archive of files that hold their own names; a name with `=` says what it holds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            path, _, content = name.partition("=")
            archive.writestr(path, content or path)
    return buffer.getvalue()


def here(data: Path) -> dict[str, str]:
    """What lies in the data folder, without archives and the lock."""
    return {
        name: content.decode()
        for name, content in files(data).items()
        if not name.lower().endswith((".zip", ".unpack.lock"))
    }


def refusal(data: Path) -> str:
    with pytest.raises(UserError) as caught:
        unpack(data, SETTINGS)
    assert "\n" not in str(caught.value)
    assert not list(data.glob(f"{unpacking.DRAFT}*/")), "a draft is left"
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "members", "expected"),
    [
        ("train.zip", ["a.png", "deep/b.png"], {"train/a.png": "a.png", "train/deep/b.png": "deep/b.png"}),
        ("train.zip", ["train/", "train/a.png"], {"train/a.png": "train/a.png"}),
        ("images_1.zip", ["images/a.png", "images/b.png"], None),
        ("train.csv.zip", ["train.csv"], {"train.csv": "train.csv"}),
        ("notes.csv.ZIP", ["notes.csv", "__MACOSX/._notes.csv"], {"notes.csv": "notes.csv"}),
        ("birds.zip", ["train/a.png"], {"train/a.png": "train/a.png"}),
        ("birds.zip", ["train.csv", "train/a.png"], {"train.csv": "train.csv", "train/a.png": "train/a.png"}),
        ("archive.zip", ["top/train.csv", "top/x/a.png"], {"train.csv": "top/train.csv", "x/a.png": "top/x/a.png"}),
        ("empty.zip", [], "holds no file"),
        ("twice.zip", ["a.png", "a.png"], "twice"),
        ("evil.zip", ["../a.png", "b.png"], "'../a.png', which lies outside"),
        ("evil.zip", ["/tmp/evil.png"], "lies outside"),
        ("evil.zip", ["c:\\evil.png"], "lies outside"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_where_members_go(tmp_path: Path, name: str, members: list[str], expected: dict[str, str] | str | None) -> None:
    (tmp_path / name).write_bytes(packed(*members))
    if isinstance(expected, str):
        assert expected in refusal(tmp_path)
        assert here(tmp_path) == {}
        return
    unpack(tmp_path, SETTINGS)
    assert here(tmp_path) == (expected or {f"images_1/{member}": member for member in members})
    assert (tmp_path / name).is_file()


def test_archives_in_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = tmp_path / "inner"
    inner.write_bytes(packed("a.png"))
    with zipfile.ZipFile(tmp_path / "birds.zip", "w") as archive:
        archive.write(inner, "train.zip")
        archive.writestr("train.csv", "table")
    inner.unlink()
    unpack(tmp_path, SETTINGS)
    assert here(tmp_path) == {"train.csv": "table", "train/a.png": "a.png"}
    mode = (tmp_path / "train").stat().st_mode
    assert stat.S_IMODE(mode) & 0o055 == 0o055, "others may read it, as any other folder"
    said = capsys.readouterr().out
    assert "birds.zip: 2 files" in said and "train.zip: 1 files" in said
    before = (tmp_path / "train/a.png").stat().st_mtime_ns
    unpack(tmp_path, SETTINGS)  # again: nothing to do
    assert capsys.readouterr().out.count("is unpacked already") == 2
    assert (tmp_path / "train/a.png").stat().st_mtime_ns == before


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "birds.zip").write_bytes(packed("train.csv=new,table", "train/a.png", "train/b.png", "test/c.png"))
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.png").write_text("mine, longer")
    assert "train/a.png differs" in refusal(tmp_path)
    assert here(tmp_path) == {"train/a.png": "mine, longer"}
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train.csv").write_text("mine")
    assert "train.csv differs" in refusal(tmp_path)
    (tmp_path / "train.csv").unlink()
    unpack(tmp_path, SETTINGS)
    shutil.rmtree(tmp_path / "train")  # what is lost is brought back alone
    unpack(tmp_path, SETTINGS)
    assert sorted(here(tmp_path)) == ["test/c.png", "train.csv", "train/a.png", "train/b.png"]


def test_two_archives_with_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "birds.zip").write_bytes(packed("train.csv", "train/a.png"))
    (tmp_path / "train.zip").write_bytes(packed("train/a.png", "train/b.png"))
    assert "birds.zip and train.zip both hold train/a.png" in refusal(tmp_path)
    assert here(tmp_path) == {}


@pytest.mark.parametrize("damage", ["cut", "junk", "flipped"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, damage: str) -> None:
    whole = packed("a.png=" + "first" * 99, "b.png=" + "".join(map(str, range(999))))
    position = whole.index(b"b.png") + 400
    contents = {
        "cut": whole[: len(whole) // 2],
        "junk": b"<html>log in</html>",
        "flipped": whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :],
    }
    (tmp_path / "train.zip").write_bytes(contents[damage])
    said = refusal(tmp_path)
    assert "train.zip" in said and "download it again" in said
    assert here(tmp_path) == {}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f"{unpacking.DRAFT}killed" / "train"
    left.mkdir(parents=True)
    (left / "a.png").write_text("half")
    (tmp_path / "train.zip").write_bytes(packed("a.png", "b.png"))
    unpack(tmp_path, SETTINGS)
    assert here(tmp_path) == {"train/a.png": "a.png", "train/b.png": "b.png"}


def test_a_small_disk_and_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.zip").write_bytes(packed("a.png"))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3))
        assert "needs 5 bytes, and 3 bytes are free" in refusal(tmp_path)
    with unpacking.FileLock(tmp_path / ".unpack.lock"):
        assert "another process" in refusal(tmp_path)
    assert here(tmp_path) == {}
    (tmp_path / "train.zip").unlink()
    assert "no .zip archive" in refusal(tmp_path)


def test_the_script_unpacks_and_checks(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"competition": "birds"})
    data = project / "data/raw"
    data.mkdir(parents=True)
    result = expect(run_script(project, "check_data.py", "--unpack"), 2)
    assert "no .zip archive" in result.last_line
    ids = [f"{number:03d}" for number in range(16)]
    tables = {
        "train.csv": pd.DataFrame({"image_id": ids[:12], "label": ["cat", "dog"] * 6}),
        "sample_submission.csv": pd.DataFrame({"image_id": ids[12:], "label": "cat"}),
    }
    with zipfile.ZipFile(data / "birds.zip", "w") as archive:
        for name, table in tables.items():
            archive.writestr(name, table.to_csv(index=False))
        for number, name in enumerate(ids):
            noise = np.random.default_rng(number).integers(0, 256, (30, 30), dtype=np.uint8)
            folder = "train_images" if number < 12 else "test_images"
            archive.writestr(f"{folder}/{name}.png", cv2.imencode(".png", noise)[1].tobytes())
    said = expect(run_script(project, "check_data.py"), 2)
    assert "unpack birds.zip" in said.stdout.replace("\n", " ")
    done = expect(run_script(project, "check_data.py", "--unpack"))
    assert "birds.zip: 18 files in data/raw" in done.stdout and "can be trained on" in done.stdout
    whole = (data / "birds.zip").read_bytes()
    shutil.rmtree(data / "train_images")
    (data / "birds.zip").write_bytes(whole[:2000])
    assert "birds.zip" in expect(run_script(project, "check_data.py", "--unpack"), 2).last_line
    assert not (data / "train_images").exists()
