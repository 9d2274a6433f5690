"""Formats that need a package of their own, which is installed where they are met: dcm, and tif of many channels."""

import importlib
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import UserError
from toolkit.files import ImageError, read_bytes, shown
from toolkit.images.pixels import Size, scaled, turned, with_channels

REMEDY = "download it again, or add what the reason says is missing to the group `competition` in pyproject.toml"


def unreadable(data: bytes, path: Path, what: str = "an image", why: object = "") -> UserError:
    """That a file cannot be read as what it should be; how it begins tells what it is instead (a page, an archive)."""
    reason = " ".join(f"{why}; it begins with {data[:40]!r}".split()).removeprefix("; ")
    return UserError(
        f"cannot read {shown(path)} as {what} ({reason}); download it again, convert it to png, jpg or npy, write a "
        "reader of your own, or drop its row in tables.py"
    )


def dicom(
    path: Path, size: Size | None, *, channels: int = 3, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Read a DICOM file with one frame, by pydicom.

    Stored values are rescaled by the file's slope and intercept (to Hounsfield units in a CT). Then the file's first
    window, or its VOI lookup table, decides what is black and white (DICOM PS3.3, C.11.2); without one, all values that
    can be stored. MONOCHROME1, where the lowest value is white, is inverted.

    Args:
        size: not used; the whole image is read.
        channels: 1 grey, 3 RGB; grey is repeated.
        low, high: rescaled values that become 0 and 1, instead of the file's window.

    Returns:
        (H, W, channels), float32 in [0, 1].

    Raises:
        UserError: the file is missing, cannot be decoded or holds several frames, or pydicom is not installed.
    """
    data = read_bytes(path)
    pydicom, pixels = require("pydicom", "dcm"), require("pydicom.pixels", "dcm")
    try:
        file = pydicom.dcmread(BytesIO(data))
        values, palette = file.pixel_array, file.PhotometricInterpretation == "PALETTE COLOR"
        colours = int(file.SamplesPerPixel) == 3
        frames = values.shape[0] if values.ndim != 2 + colours else 1
        if frames == 1 and palette:
            values = pixels.apply_color_lut(values, file)
        elif frames == 1 and not colours:
            values = _grey(file, values, pixels, low, high)[:, :, None]
    except Exception as error:  # pydicom raises whatever a broken file makes of it
        reason = f"{type(error).__name__}: {error}; {REMEDY}"
        raise unreadable(data, path, "dcm", reason) from error
    if frames != 1:
        raise UserError(f"{shown(path)} holds {frames} frames; write a reader of your own that chooses")
    values = with_channels(values, channels, path)
    return scaled(values, low, high, True, path) if palette or colours else values


def _grey(file: Any, stored: np.ndarray, pixels: Any, low: float | None, high: float | None) -> np.ndarray:
    """float32 (H, W) in [0, 1], 1 being white. A window of pydicom's is spread over all values that can be stored."""
    values, tables = pixels.apply_modality_lut(stored, file), ["ModalityLUTSequence"]
    if low is None and high is None:
        values, tables = pixels.apply_voi_lut(values, file), ["VOILUTSequence", *tables]
    table = next((file[name][0] for name in tables if file.get(name)), None)
    if table is not None:
        first, last = 0.0, 2.0 ** table.LUTDescriptor[2] - 1
    else:
        lowest = -(2 ** (int(file.BitsStored) - 1)) if int(file.PixelRepresentation) else 0
        first, last = map(float, pixels.apply_modality_lut(np.array([lowest, lowest + 2**file.BitsStored - 1]), file))
    first, last = (first if low is None else low), (last if high is None else high)
    grey: np.ndarray = np.clip((values.astype(np.float32) - first) / (last - first), 0, 1)
    return 1 - grey if file.PhotometricInterpretation == "MONOCHROME1" else grey


def tif(data: bytes, path: Path) -> np.ndarray:
    """(H, W, C) of a tif whose channels are samples or pages, turned as its orientation says, by tifffile; OpenCV drops
    pages beyond the first and samples beyond the fourth, and mixes up planes of 16 bits."""
    tifffile = require("tifffile", "tif of many channels or pages")
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            series = file.series[0]
            pixels, axes, turn = series.asarray(), series.axes, tif_orientation(series.pages[0])
    except Exception as error:  # tifffile raises whatever a broken file makes of it
        raise unreadable(data, path, "tif", f"{error}; {REMEDY}") from error
    height, width = axes.find("Y"), axes.find("X")
    if min(height, width) < 0 or pixels.ndim > 3:
        raise UserError(f"{shown(path)} is a tif of shape {pixels.shape} ({axes}); write a reader of your own")
    ordered = np.moveaxis(pixels, (height, width), (0, 1))
    return turned(ordered.reshape(*ordered.shape[:2], math.prod(ordered.shape[2:])), turn)


def tif_orientation(page: Any) -> int:
    """The orientation of a page of tifffile, numbered as EXIF does."""
    tag = page.keyframe.tags.get("Orientation")
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def require(module: str, what: str) -> Any:
    """Import a package that is no dependency of the pipeline; a `UserError` says where to put it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        remedy = "add it to the group `competition` in pyproject.toml, and run make setup"
        raise ImageError(f"{what} needs the package '{package}'; {remedy}", "missing package") from error
