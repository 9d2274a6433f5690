"""Files that are read and hold nothing, or less than they should; files of other formats; what is said of them."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
import yaml
from PIL import Image, ImageDraw

from pipeline.data.check_images import data_statistics, image_faults
from pipeline.data.faults import Fault
from pipeline.data.leaks import TEST
from pipeline.models.preprocess import Standardize
from test_formats import save as save_dicom
from test_unpacking import refusal as unpacking_refusal
from toolkit.audit.scan import Look, scan
from toolkit.errors import UserError
from toolkit.images.damage import damage
from toolkit.images.formats import dicom
from toolkit.images.readers import array, image

START = b"\xff\xda"  # of the compressed data of a JPEG


def photo(seed: int, size: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size + 40, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def drawing(seed: int, size: int = 1200) -> np.ndarray:
    """A page that is flat nearly everywhere: white, black or grey, with some lines."""
    page = Image.new("RGB", (size, size), ["white", "black", "#808080"][seed % 3])
    for x, y in np.random.default_rng(seed).integers(0, size - 60, (seed % 4, 2)).tolist():
        ImageDraw.Draw(page).rectangle((x, y, x + 50, y + 9), outline="red")
    return np.asarray(page)


def encoded(pixels: np.ndarray, form: str = "jpeg", **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def with_hole(data: bytes, begin: float, end: float, start: int = 0) -> bytes:
    """Zeros from one share of a file to another."""
    first, last = (start + int(share * (len(data) - start)) for share in (begin, end))
    last = min(last, len(data) - 2)
    return data[:first] + bytes(last - first) + data[last:]


def refusal(read: Callable[..., object], *arguments: object, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def faults(folder: Path, names: list[str], reader: Callable[..., np.ndarray] = image, test: int = 0) -> list[Fault]:
    """What is said of files; the last `test` of them are those of test rows."""
    rows = pd.DataFrame({"id": [name.partition(".")[0] for name in names], "image": names})
    rows["fold"] = [0] * (len(names) - test) + [TEST] * test
    looks = scan([folder / name for name in names], reader)
    return list(image_faults(rows, looks))


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}])
def test_holes_in_a_jpeg_are_found(optimize: bool, restart: dict[str, int]) -> None:
    for seed in range(3):
        data = encoded(photo(seed), quality=90 - 10 * seed, optimize=optimize, **restart)
        begin = data.find(START)
        for first, last in ((0.3, 0.5), (0.45, 1.0), (0.8, 0.95)):
            assert "zero bytes" in damage(with_hole(data, first, last, begin)), (seed, first, last)
        assert not damage(data)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_flat_pictures_are_no_holes(options: dict[str, int]) -> None:
    """Large flat areas are coded as runs of zero bits, too."""
    suspicious = 0
    for seed in range(6):
        pixels = drawing(seed) if seed % 2 else drawing(seed)[:, :, 0]
        data = encoded(pixels, quality=75 + seed, **options)
        suspicious += bytes(64) in data[data.find(START) :]
        assert not damage(data), (seed, options)
        assert not damage(data + bytes(4096)), "zero bytes behind the end of a file do no harm"
    assert suspicious or not options.get("optimize")


def test_a_thumbnail_and_padding_are_no_picture() -> None:
    """A thumbnail has an end marker of its own, headers are padded with zeros, and so are the data of some cameras."""
    exif = Image.Exif()
    exif[0x010E] = "padded" + "\0" * 500
    data = encoded(photo(0), exif=exif.tobytes() + bytes(1000) + encoded(photo(1, 40)))
    assert not damage(data)
    assert not damage(data[:-2] + bytes(600) + data[-2:])
    assert damage(with_hole(data, 0.5, 0.7))


def test_other_compressed_files_with_holes() -> None:
    for lossless in (False, True):
        data = encoded(photo(0), "webp", lossless=lossless, quality=90)
        assert not damage(data)
        assert damage(with_hole(data, 0.4, 0.7))
    for seed in range(6):
        assert not damage(encoded(drawing(seed), "webp", lossless=seed % 2 == 0))
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = encoded(photo(0), "tiff", compression=compression)
        assert not damage(data)
        assert damage(with_hole(data, 0.4, 0.6))
        assert not damage(encoded(drawing(1), "tiff", compression=compression))
    black = np.zeros((64, 64, 3), np.uint8)
    assert not damage(encoded(black, "bmp")) and not damage(encoded(black, "tiff"))


def test_damaged_images_are_named(tmp_path: Path) -> None:
    """One fault for each; a row that is asked for cannot be dropped."""
    names = [f"i{number}.jpg" for number in range(6)]
    for number, name in enumerate(names):
        data = encoded(photo(number), quality=92)
        (tmp_path / name).write_bytes(with_hole(data, 0.45, 1) if number in (1, 4, 5) else data)
    found = faults(tmp_path, names, test=1)
    assert [(fault.problem, fault.row, fault.fatal) for fault in found] == [
        ("damaged image", "i1", True),
        ("damaged image", "i4", True),
        ("damaged image", "i5", False),
    ]
    assert "i1.jpg" in found[0].detail and "drop its row" in found[0].detail and "drop" not in found[2].detail


def test_damage_that_decoders_refuse(tmp_path: Path) -> None:
    png = encoded(photo(0), "png")
    crc = png.find(b"IEND") - 8
    strips = BytesIO()
    tifffile.imwrite(strips, photo(0), rowsperstrip=16, photometric="rgb")
    whole = np.save(tmp_path / "a.npy", photo(0)) or (tmp_path / "a.npy").read_bytes()
    scanned = save_dicom(tmp_path / "a.dcm", np.zeros((64, 64), np.uint16)).read_bytes()
    for name, data in (
        ("crc.png", png[:crc] + bytes(4) + png[crc + 4 :]),
        ("hole.png", with_hole(png, 0.4, 0.6)),
        ("strips.tif", strips.getvalue()[: strips.tell() * 2 // 3]),
        ("cut.npy", whole[: len(whole) // 2]),
        ("cut.dcm", scanned[: len(scanned) // 2]),
        ("zeros.jpg", bytes(5000)),
    ):
        (tmp_path / name).write_bytes(data)
        [fault] = faults(tmp_path, [name])
        assert fault.fatal and name in fault.detail and "download it again" in fault.detail, fault


def npz() -> bytes:
    file = BytesIO()
    np.savez(file, a=np.zeros((4, 4), np.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "begins"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(40), "ftypheic"),
        ("a.npz", npz(), "PK"),
        ("a.npy", npz(), "PK"),
        ("a.png", b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z"),
        ("a.jpg", b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "<!DOCTYPE html>"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "https://git-lfs"),
        ("a.dcm", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "https://git-lfs"),
        ("a.jpg", b"nothing that is known", "nothing that is known"),
    ],
)
def test_a_file_that_is_no_image_is_named_and_shown(tmp_path: Path, name: str, data: bytes, begins: str) -> None:
    (tmp_path / name).write_bytes(data)
    said = refusal(image, tmp_path / name, None)
    assert name in said and "it begins with" in said and begins in said
    for remedy in ("download it again", "convert it", "reader of your own", "drop its row"):
        assert remedy in said


def test_arrays_of_objects_and_channels_first(tmp_path: Path) -> None:
    """What the message says, followed to the letter, reads the file."""
    objects = np.empty(2, object)
    objects[:] = [np.zeros((2, 2)), np.ones((2, 2))]
    np.save(tmp_path / "objects.npy", objects)
    assert "Object arrays" in refusal(image, tmp_path / "objects.npy", None)
    pixels = np.moveaxis(photo(0), 2, 0)
    np.save(tmp_path / "first.npy", pixels)
    said = refusal(image, tmp_path / "first.npy", None)
    assert "(3, 200, 240)" in said and "in_chans" not in said
    entry = yaml.safe_load(said[said.index("image: {") :])["image"]["reader"]
    assert entry["name"] == "array"
    np.testing.assert_array_equal(array(tmp_path / "first.npy", None, **entry["params"]), photo(0))
    tifffile.imwrite(tmp_path / "rows.tif", np.zeros((64, 48, 5), np.uint8), photometric="minisblack")  # 64 pages
    said = refusal(image, tmp_path / "rows.tif", None, channels=5)
    assert "in_chans" not in said and "np.moveaxis(array, 1, 2)" in said
    np.save(tmp_path / "many.npy", np.zeros((64, 48, 20), np.uint8))  # twenty channels are twenty channels
    assert "model.in_chans to 20" in refusal(image, tmp_path / "many.npy", None)


def test_dicom_by_any_name(tmp_path: Path) -> None:
    file = save_dicom(tmp_path / "a.dcm", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    assert pydicom.dcmread(file).Rows == 64
    for name in ("a.dicom", "a.DICOM", "1-001"):
        (tmp_path / name).write_bytes(file.read_bytes())
        np.testing.assert_array_equal(image(tmp_path / name, None), dicom(file, None))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("level", [0, 255, 90])
def test_pictures_that_are_all_in_the_alpha_channel(tmp_path: Path, mode: str, level: int) -> None:
    names = [f"i{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        alpha = Image.fromarray(cv2.cvtColor(photo(number, 40), cv2.COLOR_RGB2GRAY))
        ground = Image.new("L", alpha.size, level)
        if mode == "P":
            picture = alpha.point(lambda value: value > 127 and 1).convert("P")
            picture.putpalette([level] * 6)
            picture.save(tmp_path / name, transparency=bytes([0, 255]))
        else:
            Image.merge(mode, [*[ground] * (len(mode) - 1), alpha]).save(tmp_path / name)
    [fault] = faults(tmp_path, names)
    assert fault.problem == "picture in the alpha channel" and fault.fatal
    assert "channels and model.in_chans to 4" in fault.detail
    assert not faults(tmp_path, names, partial(image, channels=4))


def test_blank_images_and_images_that_are_all_the_same(tmp_path: Path) -> None:
    names = [f"i{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(np.full((30, 40, 3), 7 * number, np.uint8), "png"))
    [fault] = faults(tmp_path, names)  # and not a word of values that become white
    assert fault.problem == "blank images" and fault.fatal and "4 images" in fault.detail
    (tmp_path / "i3.png").write_bytes(encoded(photo(0, 30), "png"))
    [fault] = [fault for fault in faults(tmp_path, names) if fault.problem == "blank images"]
    assert not fault.fatal and fault.row == "i0, i1, i2"
    for number, name in enumerate(names):  # one picture in several files
        (tmp_path / name).write_bytes(encoded(photo(0), "png", compress_level=number))
    [fault] = faults(tmp_path, names)
    assert fault.problem == "one image" and fault.fatal and "image pattern" in fault.detail
    [fault] = faults(tmp_path, ["i0.png"] * 3)
    assert "ask for the row" in fault.detail
    (tmp_path / "i2.png").write_bytes(encoded(photo(1), "png"))
    assert not faults(tmp_path, names)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_no_share_of_white(tmp_path: Path) -> None:
    """A reader of one's own may give what it likes; without numbers nothing trains, and 0 to 255 is no 0 to 1."""
    names = [f"{number}.npy" for number in range(4)]
    for number, name in enumerate(names):
        pixels = photo(number, 30).astype(np.float32) / 255
        pixels[3, 4] = np.nan if number == 1 else pixels[3, 4]
        np.save(tmp_path / name, pixels * (200 if number == 2 else 1))
    found = faults(tmp_path, names, lambda path, size: np.load(path))
    assert [(fault.problem, fault.row, fault.fatal) for fault in found] == [
        ("no numbers", "1", True),
        ("values above 1", "2", False),
    ]


