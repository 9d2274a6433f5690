"""Mask files: the value, or the colour, of each pixel as one number."""

import functools
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.formats import tif
from pipeline.data.images import describe
from pipeline.data.places import read_bytes, shown
from pipeline.errors import UserError

BACKGROUND = -1  # in place of a class
COLOUR = 1 << 24  # marks colours, so that black and 0 are not the same


def colour_code(red: int, green: int, blue: int) -> int:
    """A colour as one number."""
    return COLOUR | red << 16 | green << 8 | blue


@functools.lru_cache(maxsize=2)  # the windows of an image come one after the other
def codes_in(path: Path) -> np.ndarray:
    """What stands in each pixel of a mask file, (H, W) of a type of whole numbers: its value, also an index into a
    palette; where the file has colours that differ from grey, `colour_code`.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        data = read_bytes(path)
    except UserError as error:
        raise UserError(str(error).replace("there is no image", "there is no mask", 1)) from error
    pixels = _decoded(data, path)
    if pixels.ndim == 3 and (pixels.shape[2] < 3 or all((pixels[..., 0] == pixels[..., k]).all() for k in (1, 2))):
        pixels = pixels[..., 0]
    if pixels.ndim == 2:  # as narrow as it is stored: a mask may be larger than its image
        return pixels if pixels.dtype.kind in "iu" else pixels.astype(np.int32)
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return COLOUR | red << 16 | green << 8 | blue


def _decoded(data: bytes, path: Path) -> np.ndarray:
    """(H, W) or (H, W, C), RGB."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.asarray(np.load(BytesIO(data), allow_pickle=False))
    if suffix in (".tif", ".tiff"):
        return tif(data, path)
    if describe(data).endswith("palette"):  # OpenCV would give its colours
        from PIL import Image

        return np.asarray(Image.open(BytesIO(data)))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"cannot read the mask {shown(path)} as an image; download it again")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = np.ascontiguousarray(pixels[..., 2::-1])
    return pixels
