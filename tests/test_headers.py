"""Every reader sees an image as its header says: turned alike, of one size, with the pages as channels."""

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from toolkit.errors import UserError
from toolkit.images import tif_windows
from toolkit.images.header import header_in, header_of
from toolkit.images.pixels import stored_box, turned, turned_back
from toolkit.images.readers import image
from toolkit.images.tif_windows import TifWindows

STORED = cv2.resize(np.random.default_rng(0).integers(0, 255, (3, 4, 3)).astype(np.uint8), (64, 48))  # (48, 64, 3)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def late_exif(path: Path, orientation: int) -> None:
    """A PNG whose EXIF stands behind the pixels, as some tools write it."""
    Image.fromarray(STORED).save(path, exif=exif(orientation))
    data = path.read_bytes()
    place = data.index(b"eXIf") - 4
    chunk = data[place : place + 12 + int.from_bytes(data[place : place + 4], "big")]
    end = data.rindex(b"IEND") - 4
    path.write_bytes(data[:place] + data[place + len(chunk) : end] + chunk + data[end:])


def write(path: Path, orientation: int) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, STORED, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    elif path.stem == "late":
        late_exif(path, orientation)
    else:
        Image.fromarray(STORED).save(path, exif=exif(orientation), **({} if path.suffix == ".png" else {"quality": 95}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "late.png", "a.webp", "a.tif"])
def test_all_channels_and_sizes_are_turned_alike(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    write(path, orientation)
    with Image.open(path) as file:
        seen = np.asarray((file if name == "late.png" else ImageOps.exif_transpose(file)).convert("RGB"))
    seen = turned(STORED, orientation) if name == "late.png" else seen  # Pillow looks for it in front only
    header = header_of(path)
    assert header is not None and header == header_in(path.read_bytes())
    assert (header.stored, header.size, header.orientation) == ((48, 64), seen.shape[:2], orientation)
    for channels in (1, 3, 4):
        read = image(path, None, channels=channels)
        grey = np.asarray(Image.fromarray(seen).convert("L"))[..., None]
        wanted = grey if channels == 1 else seen
        assert read.shape == (*seen.shape[:2], channels)
        assert np.abs(read[..., :3].astype(int) - wanted).mean() < 2
    if name == "a.jpg":
        small = image(path, (16, 16))
        assert small.shape == (seen.shape[0] // 2, seen.shape[1] // 2, 3)
        assert np.abs(small.astype(int) - cv2.resize(seen, small.shape[1::-1], interpolation=cv2.INTER_AREA)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_of_a_turned_tif_are_those_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    path, tags = tmp_path / "a.tif", [(274, 3, 1, orientation, True)]
    tifffile.imwrite(path, STORED, photometric="rgb", tile=(16, 32), compression="zlib", extratags=tags)
    whole = turned(STORED, orientation)
    assert (image(path, None, channels=3) == whole).all() and (image(path, None, channels=4)[..., :3] == whole).all()
    with TifWindows(path) as tif:
        assert tif.size == whole.shape[:2]
        assert (tif.read((5, 7, 20, 30)) == whole[5:25, 7:37]).all()
    monkeypatch.setattr(tif_windows, "LARGE", 0)
    small = image(path, (10, 10))
    assert small.shape == (whole.shape[0] // 4, whole.shape[1] // 4, 3)
    assert np.abs(small.astype(int) - cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_and_boxes_fit_together(orientation: int) -> None:
    seen = turned(STORED, orientation)
    assert (turned_back(seen, orientation) == STORED).all()
    top, left, height, width = stored_box((3, 5, 11, 7), seen.shape[:2], orientation)
    assert (turned(STORED[top : top + height, left : left + width], orientation) == seen[3:14, 5:12]).all()


def test_pages_of_a_tif_are_its_channels_however_many_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = np.moveaxis(STORED, 2, 0)
    tifffile.imwrite(path, pages, photometric="minisblack")
    header = header_of(path)
    assert header is not None and header.pages == 3
    assert (image(path, None, channels=3) == STORED).all()
    for wanted in (1, 4):
        with pytest.raises(UserError, match=f"has 3 channels, and {wanted} are wanted"):
            image(path, None, channels=wanted)
    tifffile.imwrite(path, np.stack([STORED, STORED]), photometric="rgb")
    with pytest.raises(UserError, match="write a reader of your own"):
        image(path, None, channels=3)
    with tifffile.TiffWriter(path) as writer:  # a preview is no channel
        writer.write(STORED, photometric="rgb")
        writer.write(STORED[::2, ::2], photometric="rgb")
    assert (image(path, None, channels=3) == STORED).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_that_are_stored_one_by_one(tmp_path: Path, dtype: type) -> None:
    pixels = STORED.astype(dtype) * (257 if dtype is np.uint16 else 1)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate")
    read = image(tmp_path / "a.tif", None)
    assert np.allclose(read * (1 if dtype is np.uint8 else 255), STORED, atol=0.01)


def test_grey_with_alpha_and_palettes_are_their_colours(tmp_path: Path) -> None:
    for mode in ("LA", "L", "P", "RGBA", "CMYK"):
        path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
        Image.fromarray(STORED).convert(mode).save(path, **({"quality": 95} if mode == "CMYK" else {}))
        with Image.open(path) as file:
            colours = np.asarray(file.convert("RGB"))
        for channels in (3, 4):
            read = image(path, None, channels=channels)
            assert np.abs(read[..., :3].astype(int) - colours).mean() < 2
            assert channels == 3 or (read[..., 3] == 255).all()


def test_headers_of_files_that_are_broken_or_unknown(tmp_path: Path) -> None:
    data = BytesIO()
    Image.fromarray(STORED).save(data, "JPEG", exif=b"Exif\0\0II*\0broken")
    assert header_in(data.getvalue()) is not None
    (tmp_path / "a.jpg").write_bytes(data.getvalue())
    assert image(tmp_path / "a.jpg", None).shape == (48, 64, 3)
    for junk in (b"<html>", b"II*\0junk", b"\x89PNG\r\n\x1a\nno", b"\xff\xd8\xff"):
        assert header_in(junk) is None
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 7)))
    header: Any = header_of(tmp_path / "a.npy")
    assert header.size == (5, 6)
