"""Readers: a file becomes an array (H, W, C), uint8, or float32 in [0, 1] for anything but 8-bit.

A reader is called with the path and the height and width the model will see, and the row where it has a third
positional parameter, since an image is not one file: a slice of a stack, a record of a table. Then rows of one path are
different images. Its keyword-only parameters are what an experiment may set (`image.reader: {name: image, params:
{channels: 1}}`).
"""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from toolkit.files import ImageError, read_bytes, shown
from toolkit.images.formats import dicom, tif, unreadable
from toolkit.images.header import EXIF, JPEG, PNG, TIF, Header, header_in
from toolkit.images.pixels import Size, scaled, turned, with_channels
from toolkit.images.tif_windows import shrunk_tif

WHOLE = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION  # how it is turned is for `header` to say, and the same for all channels
REDUCED = {  # by channels and factor
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
}
JPEG_END = b"\xff\xd9"
TIF_SUFFIXES = (".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")
COLOURS = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
FOLD = "fold"  # the column that says nothing about the image
Row = Mapping[str, Any]  # column -> cell
Reader = Callable[..., np.ndarray]  # (path, size) or (path, size, row) -> (H, W, C)
NO_ROW: Row = {}


def image(
    path: Path,
    size: Size | None,
    *,
    channels: int = 3,
    oversize: float = 1.0,
    low: float | None = None,
    high: float | None = None,
    as_float: bool = False,
    allow_truncated: bool = False,
) -> np.ndarray:
    """Read an image file: jpg, png, tif, webp, bmp and what else OpenCV knows; npy as `array`, dcm as `dicom` does.

    Args:
        size: height and width that are wanted. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, and a large tif shrunk
            by parts, where that is still at least as large in both directions; none: full size.
        channels: 1 grey, 3 RGB (grey is repeated, alpha is dropped), 4 RGBA; another number must be the file's. The
            pages of a tif, where it has several, are its channels, and read by tifffile.
        oversize: how many times `size` is left at least by the reduced decoding; more than 1 for random crops.
        low, high: the values that become 0 and 1. By default 0 and the largest value of the file's integer type.
        as_float: float32 in [0, 1] also for 8-bit files, for a data set that mixes both.
        allow_truncated: read what is there of a JPEG that was cut off, instead of refusing it; the rest is grey.

    Returns:
        (H, W, channels), uint8 or float32, turned as the EXIF orientation says.

    Raises:
        UserError: the file is missing, unreadable or truncated, or its values have no known range; the path is named.
    """
    suffix, pages = path.suffix.lower(), 1
    if suffix == ".npy":
        return array(path, size, channels=channels, low=low, high=high, as_float=as_float)
    target = size and (size[0] * oversize, size[1] * oversize)
    pixels = shrunk_tif(path, target) if target and suffix in TIF_SUFFIXES else None
    if pixels is None:
        data = b"" if suffix in DICOM_SUFFIXES else read_bytes(path)
        if not data or data.startswith(b"DICM", 128):  # files of a series often have no ending
            return dicom(path, size, channels=channels, low=low, high=high)
        is_tif, mark = data.startswith(TIF), EXIF.get(data[:4])
        header = header_in(data) if is_tif or data.startswith(JPEG) or (mark and mark in data) else None
        if is_tif and (channels not in WHOLE or (header and (header.pages > 1 or header.misread))):
            pixels, pages = tif(data, path), header.pages if header else 1
        else:
            if not is_whole(data, header):
                if not (allow_truncated and data.startswith(JPEG)):
                    remedy = "download it again, or drop its row in tables.py"
                    raise ImageError(f"the image {shown(path)} is truncated; {remedy}", "truncated image")
                data += JPEG_END
            pixels = _decoded(data, channels, header, target)
            if pixels is None:
                raise unreadable(data, path)
    if pixels.shape[2] != channels:
        pixels = with_channels(pixels, channels, path, pages)
    plain = pixels.dtype == np.uint8 and low is high is None and not as_float
    return pixels if plain else scaled(pixels, low, high, as_float, path)


def is_whole(data: bytes, header: Header | None = None) -> bool:
    """Whether an image file reaches its end. OpenCV fills what is missing of a JPEG with grey and goes on."""
    if data.startswith(JPEG):
        return header is not None and data.rfind(JPEG_END, header.scan) != -1
    if data.startswith(PNG):
        return data.rfind(b"IEND") != -1
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return not data.startswith(b"BM") or int.from_bytes(data[2:6], "little") <= len(data)


