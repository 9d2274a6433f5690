"""Formats that need a package of their own, which is installed where they are met: dcm, and tif of many channels. And
what files are that no reader here knows."""

import importlib
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.archives import read_bytes, shown
from toolkit.errors import UserError
from toolkit.images.pixels import Size, scaled, turned, with_channels

REMEDY = "download it again, or add what the reason says is missing to the group `competition` in pyproject.toml"
ARCHIVE = "archive; unpack it"
ARRAYS = "; save its array as npy"
PICTURE = "; convert it to png or jpg"
VIDEO = "a video; save its frames as images"
MAGIC: tuple[tuple[int, bytes, str], ...] = (  # where it stands, what stands there, what it is and what to do
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file; run git lfs pull where it is from"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z {ARCHIVE}"),
    (0, b"Rar!", f"a rar {ARCHIVE}"),
    (0, b"\x1f\x8b", f"a gzip {ARCHIVE}"),
    (257, b"ustar", f"a tar {ARCHIVE}"),
    (0, b"PK\3\4", "a zip or an npz archive; unpack it, or save its array as npy"),
    (0, b"\x89HDF", f"a HDF5 file{ARRAYS}"),
    (344, b"n+1\0", f"a NIfTI volume{ARRAYS}"),
    (0, b"SIMPLE  =", f"a FITS file{ARRAYS}"),
    (0, b"\x80\x04\x95", f"a pickle{ARRAYS}"),
    (0, b"%PDF", f"a PDF{PICTURE}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL image{PICTURE}"),
    (0, b"\xff\x0a", f"a JPEG XL image{PICTURE}"),
    (0, b"\0\0\0\x0cjP  ", f"a JPEG 2000 image{PICTURE}"),
    (4, b"ftypavi", f"an AVIF image{PICTURE}"),
    (4, b"ftyphe", f"a HEIC image{PICTURE}"),
    (4, b"ftypm", f"a HEIC image or a video{PICTURE}"),
    (4, b"ftyp", VIDEO),
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (8, b"AVI ", VIDEO),
)
TEXTS = (b"<?xml", b"<svg", b"<!doctype", b"<html", b"<head", b"<error", b"{")  # a drawing, a page, what a server says


def unreadable(data: bytes, path: Path, kind: str = "an image", why: str = "") -> UserError:
    """That a file cannot be read as what it should be: what it is instead, as far as that is known.

    Args:
        why: what the library said, for a file that is no other one.
    """
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    other = next((what for place, magic, what in MAGIC if data.startswith(magic, place)), "")
    if not other and start.lower().startswith(TEXTS):
        words = " ".join(start[:60].decode(errors="replace").split())
        other = f"a text, such as a page in place of the file ({words}); download it again, or convert a drawing to png"
    if other:
        return UserError(f"cannot read {shown(path)} as {kind}: it is {other}, or write a reader of your own")
    reason = f" ({why})" if why else ""
    return UserError(f"cannot read {shown(path)} as {kind}{reason}; download it again, or drop its row in tables.py")


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
        values, palette = file.pixel_array, file.PhotometricInterpretation == "PALETTE COLOR"
        colours = int(file.SamplesPerPixel) == 3
        frames = values.shape[0] if values.ndim != 2 + colours else 1
        if frames == 1 and palette:
            values = pixels.apply_color_lut(values, file)
        elif frames == 1 and not colours:
            values = _grey(file, values, pixels, low, high)[:, :, None]
    except Exception as error:  # pydicom raises whatever a broken file makes of it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not data.startswith(b"DICM", 128):
            raise unreadable(data, path, "dcm", reason) from error
        raise UserError(f"cannot read {shown(path)} as dcm ({reason}); {REMEDY}") from error
    if frames != 1:
        raise UserError(f"{shown(path)} holds {frames} frames; write a reader of your own that chooses")
    values = with_channels(values, channels, path)
    return scaled(values, low, high, True, path) if palette or colours else values


def _grey(file: Any, stored: np.ndarray, pixels: Any, low: float | None, high: float | None) -> np.ndarray:
    """float32 (H, W) in [0, 1], 1 being white. A window of pydicom's is spread over all values that can be stored."""
    values, ends = pixels.apply_modality_lut(stored, file), None
    tables = ["ModalityLUTSequence"]
    if low is None and high is None:
        values, tables = pixels.apply_voi_lut(values, file), ["VOILUTSequence", *tables]
    for name in tables:
        if ends is None and file.get(name):
            ends = (0.0, 2.0 ** file[name][0].LUTDescriptor[2] - 1)
    if ends is None:
        bits, signed = int(file.BitsStored), int(file.PixelRepresentation)
        lowest = -(2 ** (bits - 1)) if signed else 0
        ends = pixels.apply_modality_lut(np.array([lowest, lowest + 2**bits - 1]), file)
    first, last = (float(ends[0]) if low is None else low), (float(ends[1]) if high is None else high)
    grey: np.ndarray = np.clip((values.astype(np.float32) - first) / (last - first), 0, 1)
    return 1 - grey if file.PhotometricInterpretation == "MONOCHROME1" else grey


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
        raise UserError(f"cannot read {shown(path)} as tif ({' '.join(str(error).split())}); {REMEDY}") from error
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
