"""How alike two images are, pixel by pixel and in their fine detail, once one is laid upon the other."""

import contextlib
from typing import NamedTuple

import cv2
import numpy as np

from toolkit.audit.scan import DECODE, normalized

DETAIL = 128  # images are compared at no more than this height and width
ALIGNED = 64  # smaller images hold too little detail for it to be told which part of one the other shows
FLAT = 0.02  # a standard deviation of detail, over that of the image, below which there is none
STRONG = 0.12  # one above which no usual JPEG quality removes it
COPY = 0.068  # pixels that are further apart are copies only if their detail says so
STRETCHES = 7
UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)  # the end of aligning two images
Window = tuple[float, float, float, float]  # left, top, width and height in shares of an image
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
Turned = tuple[np.ndarray, tuple[int, ...]]  # a grey image, float32 (H, W), and how it is turned before it is compared


class Likeness(NamedTuple):
    """How alike two images are."""

    size: int  # height and width in pixels at which they were compared
    whole: bool  # whether they show the same part of the scene, and not one a part of the other
    distance: float  # of their pixels, from 0 to 2: sqrt(2 - 2 correlation)
    detail: float  # inverse hyperbolic tangent of the correlation of their details, faint or strong
    area: float  # the share of the image that has detail which can be compared

    def is_copy(self, detail: float, distance: float) -> bool:
        """Whether two images are copies, where the most alike others of the set have this detail and distance.

        The limits are measured on drawn sets: outlines, chests, documents, forms, cells, digits, textures, scenes.
        """
        more = self.detail - detail
        nearer = float(np.log(max(distance, 1e-4) / max(self.distance, 1e-4)))
        correlation, large = float(np.tanh(self.detail)), self.area >= 0.7
        if self.whole and self.distance <= COPY and nearer >= 0.7:
            return True
        if self.size < ALIGNED:
            return False
        if self.distance <= 0.25 and nearer >= 1.6 and more >= 0:
            return correlation >= 0.5 if self.whole else correlation >= 0.6 and large
        if self.whole and self.distance <= 0.5 and correlation >= 0.6 and more >= 0.85:
            return nearer >= (0 if large else 0.4)
        if self.distance <= 0.5 and correlation >= 0.7 and more >= 1 and large and nearer >= 0.6:
            return True
        # Something was laid over a part of it, such as a text: the pixels differ, the detail elsewhere does not.
        return self.distance <= 1 and correlation >= 0.8 and more >= 1 and large and nearer >= 0.1


