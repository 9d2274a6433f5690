"""Arrays as readers give them: (H, W, C) with the wanted channels, uint8, or float32 in [0, 1]."""

from pathlib import Path

import cv2
import numpy as np

from toolkit.errors import UserError
from toolkit.files import shown

Size = tuple[int, int]
MOST_CHANNELS = 16  # an image of more is told apart from one whose axes stand in another order
INVERSE = {6: 8, 8: 6}  # of the EXIF orientations that are not their own


def with_channels(pixels: np.ndarray, channels: int, path: Path, pages: int = 1) -> np.ndarray:
    """(H, W, C) with the wanted number of channels.

    Args:
        pages: how many pages the channels stand on; where they are several, no colours are meant.
    """
    count = pixels.shape[2]
    if count == 1:
        pixels = np.repeat(pixels, 3 if channels == 4 else channels, axis=2)
        count = pixels.shape[2]
    if count == channels:
        return pixels
    if pages == 1 and (count, channels) == (4, 3):
        return pixels[:, :, :3]
    if pages == 1 and (count, channels) == (3, 4):
        opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
        return np.concatenate([pixels, np.full_like(pixels[:, :, :1], opaque)], axis=2)
    if pages == 1 and channels == 1 and count in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2GRAY)[:, :, None]
    if count > MOST_CHANNELS >= min(pixels.shape[:2]):
        axis = int(np.argmin(pixels.shape[:2]))
        what = f"the shape {pixels.shape}, read as height, width, channels; its channels stand on axis {axis}"
        remedy = f"write a reader of your own that gives np.moveaxis(array, {axis}, 2), or of a npy file with axis 0"
        raise UserError(
            f"{shown(path)} has {what}: {remedy} image: {{reader: {{name: array, params: {{channels_first: true}}}}}}"
        )
    what = f"{shown(path)} has {count} channels, and {channels} are wanted{', its pages are channels' * (pages > 1)}"
    remedy = f"set image.reader.params.channels and model.in_chans to {count}, or write a reader of your own"
    raise UserError(f"{what}; {remedy}")


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, ...) as it is seen, of one as it is stored."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turned_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turned`."""
    return turned(pixels, INVERSE.get(orientation, orientation))


def turned_size(size: Size, orientation: int) -> Size:
    """Height and width after a turn, or before it."""
    return (size[1], size[0]) if orientation >= 5 else size


def stored_box(box: tuple[int, int, int, int], size: Size, orientation: int) -> tuple[int, int, int, int]:
    """Where a part (top, left, height, width) of an image as it is seen lies in it as it is stored.

    Args:
        size: height and width of the image as it is seen.
    """
    top, left, height, width = box
    if orientation in (2, 3, 6, 7):
        left = size[1] - left - width
    if orientation in (3, 4, 7, 8):
        top = size[0] - top - height
    return (left, top, width, height) if orientation >= 5 else (top, left, height, width)


def scaled(pixels: np.ndarray, low: float | None, high: float | None, as_float: bool, path: Path) -> np.ndarray:
    """uint8 as it is; anything else as float32 in [0, 1]."""
    kind, asked = pixels.dtype.kind, low is not None or high is not None
    if pixels.dtype == np.uint8 and not asked:
        return pixels.astype(np.float32) / 255 if as_float else pixels
    if kind not in "ub" and not asked:
        # Signed and floating-point values say nothing about their range: guessing it per image would change contrasts.
        if pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
            return pixels.astype(np.float32)
        what = f"{shown(path)} holds {pixels.dtype} values from {pixels.min()} to {pixels.max()}"
        raise UserError(f"{what}; set image.reader.params low and high to the values that become 0 and 1")
    bottom = 0.0 if low is None else low
    top = high if high is not None else float(np.iinfo(pixels.dtype).max) if kind in "iu" else 1.0
    if top <= bottom:
        raise UserError(f"image.reader.params: high ({top}) must be more than low ({bottom})")
    found: np.ndarray = np.clip((pixels.astype(np.float32) - bottom) / (top - bottom), 0, 1)
    return found
