"""Masks in every form that competitions give them: whole, by window, by object, one row per image."""

import importlib
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from pipeline.data.samplers import balanced
from pipeline.data.tables import read_table
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import Form, MaskFiles, RunLengths
from pipeline.tasks.segmentation.labels import MaskLabels
from pipeline.tasks.segmentation.outlines import Polygons
from pipeline.tasks.segmentation.tables import every_image, mask_rows, rows_to_predict, with_truth
from pipeline.tasks.segmentation.truth import RunTruth
from toolkit.errors import UserError
from toolkit.masks.sizes import known_header

CLASSES = ("cat", "dog")
SIZES = {"a": (20, 31), "b": (33, 18), "c": (12, 12)}  # c has no mask
WINDOWS = [(0, 0, 8, 8), (5, 7, 9, 10), (-3, -4, 12, 9), (8, 8, 60, 60), (100, 100, 4, 4)]


def settings(**changed: object) -> Settings:
    values = {
        "competition": "x",
        "task": "segmentation",
        "metric": "dice",
        "target_columns": ("mask",),
        "train_images": "train/{image_id}.png",
        "test_images": "test/{image_id}.png",
    }
    return Settings.model_validate({**values, **changed})


def made(data: Path) -> dict[str, np.ndarray]:
    """Images on the disk, and masks (2, H, W) that do not overlap."""
    random = np.random.default_rng(0)
    (data / "train").mkdir(parents=True)
    masks = {}
    for name, size in SIZES.items():
        cv2.imwrite(str(data / "train" / f"{name}.png"), np.zeros((*size, 3), np.uint8))
        kinds = cv2.resize(random.integers(0, 3, (4, 5)).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        masks[name] = np.stack([kinds == 1, kinds == 2]) & (name != "c")
    return masks


def usual(mask: np.ndarray, order: str = "column", first: int = 1) -> str:
    """RLE as notebooks write it."""
    flat = np.concatenate([[0], mask.flatten(order="F" if order == "column" else "C"), [0]]).astype(int)
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    edges[1::2] -= edges[::2]
    edges[::2] += first
    return " ".join(map(str, edges))


def agrees(rows: pd.DataFrame, masks: dict[str, np.ndarray]) -> None:
    assert rows["id"].tolist() == list(masks)
    for truth, mask in zip(rows["mask"], masks.values(), strict=True):
        assert truth.size == mask.shape[1:]
        assert truth.read().dtype == np.uint8 and (truth.read() == mask).all()
        assert truth.present().tolist() == mask.any(axis=(1, 2)).tolist()
        around = np.pad(mask.astype(np.uint8), ((0, 0), (200, 200), (200, 200)), constant_values=255)
        for top, left, height, width in WINDOWS:
            expected = around[:, 200 + top : 200 + top + height, 200 + left : 200 + left + width]
            assert (truth.read((top, left, height, width)) == expected).all()
        for draw in range(20):
            drawn = truth.foreground(np.random.default_rng(draw))
            assert mask[:, drawn[0], drawn[1]].any() if drawn else not mask.any()
        if mask[0].any():
            objects = list(truth.instances(0))
            assert (np.any(objects, axis=0) == mask[0]).all()


def read(data: Path, text: str, form: Form, classes: tuple[str, ...] = CLASSES, **changed: object) -> pd.DataFrame:
    (data / "train.csv").write_text(text)
    return mask_rows(read_table(data / "train.csv"), settings(**changed), form, classes, data)


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("first", [0, 1])
def test_rows_per_image_and_class(tmp_path: Path, order: str, first: int) -> None:
    masks = made(tmp_path)
    lines = [
        f"{name},{each},{usual(m, order, first)}"
        for name in masks
        for each, m in zip(CLASSES, masks[name], strict=True)
    ]
    form = RunLengths("rle", classes="class", order=order, first=first)  # type: ignore[arg-type]
    agrees(read(tmp_path, "\n".join(["image_id,class,rle", *lines]), form), masks)
    joined = [line.replace(",", "_", 1) for line in lines]
    form = RunLengths("rle", mark="_", order=order, first=first)  # type: ignore[arg-type]
    agrees(read(tmp_path, "\n".join(["image_id,rle", *joined]), form), masks)
    wide = [f"{name},{usual(m[0], order, first)},{usual(m[1], order, first) or '-'}" for name, m in masks.items()]
    form = RunLengths("rle_{class}", order=order, first=first)  # type: ignore[arg-type]
    agrees(read(tmp_path, "\n".join(["image_id,rle_cat,rle_dog", *wide]), form), masks)


def test_rows_per_object_and_images_without_any(tmp_path: Path) -> None:
    masks = {name: mask[:1] for name, mask in made(tmp_path).items()}
    lines, objects = [], {}
    for name, mask in masks.items():
        count, labels = cv2.connectedComponents(mask[0].astype(np.uint8))
        objects[name] = [labels == number for number in range(1, count)]
        lines += [f"{name},{usual(each)}" for each in objects[name]]
    (tmp_path / "train.csv").write_text("\n".join(["image_id,rle", *lines]))
    table = every_image(read_table(tmp_path / "train.csv"), settings(), "train/{image_id}.png", tmp_path)
    rows = mask_rows(table, settings(), RunLengths("rle"), ("cat",), tmp_path)
    agrees(rows, masks)
    for truth, expected in zip(rows["mask"], objects.values(), strict=True):
        found = list(truth.instances(0))
        assert len(found) == len(expected) and all(
            (one == other).all() for one, other in zip(found, expected, strict=True)
        )


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_mask_files(tmp_path: Path, ending: str) -> None:
    masks = made(tmp_path)
    for kind in ("values", "cat", "dog", "colours"):
        (tmp_path / kind).mkdir()
    for name, (cat, dog) in masks.items():
        values = (cat * 1000 + dog * 40000).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "values" / f"{name}.{ending}"), values)
        cv2.imwrite(str(tmp_path / "cat" / f"{name}.{ending}"), cat.astype(np.uint8) * 255)
        if dog.any():
            cv2.imwrite(str(tmp_path / "dog" / f"{name}.{ending}"), dog.astype(np.uint8))
        colours = np.zeros((*cat.shape, 3), np.uint8)
        colours[cat], colours[dog] = (255, 255, 255), (0, 0, 200)  # blue, green, red
        cv2.imwrite(str(tmp_path / "colours" / f"{name}.{ending}"), colours)
    table = "image_id\n" + "\n".join(masks)
    agrees(read(tmp_path, table, MaskFiles(f"values/{{image_id}}.{ending}", {1000: "cat", 40000: "dog"})), masks)
    agrees(read(tmp_path, table, MaskFiles(f"{{class}}/{{image_id}}.{ending}", may_be_absent=True)), masks)
    colours = MaskFiles(f"colours/{{image_id}}.{ending}", {(255, 255, 255): "cat", (200, 0, 0): "dog"})
    agrees(read(tmp_path, table, colours), masks)
    part = read(tmp_path, table, MaskFiles(f"values/{{image_id}}.{ending}", {1000: "cat"}, ignored=[40000]), ("cat",))
    assert (part["mask"][0].read()[0] == np.where(masks["a"][1], 255, masks["a"][0])).all()
    with pytest.raises(UserError, match=r"values 40000, which stand for no class"):
        read(tmp_path, table, MaskFiles(f"values/{{image_id}}.{ending}", {1000: "cat"}), ("cat",))["mask"][0].read()
    with pytest.raises(UserError, match="there is no mask"):
        read(tmp_path, table, MaskFiles(f"{{class}}/{{image_id}}.{ending}"))["mask"][2].read()
    cv2.imwrite(str(tmp_path / "train" / "a.png"), np.zeros((31, 20, 3), np.uint8))
    known_header.cache_clear()
    with pytest.raises(UserError, match="20 x 31 pixels, and its image 31 x 20"):
        read(tmp_path, table, colours)["mask"][0].read()


