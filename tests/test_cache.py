"""The cache of decoded images: the same pixels as without it, each image decoded once, whatever happens meanwhile."""

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.config import parse_experiment
from pipeline.data import NAMES, cache
from pipeline.project import Project
from pipeline.registry import Registry
from projects import Renders, imported, run_script
from toolkit.errors import UserError
from training import assert_same_outcome, demo_project, expect, outcome

COUNT = 24
OWN = '''"""A reader of the competition's own that says what it reads."""

import time
from pathlib import Path

import numpy as np

from toolkit.images.readers import image


def logged(path: Path, size: tuple[int, int] | None, *, gain: int = 1, seconds: float = 0.0) -> np.ndarray:
    time.sleep(seconds)
    with Path("reads.log").open("a") as log:
        log.write(path.name + "\\n")
    return image(path, size) * np.uint8(gain)
'''
FILL = """import sys
sys.path[:0] = {path}
from pathlib import Path
import pandas as pd
from pipeline.config import parse_experiment
from pipeline.data import cache
from pipeline.registry import Registry
from pipeline.project import Project

assert "torch" not in sys.modules
reader = {{"name": "logged", "params": {{"seconds": {seconds}}}}}
experiment = parse_experiment({{"image": {{"size": 32, "cache": True, "reader": reader}}}}, "here")
names = Registry({{"reader": {{"logged": "own_reader:logged"}}}})
cache.open_cache(Project.at(Path.cwd()), experiment, names, pd.read_csv("rows.csv"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder with pictures of several sizes; `own_reader` can be imported in it."""
    pictures = tmp_path / "data" / "raw"
    pictures.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(COUNT):
        shape = [(60, 90, 3), (200, 170, 3), (20, 24, 3), (20, 90, 3)][number % 4]
        cv2.imwrite(str(pictures / f"{number:02d}.{'jpg' if number % 4 == 1 else 'png'}"), smooth(random, shape))
    (tmp_path / "own_reader.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_reader", None)


