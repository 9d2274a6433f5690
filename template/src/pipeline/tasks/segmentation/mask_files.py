"""Mask files: the value, or the colour, of each pixel as one number, and which class it stands for."""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.heads.mask_decoding import IGNORED
from pipeline.tasks.segmentation.truth import Truth, Window
from toolkit.errors import UserError, listed
from toolkit.files import read_bytes, shown
from toolkit.images.formats import tif
from toolkit.images.header import header_in, orientation_in
from toolkit.images.pixels import turned
from toolkit.images.readers import JPEG, TIF_SUFFIXES
from toolkit.masks.sizes import Size, frame_by_size, known_header, known_size

BACKGROUND = -1  # in place of a class
CONVERTED = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "PA": "RGBA"}  # modes of PIL, and what is read instead
COLOUR = 1 << 24  # marks colours, so that black and 0 are not the same
HALF = 127  # of white
DARK, BRIGHT = 32, 224  # values nearer to black and to white than what lies between
SMOOTH = 8  # values between them that no set of a few labels has
NEAR = 4  # how far a value may be from one that is named, where nothing was lost
STRAY = 0.05  # share of the pixels of a lossy mask that may be far from all values that are named


@dataclass(frozen=True, eq=False)
class FileTruth(Truth):
    """Masks in files. Without codes any value above 0 is the class, or above half of white where the file says so, or
    above a value that is given."""

    files: tuple[Path | None, ...]  # one for all classes, or one for each; none: the class has no file, and is empty
    codes: tuple[tuple[int, int], ...] = ()  # (value of a pixel, place of its class, `BACKGROUND` or `IGNORED`)
    above: int | None = None

    def _own_size(self) -> Size | None:
        file = next((file for file in self.files if file is not None), None)
        if isinstance(self.image, Path) and file is not None and (header := known_header(self.image)).orientation != 1:
            with contextlib.suppress(UserError):  # reading it will say what is wrong
                if frame_by_size(own := known_size(file), header):
                    return own
        return super()._own_size()

    def odd(self) -> list[str]:
        told = []
        for mask in (mask_in(file) for file in self.files if file is not None):
            if mask.alpha:
                told.append("what is transparent in the file (its alpha) decides, its colours do not")
            if self.codes and set(mask.values) - {code for code, _ in self.codes}:
                told.append("the file holds values beside those that are named, which are read as the nearest")
            elif not self.codes and self.above is None and mask.middle:
                how = "is stored with loss (JPEG)" if mask.lossy else "holds values between black and white"
                told.append(f"the file {how}, and what is above half of white is the class")
            elif not self.codes and self.above is None and len(set(mask.values) - {0, COLOUR}) > 1:
                told.append("the file holds several values above 0, all of which are the class")
        return told

    def _planes(self, window: Window) -> np.ndarray:
        top, left, height, width = window
        part = (slice(top, top + height), slice(left, left + width))
        planes = np.zeros((len(self.classes), height, width), np.uint8)
        for place, file in enumerate(self.files):
            if file is None:
                continue
            mask = mask_in(file)
            if mask.codes.shape != self.size:
                raise UserError(
                    "the mask {} has {} x {} pixels, and its image {} x {}; correct the pattern of the masks in "
                    "src/competition/targets.py, or drop the row".format(file, *mask.codes.shape, *self.size)
                )
            if self.codes:
                sort_out(mask.codes[part], self.codes, planes, file, mask.lossy)
                continue
            above = mask.middle if self.above is None else self.above
            if above is None:
                raise UserError(
                    f"the mask {file} is stored with loss and holds nothing brighter than {mask.levels.max()}, which "
                    "may be noise or a class; store it as PNG, or say above in MaskFiles of src/competition/targets.py"
                )
            planes[place] = mask.levels[part] > above
        return planes


@dataclass(frozen=True, eq=False)
class MaskFile:
    """What a mask file holds: whole numbers (H, W), the value of each pixel, also an index into a palette, or where the
    file has colours that differ from grey, `COLOUR | red << 16 | green << 8 | blue`; whether it is stored with loss, as
    JPEG is; and whether what is transparent decided."""

    codes: np.ndarray
    lossy: bool
    alpha: bool

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """The value of each pixel, (H, W), or the largest of its colours."""
        if self.codes.dtype != np.int32 or not (self.codes >= COLOUR).any():
            return self.codes
        return np.max([self.codes >> shift & 255 for shift in (16, 8, 0)], axis=0).astype(np.uint8)

    @functools.cached_property
    def values(self) -> list[int]:
        """What stands in it, each once."""
        return (np.flatnonzero(_counts(self.codes)) if self.codes.dtype == np.uint8 else np.unique(self.codes)).tolist()

    @functools.cached_property
    def middle(self) -> int | None:
        """The level above which a pixel is of the class, where that is not 0; none where it cannot be told.

        Noise around 0 is what a JPEG has, and values between 0 and 255 with two clear ends what smoothed edges have; a
        few values, or all kinds of them, are numbers of objects, and are of the class as they are.
        """
        if self.levels.dtype != np.uint8 or not self.levels.any():
            return 0
        counts = _counts(self.levels)
        if self.lossy:
            return HALF if counts[HALF + 1 :].any() else None
        dark, bright, between = counts[1:DARK].sum(), counts[BRIGHT:].sum(), counts[DARK:BRIGHT]
        two_ends = bright >= counts[128:BRIGHT].sum() and dark >= counts[DARK:128].sum()
        smooth = counts[250:].any() and (between > 0).sum() >= SMOOTH
        return HALF if smooth and (two_ends or bright >= dark + between.sum()) else 0


