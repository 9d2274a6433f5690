"""How alike two images are, pixel by pixel and in their fine detail, once one is laid upon the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from toolkit.audit.scan import DECODE, normalized

DETAIL = 128  # images are compared at no more than this height and width
ALIGNED = 64  # smaller images hold too little detail for it to be told which part of one the other shows
FLAT = 0.02  # a standard deviation of detail, over that of the image, below which there is none
STRONG = 0.12  # one above which no usual JPEG quality removes it
STRETCHES = 7
Window = tuple[float, float, float, float]  # left, top, width and height in shares of an image
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)


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


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """The image (..., H, W) in one of eight ways: mirrored (bit 0), upside down (bit 1), transposed first (bit 2)."""
    image = image.swapaxes(-1, -2) if turn & 4 else image
    image = image[..., ::-1, :] if turn & 2 else image
    return np.ascontiguousarray(image[..., ::-1] if turn & 1 else image)


def standardized(image: np.ndarray) -> np.ndarray:
    """float32 of mean 0 and standard deviation 1."""
    image = image.astype(np.float32) - np.float32(image.mean(dtype=np.float64))
    result: np.ndarray = image / max(float(image.std()), 1e-6)
    return result


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The image (H, W) at `size` x `size`."""
    way = cv2.INTER_AREA if min(image.shape) >= size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=way)


def detail(image: np.ndarray) -> np.ndarray:
    """What is finer than the structure, and coarser than what encoding again changes."""
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.8, 3.2))
    return fine - coarse