def test_polygons(tmp_path: Path) -> None:
    made(tmp_path)
    box = [[4, 3], [12, 3], [12, 9], [4, 9]]  # x, y
    expected = np.zeros((2, 20, 31), np.uint8)
    expected[1, 3:10, 4:13] = 1
    (tmp_path / "own.json").write_text(json.dumps({"a": [{"class": "dog", "points": box}]}))
    flat = [value for point in box for value in point]
    annotation = {"image_id": 7, "category_id": 2, "segmentation": [flat]}
    images, names = [{"id": 7, "file_name": "a.png"}], [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (tmp_path / "coco.json").write_text(
        json.dumps({"images": images, "annotations": [annotation], "categories": names})
    )
    for path in ("own.json", "coco.json"):
        rows = read(tmp_path, "image_id\na\nb\n", Polygons(path))
        truth = rows["mask"][0]
        assert (truth.read() == expected).all() and not rows["mask"][1].read().any()
        assert (truth.read((5, 8, 9, 9)) == expected[:, 5:14, 8:17]).all()
        # pycocotools counts a pixel whose centre is inside: the same but for a rim of one pixel.
        theirs = coco.decode(coco.merge(coco.frPyObjects([flat], 20, 31)))
        assert (
            0 <= int(truth.read()[1].sum()) - int(theirs.sum()) <= 2 * (8 + 6) and not (theirs > truth.read()[1]).any()
        )
        row, column = truth.foreground(np.random.default_rng(0))
        assert expected[1, row, column]
    with pytest.raises(UserError, match="is of the class 'dog', which is not in CLASSES"):
        read(tmp_path, "image_id\na\n", Polygons("own.json"), ("cat", "cow"))


def test_sizes_from_names_and_columns(tmp_path: Path) -> None:
    """Slices as in UW-Madison: 16 bit, three rows each, width and height in the name; no file is asked."""
    table = pd.DataFrame(
        {"id": ["s1"] * 3, "class": ["x", "y", "z"], "rle": [None, "1 2", None], "file": "case/slice_0001_31_20_1.50"}
    )
    given = settings(id_column="id", train_images="{file}.png")
    form = RunLengths("rle", classes="class", order="row")
    sized = mask_rows(table, given, form, ("x", "y", "z"), tmp_path, r"slice_\d+_(?P<width>\d+)_(?P<height>\d+)_")
    assert sized["mask"][0].size == (20, 31) and sized["mask"][0].read()[1, 0, :3].tolist() == [1, 1, 0]
    sized = mask_rows(table.assign(h="20", w="31"), given, form, ("x", "y", "z"), tmp_path, ("h", "w"))
    assert sized["mask"][0].size == (20, 31)
    with pytest.raises(UserError, match="does not fit the expression of its size"):
        mask_rows(
            table.assign(file="a"), given, form, ("x", "y", "z"), tmp_path, r"slice_\d+_(?P<width>\d+)_(?P<height>\d+)_"
        )


def test_a_huge_slide_is_never_decoded_whole(tmp_path: Path) -> None:
    """30,000 x 30,000 pixels: a window and a pixel cost no memory of that size."""
    import tracemalloc

    rows = pd.DataFrame({"id": ["s"], "image": ["s.tif"], "h": "30000", "w": "30000"})
    table = pd.DataFrame({"id": ["s"], "rle": ["900 5 450000001 40"]})
    given = settings()
    slide = with_truth(rows, table, given, RunLengths("rle"), ("cell",), tmp_path, ("h", "w"))["mask"][0]
    tracemalloc.start()
    part = slide.read((0, 14_990, 64, 64))
    row, column = slide.foreground(np.random.default_rng(1))
    assert slide.present().tolist() == [True] and tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert part[0, :40, 10].tolist() == [1] * 40 and part.sum() == 40
    assert (column == 0 and 899 <= row < 904) or (column == 15_000 and row < 40)


def test_truths_travel_to_workers() -> None:
    truth_type = importlib.import_module("pipeline.tasks.segmentation.truth").RunTruth  # other tests import it anew
    sent = truth_type(("cat",), (3, 4), (("2 3",),))
    assert sent.present().all()
    received = pickle.loads(pickle.dumps(sent))
    assert received.size == (3, 4) and (received.read() == sent.read()).all()


def test_unknown_classes_and_ids(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(UserError, match=r"of the class 'dgo'.* did you mean 'dog'"):
        read(tmp_path, "image_id,class,rle\na,dgo,1 2\n", RunLengths("rle", classes="class"))
    with pytest.raises(UserError, match="do not end in '_' and a class"):
        read(tmp_path, "image_id,rle\na_cow,1 2\n", RunLengths("rle", mark="_"))
    with pytest.raises(UserError, match="does not say which of 2 classes"):
        read(tmp_path, "image_id,rle\na,1 2\n", RunLengths("rle"))


def test_test_rows_and_folds(tmp_path: Path) -> None:
    masks = made(tmp_path)
    sample = pd.DataFrame({"image_id": ["a_cat", "a_dog", "b_cat", "b_dog"], "rle": ""})
    rows = rows_to_predict(sample, settings(), RunLengths("rle", mark="_"), CLASSES, tmp_path)
    assert rows["id"].tolist() == ["a", "b"] and rows["image"].tolist() == ["test/a.png", "test/b.png"]
    lines = [f"{name},{each},{usual(m)}" for name in masks for each, m in zip(CLASSES, masks[name], strict=True)]
    one = read(tmp_path, "\n".join(["image_id,class,rle", *lines]), RunLengths("rle", classes="class"))
    rows = pd.concat([one] * 10, ignore_index=True)
    labels = MaskLabels(("mask",), CLASSES)
    strata, notes = labels.strata(rows, 5)
    assert notes == [] and strata is not None
    expected = ["".join(map(str, truth.read().any(axis=(1, 2)))) for truth in rows["mask"]]
    assert (pd.factorize(strata)[0] == pd.factorize(np.array(expected))[0]).all()
    folds = [rows["id"].iloc[held].tolist() for _, held in labels.splitter(5, 0, False).split(rows, strata)]
    assert all(held.count("c") == 2 for held in folds)
    assert set(labels.cells(rows, "mask")) == set(CLASSES)


def test_rows_are_balanced_by_the_classes_in_them() -> None:
    truths = [
        RunTruth(CLASSES, (4, 4), runs) for runs in [((), ())] * 6 + [(("1 2",), ())] * 2 + [(("1 2",), ("5 1",))]
    ]
    rows = pd.DataFrame({"id": list("abcdefghi"), "mask": truths})
    drawn = balanced(rows, np.random.default_rng(0), column="mask", length=4.0)
    assert rows["mask"].map(str)[drawn].value_counts().to_dict() == {"nothing": 12, "cat": 12, "cat, dog": 12}
