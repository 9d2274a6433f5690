"""Readers: a file becomes an array (H, W, C), uint8, or float32 in [0, 1] for anything but 8-bit.

The pipeline passes a reader the path and the height and width the model will see, and the row where it has a third
positional parameter; its keyword-only parameters are what an experiment may set (`image.reader: {name: image, params:
{channels: 1}}`).
"""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from toolkit.archives import read_bytes, shown
from toolkit.errors import UserError
from toolkit.images.damage import unreadable
from toolkit.images.formats import dicom, tif
from toolkit.images.header import TIF, header_in, orientation_in
from toolkit.images.pixels import Size, scaled, turned, turned_size, with_channels
from toolkit.images.tif_windows import shrunk_tif

WHOLE = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION  # how it is turned is for `header` to say, and the same for all channels
REDUCED = {
    1: {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8},
    3: {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8},
}
JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
TIF_SUFFIXES = (".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}


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
        path: the file.
        size: height and width that are wanted. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at
            least as large in both directions, which takes a fraction of the time, and a large tif is shrunk by parts,
            which takes a fraction of the memory; none: full size.
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
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return array(path, size, channels=channels, low=low, high=high, as_float=as_float)
    if suffix in DICOM_SUFFIXES:
        return dicom(path, size, channels=channels, low=low, high=high)
    if suffix in TIF_SUFFIXES and size is not None:
        shrunk = shrunk_tif(path, (size[0] * oversize, size[1] * oversize))
        if shrunk is not None:
            return scaled(with_channels(shrunk, channels, path), low, high, as_float, path)
    data = read_bytes(path)
    if data.startswith(b"DICM", 128):  # files of a series often have no ending
        return dicom(path, size, channels=channels, low=low, high=high)
    header = header_in(data) if data.startswith(TIF) else None
    if data.startswith(TIF) and (
        channels not in WHOLE or (header is not None and (header.pages > 1 or header.misread))
    ):
        pages = header.pages if header else 1
        return scaled(with_channels(tif(data, path), channels, path, pages), low, high, as_float, path)
    if not is_whole(data):
        if not (allow_truncated and data.startswith(JPEG)):
            raise UserError(f"the image {shown(path)} is truncated; download it again, or drop its row in tables.py")
        data += JPEG_END
    orientation = orientation_in(data)
    pixels = _decode(data, channels, _reduction(data, size and turned_size(size, orientation), oversize))
    if pixels is None:
        raise unreadable(data, path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return scaled(with_channels(turned(pixels, orientation), channels, path), low, high, as_float, path)


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
    """Read a npy file of shape (H, W) or (H, W, C).

    Args:
        path: the file.
        size: not used; the whole array is read.
        channels: how many there must be; a single one is repeated. None: as in the file.
        channels_first: the file holds (C, H, W).
        low, high, as_float: as for `image`.

    Returns:
        (H, W, C), uint8 or float32.

    Raises:
        UserError: the file is missing or no such array, or its values have no known range; the path is named.
    """
    data = read_bytes(path)
    try:
        pixels = np.load(BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "Object arrays" in str(error):
            raise UserError(
                f"{shown(path)} holds Python objects and no numbers (dtype object); save it again with "
                "np.save(path, np.stack(list(array))), or write a reader of your own"
            ) from error
        raise unreadable(data, path, "a npy file", str(error)) from error
    if not isinstance(pixels, np.ndarray):
        raise unreadable(data, path, "a npy file")
    if pixels.ndim not in (2, 3):
        raise UserError(
            f"{shown(path)} holds an array of shape {pixels.shape}, not (H, W) or (H, W, C); write a reader of your own"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif channels_first:
        pixels = np.moveaxis(pixels, 0, 2)
    return scaled(with_channels(pixels, channels or pixels.shape[2], path), low, high, as_float, path)


def is_whole(data: bytes) -> bool:
    """Whether an image file reaches its end. OpenCV fills what is missing of a JPEG with grey and goes on."""
    if data.startswith(JPEG):
        header = _jpeg(data)
        return header is not None and header.fp is not None and data.rfind(JPEG_END, header.fp.tell()) != -1
    if data.startswith(PNG):
        return data.rfind(b"IEND") != -1
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if data.startswith(b"BM"):
        return int.from_bytes(data[2:6], "little") <= len(data)
    return True


def describe(data: bytes) -> str:
    """`8-bit colour`, `16-bit grey`: what a JPEG or PNG holds, read from its header; empty for other files."""
    if data.startswith(PNG) and len(data) > 25:
        return f"{max(data[24], 8)}-bit {PNG_COLOURS.get(data[25], 'unknown')}"
    header = _jpeg(data) if data.startswith(JPEG) else None
    return f"8-bit {'grey' if header.layers == 1 else 'colour'}" if header else ""


def size_of(data: bytes) -> Size | None:
    """Height and width as the file is read, from its header; none where it does not say."""
    header = header_in(data)
    return header.size if header else None


def _jpeg(data: bytes) -> JpegImageFile | None:
    """The headers of a JPEG, read up to its compressed data; none if they end before, or are broken."""
    try:
        header = JpegImageFile(BytesIO(data))
    except Exception:  # whatever Pillow stumbles over
        return None
    return header if header.tile else None


def _reduction(data: bytes, size: Size | None, oversize: float) -> int:
    """The largest of 8, 4, 2 that leaves at least `oversize` times `size`, as stored; only JPEG is faster for it."""
    header = _jpeg(data) if size is not None and data.startswith(JPEG) else None
    if header is None or size is None:
        return 1
    width, height = header.size
    fits = (f for f in (8, 4, 2) if height // f >= size[0] * oversize and width // f >= size[1] * oversize)
    return next(fits, 1)


def _decode(data: bytes, channels: int, factor: int) -> np.ndarray | None:
    """(H, W) or (H, W, C) with colours in the order RGB(A), any dtype; none if it is no image."""
    coded = np.frombuffer(data, np.uint8)
    try:
        if channels not in WHOLE:
            pixels = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)  # which never turns
        elif factor > 1:
            pixels = cv2.imdecode(coded, REDUCED[channels][factor] | AS_STORED)
        else:
            pixels = cv2.imdecode(coded, WHOLE[channels] | AS_STORED)
            if pixels is None:  # float tif is not converted from colour to grey while reading
                pixels = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.ndim == 2 or pixels.shape[2] not in (3, 4):
        return pixels
    # Not by IMREAD_COLOR_RGB while decoding: with OpenCV 4.14 it scrambles the pixels of a 16-bit colour tif.
    swap = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(pixels, swap, pixels)