def smooth(random: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture without a black pixel."""
    return cv2.resize(random.integers(40, 256, (8, 8, 3), dtype=np.uint8), (shape[1], shape[0]))


def rows(count: int = COUNT) -> pd.DataFrame:
    images = [f"{number:02d}.{'jpg' if number % 4 == 1 else 'png'}" for number in range(count)]
    return pd.DataFrame({"id": [f"id{number}" for number in range(count)], "image": images})


def opened(table: pd.DataFrame | None = None, plain: bool = False, name: str = "logged", **image: Any) -> Any:
    """The reader of an experiment with the cache, in the current folder; `plain`: what decodes on the spot."""
    params = image.pop("params", {})
    settings = {"size": 32, "cache": True, "reader": {"name": name, "params": params}, **image}
    experiment = parse_experiment({"image": settings}, "here")
    names = Registry(NAMES, {"reader": {"logged": "own_reader:logged"}})
    if plain:
        return cache.reader_for(experiment, names)
    return cache.open_cache(Project.at(Path.cwd()), experiment, names, rows() if table is None else table)


def process(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Fill the cache in a process of its own, with a reader that takes its time."""
    rows().to_csv(folder / "rows.csv", index=False)
    code = FILL.format(path=[str(folder), *sys.path], seconds=seconds)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen within a minute"
        time.sleep(0.01)


def reads(folder: Path) -> list[str]:
    """What was decoded since the last call."""
    log = folder / "reads.log"
    names = log.read_text().split() if log.is_file() else []
    log.unlink(missing_ok=True)
    return sorted(names)


def pixels(reader: Callable[..., np.ndarray], folder: Path, table: pd.DataFrame | None = None) -> list[np.ndarray]:
    table = rows() if table is None else table
    return [reader(folder / "data" / "raw" / name, (7, 7)) for name in table["image"]]


def assert_right(reader: Callable[..., np.ndarray], folder: Path) -> None:
    """Every picture as OpenCV alone would make it, at the cache's size and not at the one that is asked for."""
    for name, found in zip(rows()["image"], pixels(reader, folder), strict=True):
        flags = cv2.IMREAD_REDUCED_COLOR_4 if name.endswith("jpg") else cv2.IMREAD_COLOR  # 170 px: a quarter is 42
        picture = cv2.cvtColor(cv2.imread(str(folder / "data" / "raw" / name), flags), cv2.COLOR_BGR2RGB)
        if min(picture.shape[:2]) >= 32:
            expected = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
        elif max(picture.shape[:2]) < 32:
            expected = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_LINEAR)
        else:  # averaged along one side before it is stretched along the other
            narrow = cv2.resize(picture, (32, 20), interpolation=cv2.INTER_AREA)
            expected = cv2.resize(narrow, (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(found, expected)


def test_pixels_are_the_same_from_the_cache_and_on_the_spot(folder: Path) -> None:
    cached = opened()
    assert reads(folder) == sorted(rows()["image"])
    assert_right(cached, folder)
    assert reads(folder) == []
    assert_right(opened(plain=True), folder)
    assert len(reads(folder)) == COUNT
    first = cached(folder / "data" / "raw" / "00.png", None)
    first[:] = 0  # augmentations may write into what they get
    assert_right(cached, folder)


def test_images_beyond_the_cached_rows_are_decoded(folder: Path) -> None:
    few = opened(rows(4))
    reads(folder)
    assert_right(few, folder)
    assert len(reads(folder)) == COUNT - 4


def test_float_images_of_many_channels(folder: Path) -> None:
    values = np.random.default_rng(1).random((40, 50, 6), dtype=np.float32)
    np.save(folder / "data" / "raw" / "a.npy", values)
    table = pd.DataFrame({"id": ["a"], "image": ["a.npy"]})
    (found,) = pixels(opened(table, name="array"), folder, table)
    each = [cv2.resize(values[:, :, channel], (32, 32), interpolation=cv2.INTER_AREA) for channel in range(6)]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.dstack(each))
    np.testing.assert_array_equal(found, *pixels(opened(plain=True, name="array"), folder, table))


def test_a_grey_image_keeps_its_axis(folder: Path) -> None:
    found = pixels(opened(name="image", params={"channels": 1}), folder)
    assert {image.shape for image in found} == {(32, 32, 1)}


def test_a_worker_gets_no_pixels(folder: Path) -> None:
    cached = opened(cache_size=96)
    sent = pickle.dumps(cached)
    assert len(sent) < 96 * 96 * 3 < COUNT * 96 * 96 * 3
    for one, other in zip(pixels(pickle.loads(sent), folder), pixels(cached, folder), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_what_changed_is_decoded_anew(folder: Path) -> None:
    opened(rows(20))
    assert len(reads(folder)) == 20
    opened(rows(20))
    assert reads(folder) == []
    opened()  # four rows more
    assert reads(folder) == ["20.png", "21.jpg", "22.png", "23.png"]
    before = opened()
    picture = folder / "data" / "raw" / "04.png"
    cv2.imwrite(str(picture), smooth(np.random.default_rng(9), (60, 90, 3)))
    os.utime(folder / "data" / "raw" / "06.png", ns=(1, 1))
    old = before(picture, None)
    after = opened()
    assert reads(folder) == ["04.png", "06.png"]
    assert_right(after, folder)
    np.testing.assert_array_equal(before(picture, None), old)  # a run that is under way sees what it saw
    opened(pd.concat([rows(), rows(3)]))  # two rows of one image
    assert reads(folder) == []


@pytest.mark.parametrize("other", [{"cache_size": 40}, {"size": 40}, {"params": {"gain": 2}}, {"name": "image"}])
def test_other_pixels_are_another_cache(folder: Path, other: dict[str, Any]) -> None:
    opened()
    opened(**other)
    assert len(list((folder / "data" / "cache").iterdir())) == 2
    reads(folder)
    assert_right(opened(), folder)
    opened(size=64, cache_size=32)  # what the model sees is not what is kept
    assert reads(folder) == []


def test_code_of_a_reader_counts(folder: Path) -> None:
    opened()
    (folder / "own_reader.py").write_text(OWN.replace("np.uint8(gain)", "np.uint8(1)"))
    reads(folder)
    opened()
    assert len(reads(folder)) == COUNT


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_an_image_that_cannot_be_read_is_named_and_the_others_stay(folder: Path, damage: str) -> None:
    picture = folder / "data" / "raw" / "10.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100]) if damage == "truncated" else picture.unlink()
    with pytest.raises(UserError, match=r"row 10 \(id id10\): .*10\.png") as error:
        opened()
    assert "\n" not in str(error.value)
    picture.write_bytes(whole)
    reads(folder)
    reader = opened()
    assert set(reads(folder)).isdisjoint(f"{number:02d}.png" for number in range(10))
    assert_right(reader, folder)
    picture.unlink()  # gone after it was cached
    with pytest.raises(UserError, match=r"there is no image .*10\.png"):
        opened()


def test_images_that_do_not_fit_together(folder: Path) -> None:
    raw = folder / "data" / "raw"
    cv2.imwrite(str(raw / "deep.png"), np.full((40, 40, 3), 9000, np.uint16))
    np.save(raw / "four.npy", np.zeros((40, 40, 4), np.uint8))
    np.save(raw / "three.npy", np.zeros((40, 40, 3), np.uint8))
    deep = pd.DataFrame({"id": ["a", "b"], "image": ["00.png", "deep.png"]})
    with pytest.raises(UserError, match=r"deep\.png is read as float32.*image\.reader\.params\.as_float"):
        opened(deep, name="image")
    opened(deep, name="image", params={"as_float": True})
    many = pd.DataFrame({"id": ["a", "b"], "image": ["three.npy", "four.npy"]})
    with pytest.raises(UserError, match=r"four\.npy is read as uint8 with 4 channels.*image\.reader\.params\.channels"):
        opened(many, name="array")


def test_a_small_disk_is_refused_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(rows(4))
    capsys.readouterr()
    size = 20 * 32 * 32 * 3
    usage = cache.shutil.disk_usage(folder)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    before = set((folder / "data" / "cache").rglob("*"))
    with pytest.raises(UserError, match=r"needs 61\.4 kB more, and 61\.4 kB are free at data/cache/32x32-"):
        opened()
    assert capsys.readouterr().out.startswith("cache: 24 images of 32 x 32 x 3, uint8, 73.7 kB, in data/cache/32x32-")
    assert set((folder / "data" / "cache").rglob("*")) == before
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=size))
    assert_right(opened(), folder)
    assert "4 are there already" in capsys.readouterr().out


