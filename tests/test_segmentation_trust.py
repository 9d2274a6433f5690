"""What masks and outlines hold is read as it is meant, or the check says how it is read."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco

from pipeline.data.faults import Fault
from pipeline.data.tables import read_table
from pipeline.tasks.segmentation.forms import Form, MaskFiles, RunLengths
from pipeline.tasks.segmentation.labels import mask_faults
from pipeline.tasks.segmentation.mask_files import mask_in
from pipeline.tasks.segmentation.outlines import Polygons
from pipeline.tasks.segmentation.tables import mask_rows
from projects import Renders, imported, run_script
from test_segmentation_truth import settings
from toolkit.errors import UserError
from toolkit.images.pixels import turned
from toolkit.masks import rle
from toolkit.masks.sizes import known_header
from training import expect

SIZE = (40, 60)


def disc(radius: int = 12, size: tuple[int, int] = SIZE, at: tuple[int, int] = (25, 18)) -> np.ndarray:
    return cv2.circle(np.zeros(size, np.uint8), at, radius, 255, -1)


def image(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, exif=exif)


def truths(
    data: Path, form: Form, ids: list[str], classes: tuple[str, ...] = ("cat",), **columns: list[str]
) -> pd.DataFrame:
    for name in ids:
        if not (data / f"train/{name}.png").exists():
            image(data / f"train/{name}.png")
    pd.DataFrame({"image_id": ids, **columns}).to_csv(data / "train.csv", index=False)
    return mask_rows(read_table(data / "train.csv"), settings(), form, classes, data).assign(fold=0)


def said(rows: pd.DataFrame) -> dict[str, Fault]:
    return {fault.detail: fault for fault in mask_faults(rows, "mask")}


def tells(rows: pd.DataFrame, text: str, fatal: bool = False) -> bool:
    return any(text in detail and fault.fatal == fatal for detail, fault in said(rows).items())


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    return float(2 * (found & mask).sum() / (found.sum() + mask.sum()))


# Mask files


@pytest.mark.parametrize(("name", "quality"), [("m.jpg", 75), ("m.jpg", 30), ("m.webp", 40), ("again.png", 60)])
def test_the_noise_of_a_lossy_mask_is_no_class(tmp_path: Path, name: str, quality: int) -> None:
    mask = disc(30, (150, 200), (90, 70))
    image(tmp_path / "train/a.png", (150, 200))
    lossy = tmp_path / ("m.jpg" if name == "again.png" else name)
    Image.fromarray(mask).save(lossy, quality=quality)
    if name == "again.png":  # a JPEG that was written as PNG afterwards
        Image.open(lossy).save(tmp_path / name)
    rows = truths(tmp_path, MaskFiles(name), ["a"])
    assert dice(rows["mask"][0].read()[0] == 1, mask > 0) > 0.98
    assert tells(rows, "above half of white is the class")
    above = truths(tmp_path, MaskFiles(name, above=0), ["a"])
    assert above["mask"][0].read().sum() > rows["mask"][0].read().sum()


def test_smoothed_edges_are_halved_and_numbers_of_objects_are_not(tmp_path: Path) -> None:
    mask = disc(30, (150, 200), (90, 70))
    image(tmp_path / "train/a.png", (150, 200))
    cv2.imwrite(str(tmp_path / "m.png"), cv2.GaussianBlur(mask, (9, 9), 3))
    assert dice(truths(tmp_path, MaskFiles("m.png"), ["a"])["mask"][0].read()[0] == 1, mask > 0) > 0.98
    for numbers in (range(1, 60), range(1, 256), (1, 2, 3, 255), (7,), (255,), (3, 200)):
        objects = np.zeros((150, 200), np.uint8)
        for place, number in enumerate(numbers):
            objects[5 * (place // 20) : 5 * (place // 20) + 4, 10 * (place % 20) : 10 * (place % 20) + 8] = number
        cv2.imwrite(str(tmp_path / "m.png"), objects)
        (truth,) = truths(tmp_path, MaskFiles("m.png"), ["a"])["mask"]
        mask_in.cache_clear()
        assert (truth.read()[0] == (objects > 0)).all()


def test_a_lossy_mask_without_white_is_refused(tmp_path: Path) -> None:
    Image.fromarray(disc() // 255 * 5).save(tmp_path / "m.jpg", quality=95)
    assert tells(truths(tmp_path, MaskFiles("m.jpg"), ["a"]), "stored with loss and holds nothing brighter", fatal=True)
    Image.fromarray(disc() * 0).save(tmp_path / "n.jpg")
    assert not truths(tmp_path, MaskFiles("n.jpg"), ["a"])["mask"][0].read().any()


def test_values_of_a_lossy_mask_are_the_nearest_that_are_named(tmp_path: Path) -> None:
    values = np.zeros((120, 160), np.uint8)
    values[20:60, 20:80], values[60:110, 70:150] = 120, 240
    image(tmp_path / "train/a.png", values.shape)
    Image.fromarray(values).save(tmp_path / "m.jpg", quality=70)
    rows = truths(tmp_path, MaskFiles("m.jpg", {120: "cat", 240: "dog"}), ["a"], ("cat", "dog"))
    planes = rows["mask"][0].read()
    assert dice(planes[1] == 1, values == 240) > 0.97 and dice(planes[0] == 1, values == 120) > 0.9
    assert tells(rows, "are read as the nearest")
    colours = np.zeros((120, 160, 3), np.uint8)
    colours[values == 120], colours[values == 240] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(colours).save(tmp_path / "c.jpg", quality=80)
    form = MaskFiles("c.jpg", {(255, 0, 0): "cat", (0, 0, 255): "dog"})
    planes = truths(tmp_path, form, ["a"], ("cat", "dog"))["mask"][0].read()
    assert dice(planes[0] == 1, values == 120) > 0.95 and dice(planes[1] == 1, values == 240) > 0.95
    close = truths(tmp_path, MaskFiles("m.jpg", {1: "cat", 2: "dog"}), ["a"], ("cat", "dog"))
    assert tells(close, "which stand for no class", fatal=True)


def test_colours_that_are_off_by_one_are_meant_and_others_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[5:20, 5:20], colours[5:20, 20:30] = (254, 1, 0), (255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "m.png")
    rows = truths(tmp_path, MaskFiles("m.png", {(255, 0, 0): "cat"}), ["a"])
    assert rows["mask"][0].read()[0, 5:20, 5:30].all() and rows["mask"][0].read().sum() == 15 * 25
    assert tells(rows, "are read as the nearest")
    colours[30:, 30:] = (200, 90, 0)
    Image.fromarray(colours).save(tmp_path / "n.png")
    assert tells(truths(tmp_path, MaskFiles("n.png", {(255, 0, 0): "cat"}), ["a"]), "stand for no class", fatal=True)


def test_a_mask_in_the_alpha_is_read_from_there(tmp_path: Path) -> None:
    mask = disc()
    for colour in (255, 0, 90):
        Image.fromarray(np.dstack([np.full_like(mask, colour)] * 3 + [mask])).save(tmp_path / f"m{colour}.png")
        rows = truths(tmp_path, MaskFiles(f"m{colour}.png"), ["a"])
        assert (rows["mask"][0].read()[0] == (mask > 0)).all()
        assert tells(rows, "alpha")
    Image.fromarray(np.dstack([mask, mask])).save(tmp_path / "both.png")  # grey with alpha, as cut-out tools write it
    assert (truths(tmp_path, MaskFiles("both.png"), ["a"])["mask"][0].read()[0] == (mask > 0)).all()
    for name, colour, alpha, whole in (("o", 0, 255, 0), ("t", 255, 0, 0), ("f", 255, 255, 1)):
        Image.fromarray(np.dstack([np.full_like(mask, colour)] * 3 + [np.full_like(mask, alpha)])).save(
            tmp_path / f"{name}.png"
        )
        assert (truths(tmp_path, MaskFiles(f"{name}.png"), ["a"])["mask"][0].read() == whole).all()


def test_colours_without_names_are_bright_or_not(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([disc(), disc() * 0, disc() * 0])).save(tmp_path / "m.png")
    assert (truths(tmp_path, MaskFiles("m.png"), ["a"])["mask"][0].read()[0] == (disc() > 0)).all()


def test_what_covers_everything_is_said(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), disc() // 255 + 1)  # numbered from 1: the background is 1
    assert tells(truths(tmp_path, MaskFiles("m.png"), ["a"]), "cat covers every pixel of the image")
    whole = f"1 {SIZE[0] * SIZE[1]}"
    assert tells(truths(tmp_path, RunLengths("rle"), ["a"], rle=[whole]), "cat covers every pixel of the image")
    twice = truths(tmp_path, RunLengths("rle"), ["a", "a"], rle=["5 9", "5 9"])
    assert tells(twice, "an RLE stands twice")


def test_masks_in_an_archive_are_not_absent(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), disc())
    with ZipFile(tmp_path / "masks.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    with pytest.raises(UserError, match=r"unpack masks\.zip"):
        truths(tmp_path, MaskFiles("masks.zip/{image_id}.png", may_be_absent=True), ["a", "b"])


def test_several_pages_are_no_mask(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", np.stack([disc()] * 2), photometric="minisblack")
    assert tells(truths(tmp_path, MaskFiles("m.tif"), ["a"]), "has 2 pages", fatal=True)


# Outlines


def square(a: float, b: float) -> list[list[float]]:
    return [[a, a], [b, a], [b, b], [a, b]]


def area(a: int, b: int) -> int:
    return (b - a + 1) ** 2


def outlined(data: Path, content: Any, ids: list[str], **more: Any) -> pd.DataFrame:
    (data / "m.json").write_text(json.dumps(content))
    return truths(data, Polygons("m.json", **more), ids)


def coco_file(names: list[str], annotations: list[dict[str, Any]], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": k, "file_name": name, **image} for k, name in enumerate(names)],
        "annotations": [{"id": k, "category_id": 1, **each} for k, each in enumerate(annotations)],
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.mark.parametrize("way", ["coordinates", "geometry", "multi", "features"])
def test_rings_of_geojson_after_the_first_are_holes(tmp_path: Path, way: str) -> None:
    rings = [square(5, 30), square(12, 20)]
    polygon = {"type": "Polygon", "coordinates": rings}
    content: Any = [{"class": "cat", "coordinates": rings}]
    if way == "geometry":
        content = [{"type": "Feature", "geometry": polygon, "properties": {"classification": {"name": "cat"}}}]
    elif way == "multi":
        content = [{"type": "MultiPolygon", "coordinates": [rings, [square(33, 36)]], "class": "cat"}]
    elif way == "features":
        features = [{"type": "Feature", "geometry": polygon, "properties": {"label": "cat"}}]
        content = {"type": "FeatureCollection", "features": features}
    truth = outlined(tmp_path, {"a": content}, ["a"])["mask"][0]
    plane = truth.read()[0]
    assert plane.sum() == area(5, 30) - area(13, 19) + (area(33, 36) if way == "multi" else 0)
    assert (
        not plane[13:20, 13:20].any() and plane[12, 12] and (truth.read((10, 8, 9, 9))[0] == plane[10:19, 8:17]).all()
    )
    assert all(plane[truth.foreground(np.random.default_rng(k))] for k in range(20))
    assert sum(one.sum() for one in truth.instances(0)) == plane.sum()


def test_polygons_of_a_coco_object_are_a_union(tmp_path: Path) -> None:
    flat = [[v for point in square(*ends) for v in point] for ends in ((5, 15), (20, 30), (7, 9))]
    rows = outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": flat}]), ["a"])
    assert rows["mask"][0].read().sum() == area(5, 15) + area(20, 30)
    assert tells(rows, "an outline lies within another one")


def test_run_lengths_of_coco_and_crowds(tmp_path: Path) -> None:
    mask = disc() > 0
    mask[15:20, 20:24] = False  # a hole
    mask[1, 1], mask[3, 2:9] = True, True
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel().astype(int), [0]])))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    counts = counts if sum(counts) == mask.size else counts[:-1]
    for each in ({"size": list(SIZE), "counts": packed["counts"].decode()}, {"size": list(SIZE), "counts": counts}):
        rows = outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": each}]), ["a"])
        assert (rows["mask"][0].read()[0] == mask).all()
        crowd = {"image_id": 0, "segmentation": each, "iscrowd": 1}
        rows = outlined(tmp_path, coco_file(["a.png"], [crowd], height=40, width=60), ["a"])
        assert (rows["mask"][0].read()[0] == np.where(mask, 255, 0)).all()
        with pytest.raises(UserError, match="and the image of"):
            outlined(tmp_path, coco_file(["a.png"], [crowd], height=60, width=40), ["a"])
    with pytest.raises(UserError, match="2399 pixels and a size of 40 x 60"):
        bad = {"size": list(SIZE), "counts": [2399]}
        outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": bad}]), ["a"])


def test_objects_without_an_area_are_read_as_nothing_and_said(tmp_path: Path) -> None:
    for points, words in (
        ([], "has no outline"),
        ([[]], "has no outline"),
        ([[5, 5]], "fewer than three points"),
        ([[5, 5, 9, 9]], "fewer than three points"),
        ([[100, 100, 120, 100, 120, 120]], "outside of the image"),
    ):
        rows = outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": points}]), ["a"])
        truth = rows["mask"][0]
        assert not truth.read().any() and not truth.present().any()
        assert truth.foreground(np.random.default_rng(0)) is None
        assert tells(rows, words)
    rows = outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "bbox": [1, 2, 3, 4]}]), ["a"])
    assert tells(rows, "has no outline")


def test_points_that_are_none(tmp_path: Path) -> None:
    for points in (
        [[1, 2, float("nan"), 4, 5, 6]],
        [[1, 2, 3]],
        [["x", "y", "z", "a"]],
        [[1, 2, 3, 4, 5, float("inf")]],
    ):
        with pytest.raises(UserError, match="outline of 'image 0'"):
            outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": points}]), ["a"])
    shares = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]
    rows = outlined(tmp_path, coco_file(["a.png"], [{"image_id": 0, "segmentation": shares}]), ["a"])
    assert tells(rows, "shares of width and height", fatal=True)
    rows = outlined(tmp_path, {"a": [{"class": "cat", "points": square(-9, 12)}]}, ["a"])
    assert rows["mask"][0].read().sum() == 13 * 13 and tells(rows, "leaves the image")


def test_rectangles_and_circles_of_labelme(tmp_path: Path) -> None:
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[5, 6], [15, 10]]},
        {"label": "cat", "shape_type": "circle", "points": [[40, 20], [48, 20]]},
        {"label": "cat", "shape_type": "line", "points": [[0, 0], [9, 39]]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 40, "imageWidth": 60}))
    rows = truths(tmp_path, Polygons("{image_id}.json"), ["a"])
    plane = rows["mask"][0].read()[0]
    assert plane[:, :20].sum() == 11 * 5 and abs(plane[:, 20:].sum() - np.pi * 8.5**2) < 20
    assert tells(rows, "is a line, which has no area")


def test_images_of_one_name_in_two_folders_have_their_own_outlines(tmp_path: Path) -> None:
    names = ["cam0/1", "cam1/1", "cam1/2"]
    flat = [[v for point in square(5, 6 + k) for v in point] for k in range(3)]
    notes = [{"image_id": k, "segmentation": [flat[k]]} for k in range(3)]
    for written in (
        names,
        [f"/home/me/{name}" for name in names],
        [f"train\\{name}".replace("/", "\\") for name in names],
    ):
        rows = outlined(tmp_path, coco_file([f"{name}.png" for name in written], notes), names)
        assert [truth.read().sum() for truth in rows["mask"]] == [area(5, 6), area(5, 7), area(5, 8)]
    rows = outlined(tmp_path, coco_file([f"{name}.png" for name in names[1:]], notes[:2]), names)
    assert [truth.read().sum() for truth in rows["mask"]] == [0, area(5, 6), area(5, 7)]
    assert tells(rows, "does not name the image, which is read as empty")
    with pytest.raises(UserError, match="could be that of 'cam0/1'"):
        outlined(tmp_path, coco_file(["1.png", "1.png", "2.png"], notes), names)
    with pytest.raises(UserError, match="could be those of 'cam0/1' and of 'cam1/1'"):
        outlined(tmp_path, {"1": [{"class": "cat", "points": square(5, 9)}], "2": []}, names)


def test_coco_files_that_contradict_themselves(tmp_path: Path) -> None:
    flat = [v for point in square(5, 9) for v in point]
    note = {"image_id": 0, "segmentation": [flat]}
    twice = coco_file(["a.png", "b.png"], [note])
    twice["images"][1]["id"] = 0
    with pytest.raises(UserError, match="named twice"):
        outlined(tmp_path, twice, ["a", "b"])
    with pytest.raises(UserError, match="not among its images"):
        outlined(tmp_path, coco_file(["a.png"], [{**note, "image_id": 4}]), ["a"])
    with pytest.raises(UserError, match="of the class '7'"):
        outlined(tmp_path, coco_file(["a.png"], [{**note, "category_id": 7}]), ["a"])
    rows = outlined(tmp_path, coco_file(["a.png"], [note], height=80, width=120), ["a"])
    assert tells(rows, "an image of 80 x 120 pixels (height x width), and the file has 40 x 60", fatal=True)
    assert tells(outlined(tmp_path, coco_file(["a.png"], [note, note]), ["a"]), "an outline stands twice")


# Images that EXIF turns


def test_sizes_of_coco_tell_which_way_outlines_lie(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png", SIZE, 6)
    flat = [v for point in square(5, 9) for v in point]
    note = [{"image_id": 0, "segmentation": [flat]}]
    for height, width, turn in ((40, 60, 6), (60, 40, 1)):
        rows = outlined(tmp_path, coco_file(["a.png"], note, height=height, width=width), ["a"])
        (truth,) = rows["mask"]
        header = known_header(tmp_path / "train/a.png")
        assert truth.size == (height, width) and truth.turn(header) == turn and said(rows) == {}
    rows = outlined(tmp_path, coco_file(["a.png"], note), ["a"])
    assert tells(rows, "turned by their EXIF orientation")
    assert said(outlined(tmp_path, coco_file(["a.png"], note), ["a"], frame="stored")) == {}


@pytest.mark.parametrize(("size", "orientation"), [((40, 40), 6), ((40, 60), 3)])
def test_what_no_size_tells_is_said(tmp_path: Path, size: tuple[int, int], orientation: int) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"train/{name}.png", size, orientation)
        cv2.imwrite(str(tmp_path / f"{name}.png"), disc(8, size))
    assert tells(truths(tmp_path, MaskFiles("{image_id}.png"), ["a", "b"]), "frame='seen' or frame='stored'")
    for frame in ("seen", "stored"):
        assert said(truths(tmp_path, MaskFiles("{image_id}.png", frame=frame), ["a", "b"])) == {}  # type: ignore[arg-type]
    image(tmp_path / "train/c.png", SIZE, 8)
    cv2.imwrite(str(tmp_path / "c.png"), disc())  # as it is stored, and so most probably the others
    image(tmp_path / "train/d.png", SIZE, 1)
    cv2.imwrite(str(tmp_path / "d.png"), disc())
    rows = truths(tmp_path, MaskFiles("{image_id}.png"), ["a", "b", "c", "d"])
    assert tells(rows, "the size says that they lie as the image is stored", fatal=True)


def test_the_outlines_of_rle_tell_which_way_it_lies(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png", SIZE, 6)
    text = rle.encode(disc() > 0)
    assert tells(truths(tmp_path, RunLengths("rle"), ["a"], rle=[text]), "read as it is stored", fatal=True)
    stored = truths(tmp_path, RunLengths("rle", frame="stored"), ["a"], rle=[text])
    assert said(stored) == {} and stored["mask"][0].size == SIZE
    assert (stored["mask"][0].read()[0] == (disc() > 0)).all()
    text = rle.encode(turned(disc() > 0, 6))
    assert said(truths(tmp_path, RunLengths("rle"), ["a"], rle=[text])) == {}


def test_a_mask_with_exif_of_its_own_is_turned_by_it(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png", SIZE, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(disc()).save(tmp_path / "m.png", exif=exif)
    (truth,) = truths(tmp_path, MaskFiles("m.png"), ["a"])["mask"]
    header = known_header(tmp_path / "train/a.png")
    assert truth.size == (60, 40) and truth.turn(header) == 1
    assert (truth.read()[0] == turned(disc() > 0, 6)).all()


def test_a_project_of_turned_photos(renders: Renders, tmp_path: Path) -> None:
    """From photos and masks as they are stored to what the model sees, and test images alike."""
    answers = {"train_images": "train/{image_id}.jpg", "test_images": "test/{image_id}.jpg", "trackers": []}
    project = renders.copy(tmp_path / "project", {"task": "segmentation", **answers})
    data, ids = project / "data/raw", [f"{k:02d}" for k in range(8)]
    for folder in ("train", "test", "masks"):
        (data / folder).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for k, name in enumerate(ids):
        mask = disc(8, at=(12 + 4 * k, 14 + k))
        for folder in ("train", "test"):
            Image.fromarray(np.dstack([mask] * 3)).save(data / folder / f"{name}.jpg", exif=exif, quality=95)
        cv2.imwrite(str(data / "masks" / f"{name}.png"), mask)
    pd.DataFrame({"image_id": ids}).to_csv(data / "train.csv", index=False)
    pd.DataFrame({"image_id": ids, "rle": ""}).to_csv(data / "sample_submission.csv", index=False)
    targets = project / "src/competition/targets.py"
    text = targets.read_text().replace('CLASSES = ("light", "dark")', 'CLASSES = ("disc",)')
    targets.write_text(text.replace('RunLengths("rle", classes="class")', 'MaskFiles("masks/{image_id}.png")', 1))
    small = "image: {size: [60, 40]}\ntask: {params: {view: whole}}\nmachine: {workers: 0}\n"
    (project / "experiments/small.yaml").write_text(f"description: small\n{small}")
    for script in (["check_data.py"], ["make_folds.py", "--n-folds", "2"]):
        expect(run_script(project, *script))
    with imported(project):
        from competition import competition  # type: ignore[import-not-found]
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training.setup import prepare

        place = Project.at(project)
        setup = prepare(place, competition, "small", load_experiment(place, "small"))
        for stage, rows in (("valid", setup.folds.rows), ("test", competition.test_rows(data))):
            made = setup.task.dataset(rows, data, setup.config, setup.names, stage)
            for k in range(len(made)):
                sample = made[(0, k)]
                assert sample["input_window"].tolist() == [60, 40, 0, 0, 60, 40, 0, 1, 6]
                if stage == "valid":
                    assert dice(sample["target_mask"][0] == 1, sample["input_image"][..., 0] > 127) > 0.97


def test_areas_are_those_of_the_planes(tmp_path: Path) -> None:
    """Of runs that overlap or stand in any order, and of outlines and files."""
    image(tmp_path / "train/a.png")
    cv2.imwrite(str(tmp_path / "a.png"), disc())
    (tmp_path / "m.json").write_text(json.dumps({"a": [{"class": "cat", "points": square(-5, 12)}]}))
    for form, columns in (
        (RunLengths("rle"), {"rle": ["30 9 5 4 32 3 37 10 2399 2"]}),
        (RunLengths("rle", order="row"), {"rle": [""]}),
        (MaskFiles("a.png"), {}),
        (Polygons("m.json"), {}),
    ):
        (truth,) = truths(tmp_path, form, ["a"], **columns)["mask"]
        assert truth.areas().tolist() == (truth.read() == 1).sum(axis=(1, 2)).tolist()
