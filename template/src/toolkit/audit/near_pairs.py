"""Pairs of images whose thumbnails are alike, also turned or cut: what is worth a closer look for copies."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from toolkit.audit.likeness import WHOLE, Window, turned
from toolkit.audit.scan import SIDE
from toolkit.terminal import progress

LIKELY = 0.5  # least likeness of two thumbnails, from -1 to 1, that is worth a closer look
MOST_PAIRS = 10_000  # no more pairs are looked at closely, and no more than `PAIRS_PER_IMAGE`: the likeliest ones
PAIRS_PER_IMAGE = 5
TURNS = range(8)
COMPONENTS = 64
MOST_CROPPED, MOST_TURNED = 10_000, 50_000  # images: the time grows with the square of their number


@dataclass(frozen=True)
class Near:
    """Two positions whose thumbnails are alike, and how the first image is turned and cut to become the second."""

    first: int
    second: int
    turn: int
    window: Window


def windows() -> Iterator[Window]:
    """The whole image, and the parts of it that a crop may show."""
    yield WHOLE
    for share, places in ((0.9, (0, 0.05, 0.1)), (0.8, (0, 0.1, 0.2))):
        for top, left in itertools.product(places, places):
            yield left, top, share, share


def views_for(count: int) -> list[tuple[int, Window]]:
    """How each of so many thumbnails is turned and cut before it is compared with all others."""
    if count <= MOST_CROPPED:
        return [(turn, window) for turn in TURNS for window in windows() if window == WHOLE or turn < 2]
    return [(turn, WHOLE) for turn in (TURNS if count <= MOST_TURNED else TURNS[:2])]


def not_looked_for(count: int) -> list[str]:
    """The sorts of copies that are not looked for among so many images, since it would take too long."""
    crops = [f"crops (of more than {MOST_CROPPED:,} images)"] if count > MOST_CROPPED else []
    return crops + ([f"turned images (of more than {MOST_TURNED:,})"] if count > MOST_TURNED else [])


class Thumbnails:
    """Thumbnails less what is usual in their set: its mean image, and the directions in which its images differ.

    Args:
        pixels: float32 (N, 256) of `scan.thumbnail`.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        count = len(pixels)
        # Of a few images the mean says little, and taking it off would make any two of them opposites.
        self.mean = pixels.mean(axis=0) * np.float32(count / (count + 20))
        varying = pixels - self.mean
        values, vectors = np.linalg.eigh((varying.T @ varying).astype(np.float64) / count)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1][:, :COMPONENTS]
        self.weights = (vectors / np.sqrt(values[:COMPONENTS] + values.mean() + 1e-12)).astype(np.float32)
        self.turned = [self.seen(turn, WHOLE) for turn in TURNS]

    def seen(self, turn: int, window: Window) -> np.ndarray:
        """float32 (N, 64) of norm 1: the thumbnails turned, and of them a window."""
        images = turned(self.pixels.reshape(-1, SIDE, SIDE), turn)
        if window != WHOLE:
            left, top, width, height = window
            images = _interpolation(top, height) @ images @ _interpolation(left, width).T
        flat = images.reshape(len(images), -1)
        return _unit((_unit(flat - flat.mean(axis=1, keepdims=True)) - self.mean) @ self.weights)


def _unit(rows: np.ndarray) -> np.ndarray:
    result: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return result


def _interpolation(start: float, share: float) -> np.ndarray:
    """float32 (SIDE, SIDE): the matrix that enlarges a part of a line to the whole of it."""
    line = np.arange(SIDE, dtype=np.float32)
    places = ((start + share * (line + 0.5) / SIDE) * SIDE - 0.5).astype(np.float32)
    across, down = np.meshgrid(line, places)
    return cv2.remap(np.eye(SIDE, dtype=np.float32), across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def near_pairs(
    thumbnails: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray], block: int = 1024
) -> tuple[list[Near], bool]:
    """Pairs of alike thumbnails, and whether there are so many that only the likeliest were kept.

    The products are taken block by block, so that memory does not grow with the square of the number of images.

    Args:
        thumbnails: float32 (N, 256), each of mean 0 and norm 1; rows of zeros are left out.
        wanted: which pairs of positions count, bool of the shape of its two int64 arguments.
    """
    usable = usable_rows(thumbnails)
    if len(usable) < 2:
        return [], False
    set_ = Thumbnails(thumbnails[usable])
    most = min(MOST_PAIRS, max(500, PAIRS_PER_IMAGE * len(usable)))
    found, least, incomplete = np.zeros((4, 0)), LIKELY, False
    chosen = views_for(len(usable))
    for number, (turn, window) in enumerate(progress(chosen, "comparing thumbnails")):
        views, whole = set_.seen(turn, window), set_.turned[0]
        both_ways = window == WHOLE and turn not in (5, 6)  # the other two turns undo each other, not themselves
        for i, j in itertools.product(range(0, len(usable), block), repeat=2):
            if both_ways and j < i:
                continue
            products = views[i : i + block] @ whole[j : j + block].T
            left, right = np.divmod(np.flatnonzero(products >= least), products.shape[1])
            a, b = usable[i + left], usable[j + right]
            kept = a < b if both_ways else a != b
            kept[kept] = wanted(a[kept], b[kept])
            more = np.stack([a[kept], b[kept], products[left[kept], right[kept]], np.full(int(kept.sum()), number)])
            found = np.concatenate([found, more], axis=1)
            if found.shape[1] > 4 * most:
                found = _likeliest_views(found)
                if found.shape[1] > most:
                    found, incomplete = found[:, :most], True
                    least = float(found[2, -1])
    found = _likeliest_views(found)
    incomplete = incomplete or found.shape[1] > most
    return [Near(int(a), int(b), *chosen[int(view)]) for a, b, _, view in found[:, :most].T], incomplete


def usable_rows(thumbnails: np.ndarray) -> np.ndarray:
    """Positions of the images that have contrast."""
    return np.flatnonzero(thumbnails.any(axis=1) & np.isfinite(thumbnails).all(axis=1))


def _likeliest_views(found: np.ndarray) -> np.ndarray:
    """Of each pair the likeliest view; the likeliest pairs first."""
    found = found[:, np.lexsort((found[3], found[1], found[0], -found[2]))]
    pairs = np.stack([found[:2].min(axis=0), found[:2].max(axis=0)])
    _, first = np.unique(pairs, axis=1, return_index=True)
    return found[:, np.sort(first)]
