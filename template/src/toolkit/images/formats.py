"""Formats that need a package of their own, which is installed where they are met: dcm, and tif of many channels."""

import importlib
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.archives import read_bytes, shown
from toolkit.errors import UserError
from toolkit.images.damage import unreadable
from toolkit.images.pixels import Size, scaled, turned, with_channels

_REMEDY = "download it again, or add what the reason says is missing to the group `competition` in pyproject.toml"


def dicom(
    path: Path, size: Size | None, *, channels: int = 3, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """Read a DICOM file with one frame, by pydicom.

    Stored values are rescaled by the file's slope and intercept (to Hounsfield units in a CT). Then the file's first
    window, or its VOI lookup table, decides what is black and white (DICOM PS3.3, C.11.2); without one, all values that
    can be stored. MONOCHROME1, where the lowest value is white, is inverted.

    Args:
        path: the file.
        size: not used; the whole image is read.
        channels: 1 grey, 3 RGB; grey is repeated.
        low, high: rescaled values that become 0 and 1, instead of the file's window.

    Returns:
        (H, W, channels), float32 in [0, 1].

    Raises:
        UserError: the file is missing, cannot be decoded or holds several frames (it is named), or pydicom, or what it
            decodes by, is not installed.
    """
    data = read_bytes(path)
    pydicom, pixels = require("pydicom", "dcm"), require("pydicom.pixels", "dcm")
    try:
        file = pydicom.dcmread(BytesIO(data))
        values = file.pixel_array
        colour = int(file.SamplesPerPixel) == 3 or file.PhotometricInterpretation == "PALETTE COLOR"
        if values.ndim != 2 + (int(file.SamplesPerPixel) == 3):
            raise UserError(f"{shown(path)} holds {values.shape[0]} frames; write a reader of your own that chooses")
        if file.PhotometricInterpretation == "PALETTE COLOR":
            values = pixels.apply_color_lut(values, file)
        if not colour:
            values = _grey(file, values, pixels, low, high)
    except UserError:
        raise
    except Exception as error:  # pydicom raises whatever a broken file makes of it
        reason = " ".join(str(error).split())
        if not data.startswith(b"DICM", 128):
            raise unreadable(data, path, "dcm", reason) from error
        raise UserError(f"cannot read {shown(path)} as dcm ({type(error).__name__}: {reason}); {_REMEDY}") from error
    if colour:
        return scaled(with_channels(values, channels, path), low, high, True, path)
    return with_channels(values[:, :, None], channels, path)


def _grey(file: Any, stored: np.ndarray, pixels: Any, low: float | None, high: float | None) -> np.ndarray:
    """float32 (H, W) in [0, 1], 1 being white."""
    values = pixels.apply_modality_lut(stored, file)
    chosen = low is not None or high is not None
    if not chosen:
        values = pixels.apply_voi_lut(values, file)
    first, last = _ends(file, pixels, voi=not chosen)
    first, last = (first if low is None else low), (last if high is None else high)
    grey: np.ndarray = np.clip((values.astype(np.float32) - first) / (last - first), 0, 1)
    return 1 - grey if file.PhotometricInterpretation == "MONOCHROME1" else grey


def _ends(file: Any, pixels: Any, voi: bool) -> tuple[float, float]:
    """What pydicom gives for black and white: a window is spread over all values that can be stored, rescaled."""
    for table in (*(["VOILUTSequence"] if voi else []), "ModalityLUTSequence"):
        if file.get(table):
            return 0.0, 2.0 ** file[table][0].LUTDescriptor[2] - 1
    bits, signed = int(file.BitsStored), int(file.PixelRepresentation)
    stored = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    first, last = pixels.apply_modality_lut(stored, file)
    return float(first), float(last)


def tif(data: bytes, path: Path) -> np.ndarray:
    """(H, W, C) of a tif whose channels are samples or pages, turned as its orientation says, by tifffile; OpenCV drops
    pages beyond the first and samples beyond the fourth, and mixes up planes of 16 bits.

    Raises:
        UserError: it cannot be decoded or holds a stack of images, or tifffile is not installed.
    """
    tifffile = require("tifffile", "tif of many channels or pages")
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            series = file.series[0]
            pixels, axes, turn = series.asarray(), series.axes, tif_orientation(series.pages[0])
    except Exception as error:  # tifffile raises whatever a broken file makes of it
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {shown(path)} as tif ({reason}); {_REMEDY}") from error
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
        raise UserError(
            f"{what} needs the package '{package}'; add it to the group `competition` in pyproject.toml, and run "
            "make setup"
        ) from error