def test_the_statistics_of_the_data_are_a_line_of_an_experiment(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stacks = [random.random((20, 30, 5)) * [1, 0.5, 0.2, 1, 1] for _ in range(6)]
    for number, pixels in enumerate(stacks):
        np.save(tmp_path / f"{number}.npy", pixels.astype(np.float32))
    rows = pd.DataFrame({"id": list("abcdef"), "image": [f"{number}.npy" for number in range(6)]})
    rows["fold"] = [0, 0, 0, 0, 0, TEST]
    looks = scan([tmp_path / name for name in rows["image"]], array)
    entry = yaml.safe_load(data_statistics(rows, looks))["image"]["prepare"]
    seen = np.concatenate([pixels.reshape(-1, 5) for pixels in stacks[:5]])  # without the test row
    np.testing.assert_allclose(entry["params"]["mean"], seen.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(entry["params"]["std"], seen.std(axis=0), atol=1e-3)
    assert entry["name"] == "standardize"
    made = Standardize([0.5] * 5, [0.2] * 5, **entry["params"])
    import torch

    batch = torch.from_numpy(seen.astype(np.float32).reshape(5, 20, 30, 5))
    normalised = made({"input_image": batch})["input_image"]
    assert normalised.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert (normalised.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01
    assert "model.in_chans is 3" in refusal(Standardize, [0.5] * 3, [0.2] * 3, **entry["params"])
    (tmp_path / "a.png").write_bytes(encoded(photo(0), "png"))
    assert data_statistics(rows[:1], scan([tmp_path / "a.png"], image)) == ""
    grey = data_statistics(rows[:1], scan([tmp_path / "a.png"], partial(image, channels=1)))
    assert len(yaml.safe_load(grey)["image"]["prepare"]["params"]["mean"]) == 1
    assert data_statistics(rows[:1], [Look(fault="lost")]) == ""


def test_archives_that_are_no_zip_are_unpacked_by_hand(tmp_path: Path) -> None:
    (tmp_path / "train.7z").write_bytes(b"7z")
    said = refusal(image, tmp_path / "train/a.png", None)
    assert "there is no image" in said and "unpack train.7z: 7z" in said
    (tmp_path / "images.tar.gz").write_bytes(b"")
    assert "unpack images.tar.gz" in refusal(image, tmp_path / "images/a.png", None)
    said = unpacking_refusal(tmp_path)
    assert "there is no .zip archive" in said and "by hand, with 7z, unrar or tar: images.tar.gz, train.7z" in said
