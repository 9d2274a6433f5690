"""How alike two images are, pixel by pixel and in their fine detail, once one is laid upon the other."""

from dataclasses import dataclass

import cv2
import numpy as np

from toolkit.audit.scan import DECODE, normalized

DETAIL = 128  # images are compared at no more than this height and width
ALIGNED = 64  # smaller images hold too little detail for it to be told which part of one the other shows
FLAT = 0.02  # a standard deviation of detail, over that of the image, below which there is none
STRONG = 0.12  # one above which no usual JPEG quality removes it
COPY = 0.068  # pixels that are further apart are copies only if their detail says so
STRETCHES = 7
Window = tuple[float, float, float, float]  # left, top, width and height in shares of an image
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
Turned = tuple[np.ndarray, tuple[int, ...]]  # a grey image, float32 (H, W), and how it is turned before it is compared


@dataclass(frozen=True)
class Likeness:
    """How alike two images are.

    Attributes:
        fineness: height and width in pixels that hold their detail.
        whole: whether they show the same part of the scene, and not one a part of the other.
        distance: of their pixels, from 0 to 2: sqrt(2 - 2 correlation).
        detail: inverse hyperbolic tangent of the correlation of their details, which all count alike, faint or strong.
        area: the share of the image that has detail which can be compared.
    """

    fineness: int
    whole: bool
    distance: float
    detail: float
    area: float

    def is_copy(self, detail: float, distance: float) -> bool:
        """Whether two images are copies, where the most alike others of the set have this detail and distance.

        The limits are measured on drawn sets: outlines, chests, documents, forms, cells, digits, textures, scenes.
        """
        more = self.detail - detail
        nearer = float(np.log(max(distance, 1e-4) / max(self.distance, 1e-4)))
        correlation, large = float(np.tanh(self.detail)), self.area >= 0.7
        if self.whole and self.distance <= COPY and nearer >= 0.7:
            return True
        if self.fineness < ALIGNED:
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


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The image (H, W) at `size` x `size`."""
    way = cv2.INTER_AREA if min(image.shape) >= size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=way)


def standardized(image: np.ndarray, size: int) -> np.ndarray:
    """float32 (size, size) of mean 0 and standard deviation 1; zeros for an image without contrast."""
    return normalized(resized(image, size)).reshape(size, size) * np.float32(size)


def detail(image: np.ndarray) -> np.ndarray:
    """What is finer than the structure, and coarser than what encoding again changes."""
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.8, 3.2))
    return fine - coarse


def resolution(image: np.ndarray) -> int:
    """Height and width in pixels that hold the detail of a grey image (H, W): less than it has where it is smooth."""
    size = min(DETAIL, *image.shape)
    while size >= 32:
        pixels = standardized(image, size)
        rest = pixels - cv2.resize(resized(pixels, size // 2), (size, size), interpolation=cv2.INTER_CUBIC)
        if (cv2.GaussianBlur(rest * rest, (0, 0), max(1.5, size / 40)) > FLAT**2).mean() >= 0.5:
            break
        size //= 2
    return size


def likeness(first: Turned, second: Turned, window: Window, fineness: int, pattern: np.ndarray | None) -> Likeness:
    """Lay the first image upon the second one and compare them.

    Args:
        window: what is cut from the first one, turned, to become like the second. The place is found exactly from
            there; where that fails, it stays.
        fineness: the `resolution` of the finer one.
        pattern: float32 (DETAIL, DETAIL), detail that all images of the set share, which does not count.
    """
    size = max(8, min(DETAIL, *first[0].shape, *second[0].shape))
    fineness = min(size, fineness)
    (a, detail_a), (b, detail_b) = (_with_detail(image, size, pattern) for image in (first, second))
    matrix, cut = _aligned(a, b, window if fineness >= ALIGNED else WHOLE)
    moved, detail_a = (_moved(image, matrix) for image in (a, detail_a))
    valid = cv2.warpAffine(np.ones_like(a), matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 0.99
    distance = float(np.linalg.norm(normalized(moved[valid]) - normalized(b[valid])))
    whole = cut <= 0.03
    if whole and 0.02 < distance <= 0.35:
        distance = min(distance, pixel_distance(*(turned(image, *turns) for image, turns in (first, second))))
    return Likeness(fineness, whole, distance, *_shared_detail(detail_a, detail_b, valid))


def _with_detail(image: Turned, size: int, pattern: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The image and its detail without the pattern, both float32 (size, size) and turned."""
    pixels = standardized(image[0], size)
    fine = detail(pixels)
    if pattern is not None:
        pattern = resized(pattern, size)
        fine = fine - pattern * ((fine * pattern).sum() / max((pattern * pattern).sum(), 1e-6))
    return turned(pixels, *image[1]), turned(fine, *image[1])


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _in_pixels(matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """An affine matrix (3, 3) of shares of an image as one (2, 3) of pixels, which count from their centres."""
    pixels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
    return (pixels @ matrix @ np.linalg.inv(pixels))[:2].astype(np.float32)


def _in_shares(matrix: np.ndarray, size: int) -> np.ndarray:
    """The inverse of `_in_pixels`."""
    pixels = np.array([[size, 0, -0.5], [0, size, -0.5], [0, 0, 1]])
    return np.linalg.inv(pixels) @ np.vstack([matrix, [0, 0, 1]]) @ pixels


def _aligned(a: np.ndarray, b: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The matrix (2, 3) from pixels of `b` to those of `a`, and how much of `a` is cut off, as a share of a side."""
    size, (left, top, width, height) = len(a), window
    start = found = np.array([[width, 0, left], [0, height, top], [0, 0, 1]])
    try:
        for small, steps, blur in ((size // (4 if size >= 96 else 2), 30, 1), (size, 15, 3)) if size >= ALIGNED else ():
            until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
            pair, everywhere = (resized(b, small), resized(a, small)), np.full((small, small), 255, np.uint8)
            guess = _in_pixels(found, small, small)
            _, closer = cv2.findTransformECC(*pair, guess, cv2.MOTION_AFFINE, until, everywhere, blur)
            found = _in_shares(closer, small)
    except cv2.error:  # it did not converge: they have nothing in common
        found = start
    corner, scales, skew = found[:2, 2], found.diagonal()[:2], max(abs(found[0, 1]), abs(found[1, 0]))
    end = corner + scales
    if skew > 0.03 or scales.min() < 0.7 or scales.max() > 1.1 or corner.min() < -0.08 or end.max() > 1.08:
        found, corner, scales = start, start[:2, 2], start.diagonal()[:2]
    return _in_pixels(found, size, size), float(max(np.abs(1 - scales).max(), np.abs(corner).max()))


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

    The larger one is brought to the size of the smaller one. How a copy was resized is not known: by which filter, and
    whether the factor was exact or fitted to whole pixels (which moves the far edge by up to half a pixel, enough to
    hide a copy of a small image). The nearest of the usual ways counts.
    """
    larger, smaller = (first, second) if first.size >= second.size else (second, first)
    (tall, wide), (height, width) = larger.shape, smaller.shape
    shrink = min(1.0, DECODE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    least, most = max((width - 0.5) / wide, (height - 0.5) / tall), min((width + 0.5) / wide, (height + 0.5) / tall)
    factors = np.linspace(least, most, STRETCHES) if least <= most else ()
    stretches = [(1.0, 1.0), *((factor * wide / width, factor * tall / height) for factor in factors)]
    aim, distances = normalized(cv2.resize(smaller, size, interpolation=cv2.INTER_AREA)), []
    for way in (cv2.INTER_AREA, cv2.INTER_LINEAR):
        moved = cv2.resize(larger, (width, height), interpolation=way)
        moved = cv2.resize(moved, size, interpolation=cv2.INTER_AREA)
        for across, down in stretches:
            matrix = _in_pixels(np.diag([1 / across, 1 / down, 1]), *size)
            distances.append(float(np.linalg.norm(normalized(_moved(moved, matrix)) - aim)))
    return min(distances)