def turned(image: np.ndarray, *turns: int) -> np.ndarray:
    """The image (..., H, W) in one of eight ways: mirrored (bit 0), upside down (bit 1), transposed first (bit 2)."""
    for turn in turns:
        image = image.swapaxes(-1, -2) if turn & 4 else image
        image = image[..., :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    return np.ascontiguousarray(image)


def likeness(first: Turned, second: Turned, window: Window) -> Likeness:
    """Lay the first image upon the second one and compare them.

    Args:
        window: what is cut from the first one, turned, to become like the second. The place is found exactly from
            there; where that fails, it stays.
    """
    size = max(8, min(DETAIL, *first[0].shape, *second[0].shape))
    squares = (cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image, _ in (first, second))
    a, b = (normalized(image).reshape(size, size) * np.float32(size) for image in squares)  # of standard deviation 1
    a, b = turned(a, *first[1]), turned(b, *second[1])
    # What is finer than the structure, and coarser than what encoding again changes.
    fine_a, fine_b = (cv2.GaussianBlur(image, (0, 0), 0.8) - cv2.GaussianBlur(image, (0, 0), 3.2) for image in (a, b))
    matrix, cut = _aligned(a, b, window if size >= ALIGNED else WHOLE)
    valid = cv2.warpAffine(np.ones_like(a), matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 0.99
    distance = float(np.linalg.norm(normalized(_moved(a, matrix)[valid]) - normalized(b[valid])))
    whole = cut <= 0.03
    if whole and 0.02 < distance <= 0.35:
        distance = min(distance, pixel_distance(*(turned(image, *turns) for image, turns in (first, second))))
    return Likeness(size, whole, distance, *_shared_detail(_moved(fine_a, matrix), fine_b, valid))


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _in_pixels(matrix: np.ndarray, width: int, height: int, back: bool = False) -> np.ndarray:
    """An affine matrix (3, 3) of shares of an image as one of pixels, which count from their centres; or `back`."""
    pixels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
    pixels = np.linalg.inv(pixels) if back else pixels
    return pixels @ matrix @ np.linalg.inv(pixels)


def _aligned(a: np.ndarray, b: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The matrix (2, 3) from pixels of `b` to those of `a`, and how much of `a` is cut off, as a share of a side."""
    size, (left, top, width, height) = len(a), window
    start = found = np.array([[width, 0, left], [0, height, top], [0, 0, 1.0]])
    if size >= ALIGNED:
        guess = _in_pixels(start, size, size)[:2].astype(np.float32)
        with contextlib.suppress(cv2.error):  # it does not converge where they have nothing in common
            _, closer = cv2.findTransformECC(b, a, guess, cv2.MOTION_AFFINE, UNTIL, np.full(a.shape, 255, np.uint8), 5)
            found = _in_pixels(np.vstack([closer, [0, 0, 1]]), size, size, back=True)
    corner, scales, skew = found[:2, 2], found.diagonal()[:2], max(abs(found[0, 1]), abs(found[1, 0]))
    end = corner + scales
    if skew > 0.03 or scales.min() < 0.7 or scales.max() > 1.1 or corner.min() < -0.08 or end.max() > 1.08:
        found, corner, scales = start, start[:2, 2], start.diagonal()[:2]
    cut = float(max(np.abs(1 - scales).max(), np.abs(corner).max()))
    return _in_pixels(found, size, size)[:2].astype(np.float32), cut


def _shared_detail(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """`Likeness.detail` and `Likeness.area`. Detail is divided by its strength nearby, or edges would decide alone."""
    sigma = max(1.5, a.shape[0] / 40)
    energy_a, energy_b = (cv2.GaussianBlur(image * image * valid, (0, 0), sigma) for image in (a, b))
    weak, strong = np.minimum(energy_a, energy_b), np.maximum(energy_a, energy_b)
    # Where one of both has faint detail only, JPEG may have removed it from the other: that says nothing.
    known = valid & (strong > FLAT**2) & ((weak > strong / 9) | (strong > STRONG**2))
    left, right = (a / np.sqrt(energy_a + FLAT**2))[known], (b / np.sqrt(energy_b + FLAT**2))[known]
    correlation = float(left @ right) / max(float(np.linalg.norm(left) * np.linalg.norm(right)), 1e-6)
    return float(np.arctanh(np.clip(correlation, -0.9999, 0.9999))), float(known.mean())


def pixel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two grey images (H, W) of the same scene, from 0 for copies to 2.

    The larger one is brought to the size of the smaller one. Whether the factor was exact or fitted to whole pixels is
    not known, and moves the far edge by up to half a pixel, enough to hide a copy of a small image: the nearest counts.
    """
    larger, smaller = (first, second) if first.size >= second.size else (second, first)
    (tall, wide), (height, width) = larger.shape, smaller.shape
    shrink = min(1.0, DECODE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    least, most = max((width - 0.5) / wide, (height - 0.5) / tall), min((width + 0.5) / wide, (height + 0.5) / tall)
    factors = np.linspace(least, most, STRETCHES) if least <= most else ()
    stretches = [np.eye(3), *(np.diag([width / factor / wide, height / factor / tall, 1]) for factor in factors)]
    moved = cv2.resize(larger, (width, height), interpolation=cv2.INTER_AREA)
    moved, aim = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (moved, smaller))
    images = (_moved(moved, _in_pixels(matrix, *size)[:2].astype(np.float32)) for matrix in stretches)
    return min(float(np.linalg.norm(normalized(image) - normalized(aim))) for image in images)