def _decoded(
    data: bytes, channels: int, header: Header | None, target: tuple[float, float] | None
) -> np.ndarray | None:
    """(H, W, C) as it is seen, colours in the order RGB(A), any dtype; none if it is no image.

    Args:
        header: of what may be turned, and of every JPEG, which alone is faster to decode at a fraction of its size.
        target: height and width that are left at least.
    """
    flags = WHOLE[channels] | AS_STORED if channels in WHOLE else cv2.IMREAD_UNCHANGED  # which never turns
    if data.startswith(JPEG) and header and target and channels in WHOLE:
        height, width = header.size
        fits = (f for f in (8, 4, 2) if height // f >= target[0] and width // f >= target[1])
        flags = REDUCED.get((channels, next(fits, 1)), flags) | AS_STORED
    coded = np.frombuffer(data, np.uint8)
    try:
        pixels = cv2.imdecode(coded, flags)
        if pixels is None and flags != cv2.IMREAD_UNCHANGED:  # float tif is not converted from colour to grey
            pixels = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif pixels.shape[2] in COLOURS:
        # Not by IMREAD_COLOR_RGB while decoding: with OpenCV 4.14 it scrambles the pixels of a 16-bit colour tif.
        pixels = cv2.cvtColor(pixels, COLOURS[pixels.shape[2]], pixels)
    is_turned = header is not None and header.orientation > 1 and not data.startswith(TIF)  # whose reader turns it
    return turned(pixels, header.orientation) if header and is_turned else pixels


def array(
    path: Path,
    size: Size | None,
    *,
    channels: int | None = None,
    channels_first: bool = False,
    low: float | None = None,
    high: float | None = None,
    as_float: bool = False,
) -> np.ndarray:
    """Read a npy file of shape (H, W) or (H, W, C), whatever `size` is wanted, as uint8 or float32 (H, W, C).

    Args:
        channels: how many there must be; a single one is repeated. None: as in the file.
        channels_first: the file holds (C, H, W).
        low, high, as_float: as for `image`.

    Raises:
        UserError: the file is missing or no such array, or its values have no known range; the path is named.
    """
    data = read_bytes(path)
    try:
        pixels = np.load(BytesIO(data), allow_pickle=False)
        if pixels.ndim not in (2, 3):
            raise ValueError(f"its shape is {pixels.shape}, not (H, W) or (H, W, C)")
    except (OSError, ValueError, EOFError, AttributeError) as error:  # the last of an npz archive
        raise unreadable(data, path, "a npy file of numbers", error) from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif channels_first:
        pixels = np.moveaxis(pixels, 0, 2)
    return scaled(with_channels(pixels, channels or pixels.shape[2], path), low, high, as_float, path)


class RowReader(ABC):
    """Any reader, called as `(path, size, row)`."""

    takes_row: bool  # whether the row decides what is read, beside the path

    @abstractmethod
    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        """The image (H, W, C) at a path, or of a row."""


@dataclass(frozen=True)
class OwnReader(RowReader):
    """A reader as an experiment names it."""

    function: Reader
    takes_row: bool

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        return self.function(path, size, row) if self.takes_row else self.function(path, size)


def row_reader(reader: Reader) -> RowReader:
    """The reader, called as `(path, size, row)`; one that is called so already stays as it is."""
    if isinstance(reader, RowReader):
        return reader
    kinds = [parameter.kind for parameter in inspect.signature(reader).parameters.values()]
    return OwnReader(reader, sum(kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds) > 2)


class Rows:
    """The rows of a table as a reader sees them, without the fold; a reader that does not ask for them gets none."""

    def __init__(self, table: pd.DataFrame, reader: Reader) -> None:
        names = [name for name in table if name != FOLD] if row_reader(reader).takes_row else []
        self.columns = {str(name): table[name].to_numpy(object) for name in names}

    def __getitem__(self, position: int) -> Row:
        return {name: cells[position] for name, cells in self.columns.items()} if self.columns else NO_ROW


def image_key(path: str, row: Row) -> str:
    """What an image is known by: its path, and where the reader asks for the row, all that stands in it."""
    if not row:
        return path
    cells = json.dumps(row, sort_keys=True, default=_plain)
    return f"{path} {hashlib.blake2b(cells.encode(), digest_size=12).hexdigest()}"


def _plain(cell: Any) -> Any:
    """A cell that JSON does not know. An object (the truth of a mask) is known by its kind only."""
    if isinstance(cell, np.generic | np.ndarray):
        return cell.tolist()
    text = str(cell)
    return text if isinstance(cell, Path | bytes) or type(cell).__module__.startswith(("pandas", "datetime")) else ""
