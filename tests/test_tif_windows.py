"""Windows of a tif are those of the whole image, in every layout that tifffile writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from toolkit.errors import UserError
from toolkit.images.tif_windows import TifWindows

PIXELS = np.random.default_rng(0).integers(0, 60000, (150, 217, 3)).astype(np.uint16)
WINDOWS = [(0, 0, 150, 217), (0, 0, 1, 1), (149, 216, 1, 1), (31, 60, 70, 100), (64, 64, 32, 32), (100, 0, 50, 217)]


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
        {"tile": (32, 64)},
        {"tile": (32, 64), "compression": "lzw"},
        {"tile": (32, 64), "compression": "zlib", "predictor": True, "byteorder": ">"},
        {"byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["rgb", "grey", "separate", "pages"])
def test_windows_are_parts_of_the_image(tmp_path: Path, layout: dict[str, Any], form: str) -> None:
    path = tmp_path / "a.tif"
    options = dict(layout)
    order = {"byteorder": options.pop("byteorder")} if "byteorder" in options else {}
    pixels, photometric = PIXELS, "rgb"
    if form == "grey":
        pixels, photometric = PIXELS[:, :, 0], "minisblack"
    elif form == "separate":
        pixels, options["planarconfig"] = np.moveaxis(PIXELS, 2, 0), "separate"
    elif form == "pages":
        pixels, photometric = np.moveaxis(PIXELS, 2, 0), "minisblack"
    with tifffile.TiffWriter(path, **order) as writer:
        writer.write(pixels, photometric=photometric, **options)
    whole = PIXELS[:, :, :1] if form == "grey" else PIXELS
    with TifWindows(path) as tif:
        assert tif.size == (150, 217)
        assert tif.bytes_per_pixel == 2 * whole.shape[2]
        for top, left, height, width in WINDOWS:
            part = tif.read((top, left, height, width))
            np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
            assert part.dtype == np.uint16


def test_jpeg_tiles(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(150), np.arange(217)).astype(np.uint8)[:, :, None] // np.array([1, 2, 3], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", tile=(64, 64), compression="jpeg")
    whole = tifffile.imread(tmp_path / "a.tif")
    with TifWindows(tmp_path / "a.tif") as tif:
        np.testing.assert_array_equal(tif.read((10, 50, 100, 90)), whole[10:110, 50:140])


def test_only_the_tiles_of_the_window_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", tile=(32, 32), compression="zlib")
    read: list[int] = []
    real = tifffile.FileHandle.read_segments

    def counted(self: Any, offsets: list[int], *arguments: Any, **more: Any) -> Any:
        read.append(len(offsets))
        return real(self, offsets, *arguments, **more)

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", counted)
    with TifWindows(tmp_path / "a.tif") as tif:
        tif.read((40, 40, 20, 20))
    assert read == [1]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0broken")
    with pytest.raises(UserError, match=r"cannot read .*a\.tif as tif"):
        TifWindows(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 3, 40, 40, 3), np.uint8), photometric="rgb")
    with pytest.raises(UserError, match="write a reader of your own"):
        TifWindows(tmp_path / "b.tif")
    with pytest.raises(UserError, match="there is no image"):
        TifWindows(tmp_path / "c.tif")
