"""Near-duplicate images: copies that were encoded again or resized; not those that were cropped, mirrored or turned.

The distance of two images is that of their grey pixels after contrast is normalised, sqrt(2 - 2 correlation). It is
taken of 16 x 16 thumbnails first, all with all; then, for the few near pairs, of the pixels themselves, the larger one
brought to the size of the smaller one. Measured on the demo's images: copies (half to double size, JPEG at quality 70,
and both at once) are at most 0.055 apart in the smaller of the two; the two most alike of 1,797 different digits 0.086.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from pipeline.data.reading import Reader
from pipeline.data.scan import DECODE, grey, normalized

NEAR = 0.22  # largest distance of two thumbnails that is worth a closer look
COPY = 0.068  # largest distance of copies, in the smaller of thumbnails and pixels
DIFFERENT = 0.35  # pixels that are further apart are no copies, however alike the thumbnails are
MOST_PAIRS = 50_000  # no more pairs are looked at closely; the nearest ones are kept
STRETCHES = 7

Pair = tuple[int, int, float]  # two positions and their distance


def near_pairs(
    thumbnails: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray], block: int = 2048
) -> tuple[list[Pair], bool]:
    """Pairs of near thumbnails, and whether there are so many that only the nearest were kept.

    The products are taken block by block, so that memory does not grow with the square of the number of images.

    Args:
        thumbnails: float32 (N, P), each of mean 0 and norm 1; rows of zeros are left out.
        wanted: which pairs of positions count, bool of the shape of its two int64 arguments.
    """
    least = 1 - NEAR**2 / 2
    usable = np.flatnonzero(thumbnails.any(axis=1))
    found = np.zeros((3, 0))
    incomplete = False
    for start, other in itertools.combinations_with_replacement(range(0, len(usable), block), 2):
        left, right = usable[start : start + block], usable[other : other + block]
        products = thumbnails[left] @ thumbnails[right].T
        i, j = np.nonzero(products >= least)
        a, b = left[i], right[j]
        kept = a < b
        kept[kept] = wanted(a[kept], b[kept])
        found = np.concatenate([found, np.stack([a[kept], b[kept], products[i[kept], j[kept]]])], axis=1)
        if found.shape[1] > MOST_PAIRS:
            incomplete = True
            found = found[:, np.argsort(-found[2], kind="stable")[:MOST_PAIRS]]
    distances = np.sqrt(np.maximum(0, 2 - 2 * found[2]))
    return [(int(a), int(b), float(d)) for a, b, d in zip(found[0], found[1], distances, strict=True)], incomplete


def copies(near: Sequence[Pair], paths: Sequence[Any], reader: Reader) -> Iterator[Pair]:
    """The near pairs that are copies, by their pixels; the smaller one of both distances goes with them.

    Args:
        paths: what the reader takes as the place of each image.
    """

    @functools.lru_cache(maxsize=2048)
    def pixels(row: int) -> np.ndarray:
        return grey(reader(paths[row], (DECODE, DECODE)))

    # In the order of the rows, so that an image is seldom read more than once.
    for a, b, coarse in sorted(near):
        fine = pixel_distance(pixels(a), pixels(b))
        if min(coarse, fine) <= COPY and fine <= DIFFERENT:
            yield a, b, min(coarse, fine)


def pixel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two grey images (H, W), from 0 for copies to 2.

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
        resized = cv2.resize(larger, (width, height), interpolation=way)
        resized = cv2.resize(resized, size, interpolation=cv2.INTER_AREA)
        nearest = min(nearest, float(np.linalg.norm(normalized(resized) - aim)))
        if COPY / 2 < nearest <= DIFFERENT:
            for across, down in _stretches(larger.shape, smaller.shape):
                matrix = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]])
                moved = cv2.warpAffine(resized, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                nearest = min(nearest, float(np.linalg.norm(normalized(moved) - aim)))
    return nearest


def _stretches(larger: tuple[int, ...], smaller: tuple[int, ...]) -> list[tuple[float, float]]:
    """How far width and height can be off if one factor for both was rounded to whole pixels; empty if it was not."""
    (tall, wide), (height, width) = larger, smaller
    least = max((width - 0.5) / wide, (height - 0.5) / tall)
    most = min((width + 0.5) / wide, (height + 0.5) / tall)
    if least > most:
        return []
    return [(factor * wide / width, factor * tall / height) for factor in np.linspace(least, most, STRETCHES)]