def test_a_disk_that_fills_up_loses_nothing(folder: Path) -> None:
    opened(rows(9))
    reads(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 32, limits[1]))  # in the middle of an image
    try:
        with pytest.raises(UserError, match=r"cannot write .*cache.*free space"):
            opened()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reads(folder)
    assert_right(opened(), folder)
    assert len(reads(folder)) == COUNT - 9


def test_a_killed_process_is_continued(folder: Path) -> None:
    filling = process(folder, seconds=0.1)
    log = folder / "reads.log"
    wait_for(lambda: log.is_file() and log.read_text().count("\n") >= 12)
    filling.send_signal(signal.SIGKILL)
    assert filling.wait() == -signal.SIGKILL
    before = reads(folder)
    assert len(before) < COUNT
    reader = opened(params={"seconds": 0.1})
    after = reads(folder)
    assert_right(reader, folder)
    assert set(before) | set(after) == set(rows()["image"])
    assert len(set(before) & set(after)) <= 8  # no more than what the threads were reading
    assert len(after) < COUNT


def test_two_processes_decode_each_image_once(folder: Path) -> None:
    both = [process(folder, seconds=0.1) for _ in range(2)]
    said = [one.communicate(timeout=60)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert Counter(reads(folder)) == Counter(rows()["image"])
    assert sorted(text.split()[1] for text in said) == ["24", "another"], said
    assert_right(opened(params={"seconds": 0.1}), folder)
    assert reads(folder) == []


def test_damage_is_said(folder: Path) -> None:
    cached = opened()
    for file in (folder / "data" / "cache").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cache is damaged.*cache\.py --clear"):
        pixels(cached, folder)


def test_a_cache_that_a_task_cannot_use_is_not_filled(renders: Renders, tmp_path: Path) -> None:
    """Neither by training nor beforehand, and both say the same."""
    project = demo_project(renders, tmp_path / "project", task="segmentation")
    commands = (["cache.py", "small", "image.cache=true"], ["train.py", "small", "image.cache=true", "--as", "cropped"])
    refused = [expect(run_script(project, *command), 2).last_line for command in commands]
    assert refused[0] == refused[1] and refused[0].startswith("error: image.cache holds whole images of one size")
    assert not (project / "data/cache").exists() and not (project / "runs/cropped").exists()
    whole = expect(run_script(project, *commands[0], "task.params={view: whole}")).stdout
    assert "'small': all 240 training rows are in the cache" in whole


def test_script(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    refused = expect(run_script(project, "cache.py", "small"), 2)
    assert "image.cache=true" in refused.last_line
    assert "experiments/small.yaml" in refused.last_line
    assert "--clear" in expect(run_script(project, "cache.py"), 2).last_line
    (project / "experiments" / "large.yaml").write_text("extends: small\nimage: {cache_size: 40}\n")
    filled = expect(run_script(project, "cache.py", "small", "large", "image.cache=true")).stdout
    assert "cache: 1,297 images of 32 x 32 x 3, uint8, 4.0 MB, in data/cache/32x32-" in filled
    assert "cache: 1,297 images of 40 x 40 x 3, uint8, 6.2 MB, in data/cache/40x40-" in filled
    again = expect(run_script(project, "cache.py", "image.cache=true", "small")).stdout
    assert "cache:" not in again
    assert "'small': all 1,297 training rows are in the cache" in again
    assert "2 (10." in expect(run_script(project, "cache.py", "--clear")).stdout
    assert not (project / "data" / "cache").exists()
    assert (project / "data" / "raw" / "train.csv").is_file()
    assert "image.cache" in expect(run_script(project, "cache.py", "demo"), 2).last_line


@pytest.mark.slow
def test_training_does_not_depend_on_where_images_come_from(renders: Renders, tmp_path: Path) -> None:
    """From the cache in processes of the loader, from one that was removed and rebuilt, and decoded on the spot."""
    cached = demo_project(renders, tmp_path / "cached")
    experiment = "extends: small\nimage: {size: 32, cache: true, cache_size: 40}\ntraining: {epochs: 1}\n"
    (cached / "experiments" / "small_cached.yaml").write_text(experiment)
    plain = Path(shutil.copytree(cached, tmp_path / "plain"))
    first = expect(run_script(cached, "train.py", "small_cached", "--fold", "0", "machine.workers=2"))
    assert first.stdout.count("cache: 1,297 images of 40 x 40 x 3") == 1
    expect(run_script(cached, "cache.py", "--clear"))
    expect(run_script(cached, "train.py", "small_cached", "--fold", "1"))
    with imported(plain):
        import pipeline.data.cache as cache

        # Before training imports it
        cache.open_cache = lambda project, experiment, names, *tables: cache.reader_for(experiment, names)
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training.fold import train
        from pipeline.training.setup import prepare

        place = Project.at(plain)
        config = load_experiment(place, "small_cached")
        for fold in ("0", "1"):
            train(prepare(place, competition, "small_cached", config), fold, restart=False)
    assert not (plain / "data" / "cache").exists()
    for fold in ("0", "1"):
        assert_same_outcome(outcome(cached, "small_cached", fold), outcome(plain, "small_cached", fold))