def resolution(image: np.ndarray) -> int:
    """Height and width in pixels that hold the detail of a grey image (H, W): less than it has where it is smooth."""
    size = min(DETAIL, *image.shape)
    while size >= 32:
        pixels = standardized(resized(image, size))
        rest = pixels - cv2.resize(resized(pixels, size // 2), (size, size), interpolation=cv2.INTER_CUBIC)
        if (cv2.GaussianBlur(rest * rest, (0, 0), max(1.5, size / 40)) > FLAT**2).mean() >= 0.5:
            break
        size //= 2
    return size


def likeness(
    first: tuple[np.ndarray, int],
    second: tuple[np.ndarray, int],
    turn: int,
    window: Window,
    fineness: int,
    pattern: np.ndarray | None,
) -> Likeness:
    """Lay the first image upon the second one and compare them.

    Args:
        first, second: grey float32 (H, W) of any size, and how each is turned before anything else.
        turn, window: what is done with the first one to become like the second: turned, then cut. The place is found
            exactly from there; where that fails, it stays.
        fineness: the `resolution` of the finer one.
        pattern: float32 (DETAIL, DETAIL), detail that all images of the set share, which does not count.
    """
    size = max(8, min(DETAIL, *first[0].shape, *second[0].shape))
    fineness = min(size, fineness)
    a, b = (standardized(resized(pixels, size)) for pixels, _ in (first, second))
    details = [_without(detail(image), pattern) for image in (a, b)]
    a, details[0] = (turned(turned(image, first[1]), turn) for image in (a, details[0]))
    b, details[1] = (turned(image, second[1]) for image in (b, details[1]))
    matrix, cut = _aligned(a, b, window if fineness >= ALIGNED else WHOLE)
    moved, detail_a = (_moved(image, matrix) for image in (a, details[0]))
    valid = cv2.warpAffine(np.ones_like(a), matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 0.99
    distance = float(np.linalg.norm(normalized(moved[valid]) - normalized(b[valid])))
    whole = cut <= 0.03
    if whole and 0.02 < distance <= 0.35:
        distance = min(distance, pixel_distance(turned(turned(first[0], first[1]), turn), turned(*second)))
    return Likeness(fineness, whole, distance, *_shared_detail(detail_a, details[1], valid))


def _without(image: np.ndarray, pattern: np.ndarray | None) -> np.ndarray:
    """The detail less what of it is the pattern."""
    if pattern is None:
        return image
    pattern = resized(pattern, image.shape[0])
    amount = float((image * pattern).sum()) / max(float((pattern * pattern).sum()), 1e-6)
    result: np.ndarray = image - np.float32(amount) * pattern
    return result


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _aligned(a: np.ndarray, b: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The matrix (2, 3) from pixels of `b` to those of `a`, and how much of `a` is cut off, as a share of a side."""
    size = a.shape[0]
    left, top, width, height = window
    start = _shifted(np.array([[width, 0, left * size], [0, height, top * size]]), -0.5)
    found = _registered(a, b, start) if size >= ALIGNED else start
    corners = _shifted(found, 0.5)
    scales = np.diag(corners[:, :2])
    begin, end = corners[:, 2] / size, corners[:, 2] / size + scales
    skew = max(abs(found[0, 1]), abs(found[1, 0]))
    if skew > 0.03 or scales.min() < 0.7 or scales.max() > 1.1 or begin.min() < -0.08 or end.max() > 1.08:
        return start.astype(np.float32), max(1 - width, 1 - height)
    return found.astype(np.float32), float(max(np.abs(1 - scales).max(), np.abs(begin).max()))


def _shifted(matrix: np.ndarray, by: float) -> np.ndarray:
    """The matrix for coordinates that count from corners (0.5) instead of from centres, or back (-0.5)."""
    matrix = matrix.copy()
    matrix[:, 2] += by - by * matrix[:, :2].sum(axis=1)
    return matrix


def _registered(a: np.ndarray, b: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix that brings both images closest, from a coarse size to a fine one; as given if there is none."""
    size, found = a.shape[0], matrix
    for small, steps, blur in ((size // (4 if size >= 96 else 2), 30, 1), (size, 15, 3)):
        scaled = _shifted(found, 0.5)
        scaled[:, 2] *= small / size
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
        fixed, moving = resized(b, small), resized(a, small)
        everywhere = np.full(moving.shape, 255, np.uint8)
        try:
            guess = _shifted(scaled, -0.5).astype(np.float32)
            _, closer = cv2.findTransformECC(fixed, moving, guess, cv2.MOTION_AFFINE, criteria, everywhere, blur)
        except cv2.error:  # it did not converge: they have nothing in common
            return matrix
        found = _shifted(closer.astype(np.float64), 0.5)
        found[:, 2] *= size / small
        found = _shifted(found, -0.5)
    return found


def _shared_detail(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """`Likeness.detail` and `Likeness.area`. Detail is divided by its strength nearby, or edges would decide alone."""
    sigma = max(1.5, a.shape[0] / 40)
    energy_a, energy_b = (cv2.GaussianBlur(image * image * valid, (0, 0), sigma) for image in (a, b))
    weak, strong = np.minimum(energy_a, energy_b), np.maximum(energy_a, energy_b)
    # Where one of both has faint detail only, JPEG may have removed it from the other: that says nothing.
    known = valid & (strong > FLAT**2) & ((weak > strong / 9) | (strong > STRONG**2))
    left, right = (a / np.sqrt(energy_a + FLAT**2))[known], (b / np.sqrt(energy_b + FLAT**2))[known]
    scale = max(float(np.linalg.norm(left) * np.linalg.norm(right)), 1e-6)
    correlation = float(left @ right) / scale
    return float(np.arctanh(np.clip(correlation, -0.9999, 0.9999))), float(known.mean())


def pixel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two grey images (H, W) of the same scene, from 0 for copies to 2.

    The larger one is brought to the size of the smaller one. How a copy was resized is not known: by which filter, and
    whether the factor was exact or fitted to whole pixels (which moves the far edge by up to half a pixel, enough to
    hide a copy of a small image). The nearest of the usual ways counts.
    """
    larger, smaller = (first, second) if first.size >= second.size else (second, first)
    height, width = smaller.shape
    shrink = min(1.0, DECODE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    aim = normalized(cv2.resize(smaller, size, interpolation=cv2.INTER_AREA))
    nearest = 2.0
    for way in (cv2.INTER_AREA, cv2.INTER_LINEAR):
        moved = cv2.resize(larger, (width, height), interpolation=way)
        moved = cv2.resize(moved, size, interpolation=cv2.INTER_AREA)
        nearest = min(nearest, float(np.linalg.norm(normalized(moved) - aim)))
        if 0.034 < nearest <= 0.35:
            for matrix in _stretches(larger.shape, smaller.shape):
                stretched = cv2.warpAffine(moved, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                nearest = min(nearest, float(np.linalg.norm(normalized(stretched) - aim)))
    return nearest


def _stretches(larger: tuple[int, ...], smaller: tuple[int, ...]) -> Iterator[np.ndarray]:
    """How width and height can be off if one factor for both was rounded to whole pixels; nothing if it was not."""
    (tall, wide), (height, width) = larger, smaller
    least = max((width - 0.5) / wide, (height - 0.5) / tall)
    most = min((width + 0.5) / wide, (height + 0.5) / tall)
    for factor in np.linspace(least, most, STRETCHES) if least <= most else ():
        yield _shifted(np.array([[factor * wide / width, 0, 0], [0, factor * tall / height, 0]], np.float64), -0.5)
