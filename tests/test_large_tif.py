"""Slides: from huge tifs to the submission, what is said of bad input on the way, and that nothing is held whole."""

import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from large_tif import graded, slide_project
from pipeline.competition import Head
from pipeline.heads.mask_decoding import decoded
from pipeline.metrics.masks import find_metric
from pipeline.tasks.segmentation.mask_files import FileTruth
from pipeline.tasks.segmentation.sources import header_at
from pipeline.tasks.segmentation.truth import RunTruth
from projects import Renders, run_script
from toolkit.errors import UserError
from toolkit.images import tif_windows
from toolkit.images.readers import image
from toolkit.masks import maps, rle
from toolkit.masks.components import Components
from training import expect

SLIDES = """extends: demo
image: {size: 96}
task: {params: {scale: 0.2, foreground: 0.7}}
augmentations: {name: default, params: {turn: true}}
model: {encoder: test_resnet, params: {decoder_channels: [24, 16, 16, 8, 8]}}
training: {epochs: 4, batch_size: 8, sampler: {name: shuffle, params: {times: 24}}}
optimizer: {lr: 5e-3}
machine: {workers: 0}
"""
LARGE = (2600, 2300)


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = slide_project(renders, tmp_path_factory.mktemp("slides") / "project", (1000, 1200))
    (made / "experiments/slides.yaml").write_text(SLIDES)
    expect(run_script(made, "make_folds.py", "--n-folds", "2"))
    return made


@pytest.mark.slow
def test_from_slides_to_a_submission(project: Path) -> None:
    expect(run_script(project, "check_data.py"))
    for step in (("train.py", "slides", "--fold", "all"), ("evaluate.py", "slides"), ("predict.py", "slides")):
        expect(run_script(project, *step))
    expect(run_script(project, "submit.py", "slides"))
    scores = graded(project / "submissions/slides.csv", project / "data/raw")
    assert min(scores.values()) > 0.5, scores


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_without_stored_masks_the_folds_keep_their_scores(project: Path, seeds: int) -> None:
    name = f"none{seeds}"
    changed = ["task.params.store=none", f"seeds={seeds}", "training.epochs=1", "training.sampler.params.times=4"]
    expect(run_script(project, "train.py", "slides", "--fold", "all", *changed, "--as", name))
    said = expect(run_script(project, "evaluate.py", name)).stdout
    assert "task.params.store: none" in said and "all rows" not in said
    trained = [yaml.safe_load((project / f"runs/{name}/fold_{fold}/fold.json").read_text())["metrics"] for fold in "01"]
    found = yaml.safe_load((project / f"runs/{name}/cv.json").read_text())
    assert found["folds"] == dict(zip("01", trained, strict=True))
    assert found["score"] == found["mean"] == np.mean([each["dice"] for each in trained])
    assert not (project / f"runs/{name}/oof.parquet").exists()
    expect(run_script(project, "report.py", name))
    expect(run_script(project, "predict.py", name))
    expect(run_script(project, "submit.py", name))
    metric = project / "src/competition/metric.py"
    text = metric.read_text()
    metric.write_text(text.replace('("dice", "iou")', '("dice", "iou", "pixel_accuracy")'))
    refused = expect(run_script(project, "evaluate.py", name), 2).last_line
    metric.write_text(text)
    assert "was not scored by 'pixel_accuracy'" in refused


def other_size(project: Path) -> None:
    path = next((project / "data/raw/train").glob("*.tiff"))
    cv2.imwrite(str(path), np.zeros((40, 50, 3), np.uint8))


def other_text(text: str) -> Callable[[Path], None]:
    def spoil(project: Path) -> None:
        path = project / "data/raw/train.csv"
        table = pd.read_csv(path)
        table["encoding"] = text
        table.to_csv(path, index=False)

    return spoil


def unknown_class(project: Path) -> None:
    other_text("1 5")(project)
    path = project / "data/raw/train.csv"
    pd.read_csv(path).assign(kind="tubule").to_csv(path, index=False)
    path = project / "src/competition/targets.py"
    path.write_text(path.read_text().replace('RunLengths("encoding")', 'RunLengths("encoding", classes="kind")'))


def no_mask_file(project: Path) -> None:
    path = project / "src/competition/targets.py"
    path.write_text(path.read_text().replace('TRUTH = RunLengths("encoding")', 'TRUTH = MaskFiles("masks/{id}.png")'))


def nothing(project: Path) -> None:
    pass


BAD = {
    "image and mask differ": (other_size, [], r"the RLE of|a run ends \d+ pixels beyond the image of 40 x 50"),
    "odd count": (other_text("1 5 9"), [], r"3 numbers, an odd count"),
    "beyond the image": (other_text("99999999 5"), [], r"pixels beyond the image of \d+ x \d+"),
    "unknown class": (unknown_class, [], r"of the class 'tubule'.*CLASSES of src/competition/targets.py"),
    "no mask file": (no_mask_file, [], r"there is no mask .*masks/tr00a\d+.png"),
    "encoder": (nothing, ["model.encoder=test_vit"], r"unet cannot take the encoder 'test_vit'.*resnet34"),
    "tile": (nothing, ["image.size=[2000000, 1000000]"], r"takes \d+\.\d GiB and .* are free; choose a smaller"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(renders: Renders, tmp_path: Path, name: str) -> None:
    spoil, changed, reason = BAD[name]
    project = slide_project(renders, tmp_path / "project", (200, 300), test=1)
    (project / "experiments/slides.yaml").write_text(SLIDES)
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    spoil(project)
    results = [run_script(project, "train.py", "slides", "--fold", "0", "task.params.foreground=1", *changed)]
    results += [] if changed else [run_script(project, "check_data.py")]
    for result in results:
        expect(result, 2)
        assert len(result.stderr.strip().splitlines()) == 1
    assert re.search(reason, results[0].last_line), results[0].last_line


def held(step: Callable[[], object]) -> int:
    """The most bytes of arrays that a step holds at a time."""
    tracemalloc.start()
    step()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def written(path: Path, **layout: object) -> np.ndarray:
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (26, 23, 3), np.uint8), LARGE[::-1])
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", **layout)
    return pixels


