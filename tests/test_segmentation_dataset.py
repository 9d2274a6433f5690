"""Windows of images and masks, pixel by pixel."""

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image as PilImage

from pipeline.competition import Head
from pipeline.data.augment import resize
from pipeline.tasks.segmentation import sources
from pipeline.tasks.segmentation.blending import Blender
from pipeline.tasks.segmentation.dataset import MaskDataset
from pipeline.tasks.segmentation.mask_files import FileTruth
from pipeline.tasks.segmentation.windows import SegmentationSettings, Window, starts, windows
from toolkit.errors import UserError
from toolkit.images.pixels import turned
from toolkit.images.readers import image as read_image
from toolkit.masks import maps

HEAD = Head("mask", "mask", ("a", "b"))


class Planes:
    """A truth that is held in memory."""

    def __init__(self, planes: np.ndarray) -> None:
        self.planes, self.size = planes, planes.shape[1:]

    def read(self, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        top, left, height, width = window or (0, 0, *self.size)
        found = np.full((len(self.planes), height, width), 255, np.uint8)
        for row in range(height):
            for column in range(width):
                if 0 <= top + row < self.size[0] and 0 <= left + column < self.size[1]:
                    found[:, row, column] = self.planes[:, top + row, left + column]
        return found

    def foreground(self, draw: np.random.Generator) -> tuple[int, int] | None:
        found = np.argwhere((self.planes == 1).any(axis=0))
        return tuple(found[draw.integers(len(found))]) if len(found) else None


def data(root: Path, *sizes: tuple[int, int], suffix: str = "png") -> pd.DataFrame:
    """Images whose red is the row, whose green is the column, with masks that say the same: class a where red is odd,
    b where green is a multiple of three."""
    rows = []
    for k, (height, width) in enumerate(sizes):
        row, column = np.mgrid[:height, :width].astype(np.uint8)
        pixels = np.dstack([row, column, np.full_like(row, k)])
        cv2.imwrite(str(root / f"{k}.{suffix}"), pixels[:, :, ::-1])
        truth = Planes(np.stack([row % 2, column % 3 == 0]).astype(np.uint8))
        rows.append({"id": f"i{k}", "image": f"{k}.{suffix}", "weight": 0.5 + k, "mask": truth})
    return pd.DataFrame(rows)


def dataset(
    root: Path, rows: pd.DataFrame, size: tuple[int, int], stage: str, seed: int = 0, **more: Any
) -> MaskDataset:
    head, augmentations = more.pop("head", HEAD), more.pop("augmentations", resize(stage, size))
    reader = more.pop("reader", partial(read_image, channels=3))
    usual = more.pop("usual", lambda: None)
    settings = SegmentationSettings(**more)
    return MaskDataset(rows, root, reader, augmentations, size, settings, [head], stage, seed, usual)


def check(sample: dict[str, Any], index: int, size: tuple[int, int]) -> None:
    """At scale 1 every pixel of image and target is where the window says."""
    window = Window.of(sample["input_window"])
    assert window.size == size
    inside = 0
    for row in range(window.height):
        for column in range(window.width):
            y, x = window.top + row, window.left + column
            if 0 <= y < size[0] and 0 <= x < size[1]:
                inside += 1
                np.testing.assert_array_equal(sample["input_image"][row, column], [y, x, index])
                np.testing.assert_array_equal(sample["target_mask"][:, row, column], [y % 2, x % 3 == 0])
            else:
                np.testing.assert_array_equal(sample["target_mask"][:, row, column], 255)
                mirrored = [
                    -1 - y if y < 0 else min(y, 2 * size[0] - 1 - y),
                    -1 - x if x < 0 else min(x, 2 * size[1] - 1 - x),
                ]
                np.testing.assert_array_equal(sample["input_image"][row, column], [*mirrored, index])
    assert inside == min(size[0], window.height) * min(size[1], window.width)


def test_tiles_show_the_image_pixel_by_pixel(tmp_path: Path) -> None:
    sizes = [(50, 41), (20, 60), (10, 7)]  # several tiles, a side smaller than a tile, both
    made = dataset(tmp_path, data(tmp_path, *sizes), (16, 12), "valid")
    seen = {k: np.zeros(size, int) for k, size in enumerate(sizes)}
    order = []
    for position in range(len(made)):
        sample = made[0, position]
        row, window = int(sample["input_row"]), Window.of(sample["input_window"])
        check(sample, row, sizes[row])
        assert sample["input_id"] == f"i{row}"
        assert sample["input_weight"] == 0.5 + row
        top, left, height, width = window.inside
        seen[row][top : top + height, left : left + width] += 1
        order.append((row, window.number, window.count))
    assert order == sorted(order)
    for row in range(3):
        assert seen[row].min() >= 1
        assert [number for k, number, _ in order if k == row] == list(range(next(n for k, _, n in order if k == row)))


@pytest.mark.parametrize("view", ["crops", "whole"])
def test_images_that_are_read_by_their_row(tmp_path: Path, view: str) -> None:
    """All rows have one path, which is no image file; windows, sizes and pictures are those of their rows."""
    sizes = [(50, 41), (20, 60), (50, 41)]
    rows = data(tmp_path, *sizes).assign(image="records")
    stored = [tmp_path / f"{k}.png" for k in range(3)]

    def reader(path: Path, size: Any, row: Mapping[str, Any]) -> np.ndarray:
        assert path == tmp_path / "records"
        return read_image(stored[int(row["id"][1:])], None)

    made = dataset(tmp_path, rows, (16, 12), "valid", reader=reader, view=view)
    for position in range(len(made)):
        sample = made[0, position]
        index = int(sample["input_row"])
        if view == "crops":
            check(sample, index, sizes[index])
        assert sample["input_image"][0, 0, 2] == index
    assert [made.picture(row)[0, 0, 2] for row in range(3)] == [0, 1, 2]
    asked = dataset(tmp_path, rows.drop(columns="mask"), (16, 12), "test", reader=reader, view=view)
    assert {
        (int(asked[0, k]["input_row"]), Window.of(asked[0, k]["input_window"]).size) for k in range(len(asked))
    } == {*enumerate(sizes)}


def test_neighbours_share_the_overlap() -> None:
    for length in (17, 64, 1000, 12345):
        for overlap in (0.0, 0.25, 0.5):
            found = starts(length, 16, overlap)
            assert found[0] == 0
            assert found[-1] == length - 16
            assert max(b - a for a, b in itertools.pairwise(found)) <= 16 * (1 - overlap)


def test_training_crops_lie_on_the_pixels_they_say(tmp_path: Path) -> None:
    sizes = [(50, 41), (10, 7)]
    made = dataset(tmp_path, data(tmp_path, *sizes), (16, 12), "train")
    assert len(made) == 2
    places = set()
    for epoch in range(12):
        for row in range(2):
            sample = made[epoch, row]
            check(sample, row, sizes[row])
            places.add(tuple(sample["input_window"]))
    assert len(places) > 8
    again = dataset(tmp_path, data(tmp_path, *sizes), (16, 12), "train")
    np.testing.assert_array_equal(again[5, 0]["input_image"], made[5, 0]["input_image"])
    other = dataset(tmp_path, data(tmp_path, *sizes), (16, 12), "train", seed=1)
    assert any((other[epoch, 0]["input_window"] != made[epoch, 0]["input_window"]).any() for epoch in range(4))


def test_a_slide_that_is_shown_again_is_seen_elsewhere(tmp_path: Path) -> None:
    rows = data(tmp_path, (200, 200), (150, 180))
    made, fixed = (dataset(tmp_path, rows, (16, 16), "train", fixed_crops=is_fixed) for is_fixed in (False, True))
    for row in range(2):
        assert len({tuple(made[0, row, turn]["input_window"]) for turn in range(20)}) == 20
        assert len({tuple(fixed[epoch, row, turn]["input_window"]) for epoch in range(3) for turn in range(5)}) == 1


def test_half_the_crops_are_centred_on_a_class(tmp_path: Path) -> None:
    rows = data(tmp_path, (200, 200))
    rows["mask"][0].planes[:] = 0
    rows["mask"][0].planes[1, 150, 30] = 1
    shares = []
    for foreground in (0.0, 0.5, 1.0):
        made = dataset(tmp_path, rows, (16, 16), "train", foreground=foreground)
        shares.append(np.mean([(made[epoch, 0]["target_mask"] == 1).any() for epoch in range(60)]))
    assert shares[0] < 0.1
    assert 0.3 < shares[1] < 0.7
    assert shares[2] == 1
    rows["mask"][0].planes[:] = 0
    assert (dataset(tmp_path, rows, (16, 16), "train", foreground=1.0)[0, 0]["target_mask"] == 0).all()


def test_scale_quarters_the_image(tmp_path: Path) -> None:
    """Blocks of 4 x 4 equal pixels are one pixel at scale 0.25."""
    row, column = np.mgrid[:32, :48].astype(np.uint8)
    small = np.dstack([row, column, row])
    cv2.imwrite(str(tmp_path / "a.png"), small.repeat(4, 0).repeat(4, 1)[:, :, ::-1])
    truth = Planes(np.stack([row % 2, column % 3 == 0]).astype(np.uint8).repeat(4, 1).repeat(4, 2))
    rows = pd.DataFrame([{"id": "a", "image": "a.png", "mask": truth}])
    made = dataset(tmp_path, rows, (16, 12), "valid", scale=0.25, overlap=0.0)
    assert len(made) == 2 * 4
    for position in range(8):
        sample = made[0, position]
        assert list(sample["input_window"][4:6]) == [64, 48]
        top, left = sample["input_window"][2:4] // 4
        np.testing.assert_array_equal(sample["input_image"], small[top : top + 16, left : left + 12])
        np.testing.assert_array_equal(sample["target_mask"][0], row[top : top + 16, left : left + 12] % 2)


def test_the_whole_image_is_resized(tmp_path: Path) -> None:
    rows = data(tmp_path, (40, 60))
    for stage in ("train", "valid"):
        sample = dataset(tmp_path, rows, (20, 12), stage, view="whole")[0, 0]
        np.testing.assert_array_equal(sample["input_window"], [40, 60, 0, 0, 40, 60, 0, 1, 1])
        assert sample["input_image"].shape == (20, 12, 3)
        assert sample["target_mask"].shape == (2, 20, 12)
        assert abs(sample["input_image"][5, 6, 0].astype(int) - 10.5) <= 1


def test_labels_of_pixels(tmp_path: Path) -> None:
    rows = data(tmp_path, (16, 12))
    rows["mask"][0].planes[:] = 0
    rows["mask"][0].planes[0, 3, 4] = rows["mask"][0].planes[1, 5, 6] = 1
    rows["mask"][0].planes[1, 7, 8] = 255
    sample = dataset(tmp_path, rows, (16, 12), "valid", head=Head("mask", "multiclass_mask", ("a", "b")))[0, 0]
    assert sample["target_mask"].dtype == np.uint8
    wanted = np.zeros((16, 12))
    wanted[3, 4], wanted[5, 6], wanted[7, 8] = 1, 2, 255
    np.testing.assert_array_equal(sample["target_mask"], wanted)


def test_augmentations_move_image_and_masks_together(tmp_path: Path) -> None:
    rows = data(tmp_path, (40, 40))
    flips = A.Compose([A.D4(p=1)])
    made = dataset(tmp_path, rows, (40, 40), "train", augmentations=flips, view="whole")
    moved = 0
    for epoch in range(8):
        sample = made[epoch, 0]
        moved += sample["input_image"][0, 0, 0] != 0
        np.testing.assert_array_equal(sample["target_mask"][0], sample["input_image"][:, :, 0] % 2)
        np.testing.assert_array_equal(sample["target_mask"][1], sample["input_image"][:, :, 1] % 3 == 0)
    assert moved
    shrunk = dataset(tmp_path, rows, (40, 40), "train", augmentations=A.Compose([A.CenterCrop(8, 8)]))
    with pytest.raises(UserError, match="8x8"):
        shrunk[0, 0]


def test_test_rows_need_no_truth(tmp_path: Path) -> None:
    """Sizes come from the header of a png, from the pixels of a bmp, and from that of a jpg."""
    data(tmp_path, (30, 20))
    for suffix in ("bmp", "jpg"):
        cv2.imwrite(str(tmp_path / f"0.{suffix}"), np.zeros((30, 20, 3), np.uint8))
    rows = pd.DataFrame({"id": list("abc"), "image": ["0.png", "0.bmp", "0.jpg"]})
    made = dataset(tmp_path, rows, (16, 16), "test")
    assert len(made) == 3 * len(windows((30, 20), (16, 16), SegmentationSettings()))
    sample = made[0, 0]
    assert "target_mask" not in sample
    assert list(sample["input_window"][:2]) == [30, 20]


def test_a_row_without_truth_is_ignored(tmp_path: Path) -> None:
    rows = data(tmp_path, (16, 12), (16, 12))
    rows["mask"] = [rows["mask"][0], None]
    assert (dataset(tmp_path, rows, (16, 12), "valid")[0, 1]["target_mask"] == 255).all()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_large_tif_is_read_by_window(
    tmp_path: Path, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LARGE", 1000)
    rows = data(tmp_path, (90, 70), suffix="tif")
    pixels = tifffile.imread(tmp_path / "0.tif")
    tifffile.imwrite(tmp_path / "0.tif", pixels, photometric="rgb", tile=(16, 16), compression=compression)
    made = dataset(tmp_path, rows, (16, 12), "valid")
    monkeypatch.setattr(made.reader, "_whole", None)
    assert len(made) > 30
    for position in (0, 7, len(made) - 1):
        check(made[0, position], 0, (90, 70))


def test_faults_name_row_and_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data(tmp_path, (30, 20), (20, 30))
    rows["image"] = ["0.png", "0.png"]
    for view in ("crops", "whole"):
        with pytest.raises(UserError, match=r"row 1 \(id i1\): the image has 30x20 pixels and its mask 20x30"):
            dataset(tmp_path, rows, (8, 8), "train", view=view)[0, 1]
    rows["image"] = ["0.png", "none.png"]
    with pytest.raises(UserError, match=r"row 1 \(id i1\): there is no image"):
        dataset(tmp_path, rows, (8, 8), "train")[0, 1]
    with pytest.raises(UserError, match=r"row 1 \(id i1\): there is no image"):
        dataset(tmp_path, rows.drop(columns="mask"), (8, 8), "test")
    with pytest.raises(UserError, match="no column 'mask'"):
        dataset(tmp_path, rows.drop(columns="mask"), (8, 8), "train")
    with pytest.raises(UserError, match="2 planes, and head 'mask' 1 classes"):
        dataset(tmp_path, rows, (8, 8), "train", head=Head("mask", "mask", ("a",)))[0, 0]
    monkeypatch.setattr(sources, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"row 0 \(id i0\): this part of the image takes"):
        dataset(tmp_path, rows, (8, 8), "train")[0, 0]


def turned_photos(
    folder: Path, size: tuple[int, int], orientation: int, frame: str, suffix: str
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Bright boxes on dark, whose EXIF turns them, with mask files in that frame; and the boxes as the photos are
    seen."""
    exif, seen, truths = PilImage.Exif(), [], []
    exif[0x0112] = orientation
    for number in range(3):
        stored = np.zeros(size, np.uint8)
        stored[3 + number : 12, 5 : 20 - number] = 255
        photo = PilImage.fromarray(np.dstack([stored] * 3))
        if suffix == ".tif":
            tags = [(274, 3, 1, orientation, True)]
            tifffile.imwrite(folder / f"{number}.tif", np.asarray(photo), photometric="rgb", extratags=tags)
        else:
            photo.save(folder / f"{number}{suffix}", exif=exif)
        seen.append(turned(stored, orientation))
        cv2.imwrite(str(folder / f"m{number}.png"), stored if frame == "stored" else seen[-1])
        files = (folder / f"m{number}.png",)
        given = "stored" if size[0] == size[1] or orientation < 5 else None
        truths.append(
            FileTruth(("cat",), folder / f"{number}{suffix}", files, frame=given if frame == "stored" else None)
        )
    table = {"id": [f"i{k}" for k in range(3)], "image": [f"{k}{suffix}" for k in range(3)]}
    return pd.DataFrame({**table, "mask": pd.Series(truths, dtype=object)}), seen


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("frame", ["seen", "stored"])
@pytest.mark.parametrize(("size", "orientation"), [((24, 32), 6), ((24, 32), 7), ((24, 32), 3), ((32, 32), 8)])
def test_masks_lie_on_photos_that_are_turned(
    tmp_path: Path, size: tuple[int, int], orientation: int, frame: str, suffix: str
) -> None:
    """In samples, in crops, in pictures, and, as the competition has them, in predictions."""
    rows, seen = turned_photos(tmp_path, size, orientation, frame, suffix)
    head = Head("mask", "mask", ("cat",))
    for view, shape in (("whole", seen[0].shape), ("crops", (16, 16))):
        made = dataset(tmp_path, rows, shape, "valid", view=view, head=head)
        blender = Blender([head], SegmentationSettings(view=view, overlap=0.0))
        for position in range(len(made)):
            sample = made[(0, position)]
            bright = sample["input_image"][..., 0] > 127
            known = sample["target_mask"][0] != 255
            assert ((sample["target_mask"][0] == 1) == bright)[known].mean() > 0.97
            logits = torch.where(torch.tensor(bright), 20.0, -20.0)[None, None]
            batch = {"input_id": [sample["input_id"]], "input_window": torch.tensor(sample["input_window"][None])}
            table = blender(batch, {head.output_key: logits})
            for name in table.index:
                row = int(name[1:])
                found = maps.at_image_size(table.loc[name, "mask_cat"]) > 127
                truth = rows["mask"][row].read()[0] == 1
                assert found.shape == truth.shape and (found == truth).mean() > 0.97
                if view == "whole":
                    assert ((made.picture(row)[..., 0] > 127) == truth).mean() > 0.97
        train = dataset(tmp_path, rows, shape, "train", view=view, foreground=1.0, head=head)
        for turn in range(6):
            sample = train[(0, 0, turn)]
            known = sample["target_mask"][0] != 255
            assert (sample["target_mask"][0] == 1).any()
            assert ((sample["target_mask"][0] == 1) == (sample["input_image"][..., 0] > 127))[known].mean() > 0.97
    test = dataset(tmp_path, rows.drop(columns="mask"), (32, 32), "test", view="whole", usual=lambda: frame)
    assert {Window.of(test[(0, k)]["input_window"]).turn for k in range(3)} == {orientation if frame == "stored" else 1}