def _counts(values: np.ndarray) -> np.ndarray:
    """How often each of 256 values occurs in uint8 (H, W)."""
    return cv2.calcHist([values], [0], None, [256], [0, 256])[:, 0]


@functools.lru_cache(maxsize=2)  # the windows of an image come one after the other
def mask_in(path: Path) -> MaskFile:
    """A mask file, turned as its own EXIF orientation says; a `UserError` where it is missing, or no single image."""
    try:
        data = read_bytes(path)
    except UserError as error:
        raise UserError(str(error).replace("there is no image", "there is no mask", 1)) from error
    pixels, alpha = _without_alpha(turned(_decoded(data, path), orientation_in(data)))
    lossy = data.startswith(JPEG) or (data.startswith(b"RIFF") and b"VP8 " in data[12:64])
    if pixels.ndim == 3 and (pixels.shape[2] < 3 or all((pixels[..., 0] == pixels[..., k]).all() for k in (1, 2))):
        pixels = pixels[..., 0]
    if pixels.ndim == 2:  # as narrow as it is stored: a mask may be larger than its image
        return MaskFile(pixels if pixels.dtype.kind in "iu" else pixels.astype(np.int32), lossy, alpha)
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return MaskFile(COLOUR | red << 16 | green << 8 | blue, lossy, alpha)


def sort_out(values: np.ndarray, codes: Sequence[tuple[int, int]], planes: np.ndarray, file: Path, lossy: bool) -> None:
    """Fill planes, uint8 (C, H, W) of 0, with what the codes (see `FileTruth`) say of values (H, W), or else the
    nearest of them; a `UserError` where a value of the file is near no code."""
    if _sorted(values, codes, planes) == values.size:
        return
    known = np.array([code for code, _ in codes], np.int64)
    found, places = np.unique(values, return_inverse=True)
    stray, meant = ~np.isin(found, known), found.astype(np.int64)
    meant[stray] = nearest_code(meant[stray], known, lossy)
    lost = found[meant < 0]
    if len(lost) and not (lossy and np.isin(values, lost).mean() <= STRAY):  # an edge rings where three values meet
        colours = (
            str((code >> 16 & 255, code >> 8 & 255, code & 255) if code >= COLOUR else code) for code in lost.tolist()
        )
        raise UserError(
            f"the mask {file} holds the values {listed(colours)}, which stand for no class; name them in "
            "src/competition/targets.py (values, background or ignored of MaskFiles)"
        )
    _sorted(meant[places].reshape(values.shape), codes, planes)


def _sorted(values: np.ndarray, codes: Sequence[tuple[int, int]], planes: np.ndarray) -> int:
    """Fill the planes with what the codes are of values (H, W), and count these pixels."""
    known = 0
    for code, place in codes:
        hit = values == code
        known += int(np.count_nonzero(hit))
        if place == IGNORED:
            planes[:, hit] = IGNORED
        elif place != BACKGROUND:
            planes[place][hit] = 1
    return known


def nearest_code(values: np.ndarray, codes: np.ndarray, lossy: bool) -> np.ndarray:
    """The code that is meant by each value, int64 (N,): the nearest one, by the channel that differs most; -1: none is
    near enough. In a file that is stored with loss, all between two codes is one of them."""
    found = np.full(len(values), -1, np.int64)
    for colours in (False, True):
        own, known = (values >= COLOUR) == colours, codes[(codes >= COLOUR) == colours]
        if not own.any() or not len(known) or (not colours and max(values[own].max(), known.max()) > 255):
            continue
        apart = _distance(known, known)
        gap = int(apart[apart > 0].min(initial=256))
        reach = (gap / 2 if gap >= 2 * NEAR else 0) if lossy else min(NEAR, gap // 4)
        away = _distance(values[own], known)
        found[own] = np.where(away.min(axis=1) <= reach, known[away.argmin(axis=1)], -1)
    return found


def _distance(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    channels = [np.abs((values >> shift & 255)[:, None] - (others >> shift & 255)[None]) for shift in (16, 8, 0)]
    return np.max(channels, axis=0)  # (N, M)


def _without_alpha(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """The pixels without their transparency, and whether it decided: what is transparent is background, and where one
    colour is everywhere, the mask is in the transparency."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels, False
    colours, alpha = pixels[..., :-1], pixels[..., -1]
    if alpha.size and (alpha == alpha.flat[0]).all() and alpha.flat[0] > 0:
        return colours, False
    if (colours == colours[:1, :1]).all():
        return alpha, True
    hidden = (alpha == 0) & colours.any(axis=2)
    return np.where(hidden[..., None], 0, colours).astype(colours.dtype), bool(hidden.any())


def _decoded(data: bytes, path: Path) -> np.ndarray:
    """(H, W) or (H, W, C), grey or RGB, with or without alpha; of a palette its numbers."""
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(BytesIO(data), allow_pickle=False))
    if path.suffix.lower() in TIF_SUFFIXES:
        header = header_in(data)
        if header is not None and header.pages > 1:
            raise UserError(f"the mask {shown(path)} has {header.pages} pages; write each as a file of its own")
        return tif(data, path)
    try:
        image = Image.open(BytesIO(data))
        return np.asarray(image.convert(CONVERTED[image.mode]) if image.mode in CONVERTED else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the mask {shown(path)} as an image ({error}); download it again") from error