@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"rowsperstrip": 16}], ids=str)
def test_a_large_tif_is_shrunk_by_parts_to_the_means_of_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, object]
) -> None:
    pixels = written(tmp_path / "a.tiff", **layout)
    small = image(tmp_path / "a.tiff", (100, 100))
    blocks = pixels[: LARGE[0] // 23 * 23].reshape(-1, 23, LARGE[1] // 23, 23, 3).mean(axis=(1, 3))
    assert small.shape == (-(-LARGE[0] // 23), LARGE[1] // 23, 3)
    assert np.abs(small[: len(blocks)] - blocks).max() <= 0.51
    assert np.array_equal(image(tmp_path / "a.tiff", None), pixels)
    assert tif_windows.shrunk_tif(tmp_path / "a.tiff", (2000, 2000)) is None
    monkeypatch.setattr(tif_windows, "ROWS", 256)
    assert np.array_equal(image(tmp_path / "a.tiff", (100, 100)), small)
    assert held(lambda: image(tmp_path / "a.tiff", (100, 100))) < 0.6 * pixels.nbytes


def test_a_slide_without_tifffile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.tiff")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"needs the package 'tifffile'; add it to the group `competition`"):
        header_at(tmp_path / "a.tiff")
    assert image(tmp_path / "a.tiff", (100, 100)).shape == (*LARGE, 3)
    monkeypatch.setattr(tif_windows, "GIANT", 1000)
    with pytest.raises(UserError, match="needs the package 'tifffile'"):
        image(tmp_path / "a.tiff", (100, 100))


def test_deciding_scoring_and_writing_hold_few_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at a time is a few bytes for each pixel, however the mask is cleaned; labels alone would be four."""
    monkeypatch.setattr(maps, "STRIP", 1 << 16)
    size = (3000, 2000)
    disc = cv2.circle(np.zeros(size, np.uint8), (900, 1200), 600, 250, -1)
    disc[1000:1010, 800:810], disc[5:9, 5:9] = 0, 250
    head = Head("mask", "mask", ("a",), thresholds=(0.5, 200, 0.5))
    predictions = pd.DataFrame({"mask_a": [maps.encode(disc, size)]}, index=["x"])
    filled = cv2.circle(np.zeros(size, np.uint8), (900, 1200), 600, 1, -1).astype(bool)
    truth = pd.DataFrame({"mask": [RunTruth(("a",), size, ((rle.encode(filled),),))]}, index=["x"])
    [planes] = decoded(predictions, head)
    text = rle.encode(planes[0])
    assert np.array_equal(rle.decode(text, size), filled)
    dice = find_metric("dice").function
    assert dice(truth, predictions, [head]) == 1
    for step in (
        lambda: next(decoded(predictions, head)),
        lambda: dice(truth.copy(), predictions, [head]),
        lambda: rle.decode(rle.encode(filled), size),
        lambda: maps.average([predictions["mask_a"].iloc[0]] * 3),
    ):
        assert held(step) < 3.5 * filled.size


@pytest.mark.parametrize("order", ["column", "row"])
def test_rle_does_not_show_where_strips_meet(monkeypatch: pytest.MonkeyPatch, order: rle.Order) -> None:
    masks = [np.ones((9, 7), bool), np.random.default_rng(0).random((13, 8)) > 0.3, np.zeros((4, 5), bool)]
    whole = [rle.encode(mask, order) for mask in masks]
    monkeypatch.setattr(maps, "STRIP", 10)
    for mask, text in zip(masks, whole, strict=True):
        assert rle.encode(mask, order) == text
        assert np.array_equal(rle.decode(text, (mask.shape[0], mask.shape[1]), order), mask)


@pytest.mark.parametrize("neighbours", [4, 8])
def test_components_are_those_of_opencv(monkeypatch: pytest.MonkeyPatch, neighbours: int) -> None:
    monkeypatch.setattr(maps, "STRIP", 30)
    random = np.random.default_rng(1)
    for shape in ((1, 1), (1, 9), (9, 1), (14, 11), (30, 23)):
        for share in (0, 0.3, 0.5, 0.7, 1):
            mask = random.random(shape) < share
            found = Components.of(mask, neighbours)
            count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=neighbours)
            assert len(found.areas) == count - 1
            border = set(np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))) - {0}
            assert found.at_border().sum() == len(border)
            for number, area in enumerate(found.areas):
                own = found.mask(np.arange(count - 1) == number)
                assert own.sum() == area and len(set(labels[own])) == 1 and 0 not in labels[own]
            assert np.array_equal(found.mask(np.ones(count - 1, bool)), mask)
            assert np.array_equal(Components.of(mask, neighbours, value=False).mask(np.ones(99, bool)), ~mask)


def test_a_pixel_of_a_mask_file_is_drawn_from_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "STRIP", 20)
    mask = (np.random.default_rng(2).random((12, 10)) < 0.2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), mask * 255)
    truth = FileTruth(("a",), (12, 10), (tmp_path / "a.png",))
    drawn = {truth.foreground(np.random.default_rng(seed)) for seed in range(400)}
    assert drawn == {(int(row), int(column)) for row, column in np.argwhere(mask)}
