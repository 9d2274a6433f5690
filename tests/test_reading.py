"""An image need not be one file: what a reader is given, and what all that read images make of a reader that asks for
the row."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.data.cache import stamp_of
from pipeline.data.leaks import find_leaks
from pipeline.tasks.segmentation.sources import Place
from projects import Renders, imported, run_script
from toolkit.audit.scan import Look, scan
from toolkit.images.readers import Rows, image, image_key, row_reader
from training import SMALL, expect, register

READERS = '''"""Images that are slices of a stack, which is a folder of npy files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def slices(path: Path, size: tuple[int, int] | None, row: Mapping[str, Any], *, gain: int = 1) -> np.ndarray:
    with Path("reads.log").open("a") as log:
        log.write(f"{path.name}/{row['slice']}\\n")
    grey = np.load(path / f"{row['slice']}.npy")
    return np.repeat(grey[:, :, None], 3, axis=2) * np.uint8(gain)
'''


def picture(seed: int, large: bool = False) -> np.ndarray:
    """uint8 (32, 32): noise with a bright square."""
    pixels = np.random.default_rng(seed).integers(0, 100, (32, 32), dtype=np.uint8)
    half = 13 if large else 3
    pixels[16 - half : 16 + half, 16 - half : 16 + half] += 120
    return pixels


def by_row(path: Path, size: Any, row: Any, *, gain: int = 1) -> np.ndarray:
    """A slice of a stack in one npy file."""
    return np.load(path)[int(row["slice"])][:, :, None] * np.uint8(gain)


def by_path(path: Path, size: Any, *, folder: str = "") -> np.ndarray:
    """A record of a json file, by a path that is none of a file: `records.json/3`."""
    return np.array(json.loads(path.parent.read_text())[int(path.name)], np.uint8)[:, :, None]


def stack(folder: Path, numbers: list[int]) -> pd.DataFrame:
    """Rows of one npy file that holds a picture for each of `numbers`; all in folds of their own."""
    np.save(folder / "stack.npy", np.stack([picture(number) for number in numbers]))
    count = len(numbers)
    columns = {"id": [f"i{k}" for k in range(count)], "image": ["stack.npy"] * count, "fold": [*range(count)]}
    return pd.DataFrame({**columns, "slice": [*range(count)]})


def looked_at(folder: Path, rows: pd.DataFrame, reader: Any) -> list[Look]:
    return scan([folder / path for path in rows["image"]], reader, rows=Rows(rows, reader))


def test_a_third_positional_parameter_asks_for_the_row() -> None:
    class Callable:
        def __call__(self, path: Path, size: Any, row: Any) -> np.ndarray:
            return np.zeros((1, 1, 1), np.uint8)

    for reader, takes in (
        (image, False),
        (by_path, False),
        (by_row, True),
        (functools.partial(by_row, gain=2), True),
        (functools.partial(image, channels=1), False),
        (Callable(), True),
    ):
        assert row_reader(reader).takes_row is takes
        assert row_reader(row_reader(reader)).takes_row is takes
    table = pd.DataFrame({"id": ["a"], "image": ["x"], "slice": [3], "fold": [1]})
    assert dict(Rows(table, by_row)[0]) == {"id": "a", "image": "x", "slice": 3}
    assert dict(Rows(table, image)[0]) == {}


def test_an_image_is_known_by_its_path_and_its_row() -> None:
    first, other = {"id": "a", "slice": 1}, {"id": "a", "slice": 2}
    assert image_key("x.png", {}) == "x.png"
    assert image_key("x.npy", first) == image_key("x.npy", dict(reversed(first.items())))
    assert len({image_key("x.npy", first), image_key("x.npy", other), image_key("y.npy", first)}) == 3
    assert image_key("x", {"at": pd.Timestamp("2026-01-01")}) != image_key("x", {"at": pd.Timestamp("2026-01-02")})
    assert Place(Path("x"), first) == Place(Path("x"), {**first}) != Place(Path("x"), other)


def test_rows_of_one_path_are_images_of_their_own(tmp_path: Path) -> None:
    """Different slices are no copies, equal ones are, whatever the path says; a blank one is a copy of nothing."""
    rows = stack(tmp_path, [1, 2, 3, 1])
    looks = looked_at(tmp_path, rows, by_row)
    assert [seen.fault for seen in looks] == [""] * 4
    assert [seen.size for seen in looks] == [(32, 32)] * 4
    pairs = find_leaks(rows, looks, tmp_path, by_row).pairs
    assert [(pair.kind, pair.id_a, pair.id_b) for pair in pairs.itertuples()] == [("identical", "i0", "i3")]
    np.save(tmp_path / "stack.npy", np.zeros((4, 8, 8), np.uint8))
    looks = looked_at(tmp_path, rows, by_row)
    assert find_leaks(rows, looks, tmp_path, by_row).pairs.empty


def test_a_similar_slice_is_read_by_its_row(tmp_path: Path) -> None:
    rows = stack(tmp_path, [1, 2, 3])
    brighter = np.load(tmp_path / "stack.npy")
    brighter[2] = brighter[0] + 10
    np.save(tmp_path / "stack.npy", brighter)
    pairs = find_leaks(rows, looked_at(tmp_path, rows, by_row), tmp_path, by_row).pairs
    assert [(pair.kind, pair.id_a, pair.id_b) for pair in pairs.itertuples()] == [("similar", "i0", "i2")]


def test_the_reader_decides_where_a_path_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(json.dumps([picture(1).tolist(), picture(2).tolist(), picture(1).tolist()]))
    rows = pd.DataFrame({"id": ["a", "b", "c"], "image": [f"records.json/{k}" for k in range(3)], "fold": [0, 1, 2]})
    looks = looked_at(tmp_path, rows, by_path)
    assert [seen.fault for seen in looks] == [""] * 3
    pairs = find_leaks(rows, looks, tmp_path, by_path).pairs
    assert [(pair.id_a, pair.id_b) for pair in pairs.itertuples()] == [("a", "c")]
    # The pipeline's own reader says what is there, and what is not.
    (tmp_path / "series").mkdir()
    missing, folder = scan([tmp_path / "records.json/7", tmp_path / "series"], image)
    assert missing.fault.startswith("there is no image")
    assert "is a folder" in folder.fault and "reader of your own" in folder.fault
    # A reader that opens its file without asking whether it is there.
    (gone,) = scan([tmp_path / "gone.npy"], by_row, rows=Rows(pd.DataFrame({"slice": [0]}), by_row))
    assert gone.fault.startswith("there is no image")
    (flat,) = scan([tmp_path / "series"], lambda path, size: np.zeros((8, 8), np.uint8))
    assert "the reader made uint8 (8, 8) of series" in flat.fault


def test_a_folder_changes_when_a_file_in_it_does(tmp_path: Path) -> None:
    (tmp_path / "series/a").mkdir(parents=True)
    (tmp_path / "series/a/0.npy").write_bytes(b"0")
    before = stamp_of(tmp_path / "series")
    assert stamp_of(tmp_path / "series") == before
    (tmp_path / "series/a/0.npy").write_bytes(b"11")
    assert stamp_of(tmp_path / "series") != before


def test_slices_of_a_folder_from_the_check_to_the_submission(renders: Renders, tmp_path: Path) -> None:
    """Three stacks of 24 slices: every row is an image of its own for checks, leaks, cache, training, prediction."""
    answers = {"trackers": [], "train_images": "volumes/{volume}", "test_images": "volumes/{volume}"}
    project = renders.copy(tmp_path / "project", answers)
    data, lines = project / "data/raw", []
    for number in range(72):
        folder = data / f"volumes/v{number // 24}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number % 24}.npy", picture(number, large=number % 2 == 1))
        lines.append((f"n{number:02}", f"v{number // 24}", number % 24, ["small", "large"][number % 2]))
    table = pd.DataFrame(lines, columns=["image_id", "volume", "slice", "label"])
    table[:48].to_csv(data / "train.csv", index=False)
    table[48:].drop(columns="label").to_csv(data / "test.csv", index=False)
    table[48:][["image_id", "label"]].assign(label="large").to_csv(data / "sample_submission.csv", index=False)
    (project / "src/competition/readers.py").write_text(READERS)
    register(project, "reader", {"slices": "competition.readers:slices"})
    experiment = SMALL.replace("epochs: 2, batch_size: 64", "epochs: 6, batch_size: 8")
    (project / "experiments/small.yaml").write_text(experiment + "image: {size: 32, reader: slices, cache: true}\n")

    checked = expect(run_script(project, "check_data.py"))  # by the one reader that an experiment names
    assert "experiments/small.yaml: slices" in checked.stdout and "can be trained on" in checked.stdout
    assert "fault" not in checked.stdout and "leaks, " not in checked.stdout
    folded = expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    assert "no leaks among 72 rows" in folded.stdout and "could not be read" not in folded.stdout
    expect(run_script(project, "cache.py", "small"))
    log = project / "reads.log"
    log.unlink()
    expect(run_script(project, "train.py", "small", "--fold", "0"))
    assert not log.is_file(), "training decoded what was in the cache"
    expect(run_script(project, "predict.py", "small", "--fold", "0"))
    assert sorted(set(log.read_text().split())) == sorted(f"v2/{number}" for number in range(24))
    expect(run_script(project, "submit.py", "small"))
    submitted = pd.read_csv(project / "submissions/small.csv").set_index("image_id")["label"]
    right = (submitted == table.set_index("image_id")["label"][48:]).sum()
    assert right >= 22, f"{right} of 24"
    # A changed cell of a row is another image.
    changed = pd.read_csv(data / "train.csv")
    changed.loc[0, "slice"] = 23
    changed.to_csv(data / "train.csv", index=False)
    log.unlink()
    expect(run_script(project, "cache.py", "small"))
    assert log.read_text().split() == ["v0/23"]


def test_the_reader_of_the_experiments(renders: Renders, tmp_path: Path) -> None:
    """`baseline` decides; where it says nothing, the one reader that others name; where they differ, none."""
    project = renders.copy(tmp_path / "project", {"trackers": []})

    def write(name: str, text: str) -> None:
        (project / f"experiments/{name}.yaml").write_text(text)

    with imported(project):
        from pipeline.data.command import usual_experiment
        from pipeline.project import Project

        place = Project.at(project)
        assert usual_experiment(place) is None
        write("broken", "extends: nowhere\n")
        write("exp001", "extends: baseline\nimage: {reader: {params: {channels: 1}}}\n")
        write("exp002", "extends: exp001\ntraining: {epochs: 3}\n")
        assert usual_experiment(place) == "exp001"
        write("exp003", "extends: baseline\nimage: {reader: dicom}\n")
        assert usual_experiment(place) is None
        baseline = (project / "experiments/baseline.yaml").read_text()
        write("baseline", baseline.replace("  size: 256", "  size: 256\n  reader: array"))
        assert usual_experiment(place) == "baseline"


@pytest.mark.parametrize("reader", [by_row, functools.partial(by_row, gain=1)])
def test_samples_are_read_by_their_row(tmp_path: Path, reader: Any) -> None:
    import albumentations as A

    from pipeline.data.image_dataset import ImageDataset

    rows = stack(tmp_path, [1, 2, 3])
    dataset = ImageDataset(rows, tmp_path, reader, A.Compose([A.Resize(32, 32)], seed=0), (32, 32), {}, 0)
    for row in range(3):
        np.testing.assert_array_equal(dataset[0, row]["input_image"][:, :, 0], picture(row + 1))
        np.testing.assert_array_equal(dataset.picture(row)[:, :, 0], picture(row + 1))
