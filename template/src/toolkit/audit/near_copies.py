"""Near-duplicate images: copies that were encoded again, resized, mirrored, turned by 90 degrees or cropped a little.

Structure alike is no copy: all images of a medical set may have the same outline. So a pair is measured against its own
set. First the thumbnails of all images are compared, all with all, less what is usual in the set; each thumbnail also
turned, and cut to four fifths at the least. Then the nearest pairs are laid upon each other (`likeness`). A pair is a
copy if it is near in its pixels or shares its fine detail, noise included, and both clearly more than its two images do
with others that look like them: those at the places of `RANKS` among their neighbours. So of more than a dozen copies
of one image, none is unusual. Images of less than 64 pixels are compared by their pixels alone, and crops of them are
not found.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.preprocessing import normalize

from toolkit.audit.likeness import DETAIL, WHOLE, Likeness, Window, likeness, turned
from toolkit.audit.scan import SIDE, grey
from toolkit.images.pixels import Size
from toolkit.terminal import progress

RANKS = (12, 20, 30)  # places among the neighbours of an image, of those that it is compared with for what is usual
CACHED_IMAGES = 512  # in memory, each of no more than 256 x 256 float32
LIKELY = 0.5  # least likeness of two thumbnails, from -1 to 1, that is worth a closer look
MOST_PAIRS = 10_000  # no more pairs are looked at closely, and no more than `PAIRS_PER_IMAGE`: the likeliest ones
PAIRS_PER_IMAGE = 5
TURNS = range(8)
COMPONENTS = 64
MOST_CROPPED, MOST_TURNED = 10_000, 50_000  # images: the time grows with the square of their number
WINDOWS: list[Window] = [WHOLE] + [
    (left, top, share, share)
    for share, corners in ((0.9, (0, 0.05, 0.1)), (0.8, (0, 0.1, 0.2)))
    for top, left in itertools.product(corners, corners)
]


class Near(NamedTuple):
    """Two positions whose thumbnails are alike, and how the first image is turned and cut to become the second."""

    first: int
    second: int
    turn: int
    window: Window


def views_for(count: int) -> list[tuple[int, Window]]:
    """How each of so many thumbnails is turned and cut before it is compared with all others."""
    turns = TURNS if count <= MOST_TURNED else TURNS[:2]
    return [(turn, window) for turn in turns for window in (WINDOWS if turn < 2 and count <= MOST_CROPPED else [WHOLE])]


def not_looked_for(count: int) -> list[str]:
    """The sorts of copies that are not looked for among so many images, since it would take too long."""
    crops = [f"crops (of more than {MOST_CROPPED:,} images)"] if count > MOST_CROPPED else []
    return crops + ([f"turned images (of more than {MOST_TURNED:,})"] if count > MOST_TURNED else [])


class Thumbnails:
    """Thumbnails less what is usual in their set: its mean image, and the directions in which its images differ.

    Args:
        pixels: float32 (N, 256), the thumbnails of `scan.Look`.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        count = len(pixels)
        # Of a few images the mean says little, and taking it off would make any two of them opposites.
        self.mean = pixels.mean(axis=0) * np.float32(count / (count + 20))
        varying = pixels - self.mean
        values, vectors = np.linalg.eigh((varying.T @ varying).astype(np.float64) / count)
        values = np.maximum(values, 0)
        scales = np.sqrt(values[-COMPONENTS:] + values.mean() + 1e-12)
        self.weights = (vectors[:, -COMPONENTS:] / scales).astype(np.float32)
        self.turned = [self.view(turn, WHOLE) for turn in TURNS]

    def view(self, turn: int, window: Window) -> np.ndarray:
        """float32 (N, 64) of norm 1: the thumbnails turned, and of them a window."""
        images = turned(self.pixels.reshape(-1, SIDE, SIDE), turn)
        if window != WHOLE:
            left, top, width, height = window
            images = _interpolation(top, height) @ images @ _interpolation(left, width).T
        flat = images.reshape(len(images), -1)
        found: np.ndarray = normalize((normalize(flat - flat.mean(axis=1, keepdims=True)) - self.mean) @ self.weights)
        return found


def _interpolation(start: float, share: float) -> np.ndarray:
    """float32 (SIDE, SIDE): the matrix that enlarges a part of a line to the whole of it."""
    line = np.arange(SIDE, dtype=np.float32)
    across, down = np.meshgrid(line, ((start + share * (line + 0.5) / SIDE) * SIDE - 0.5).astype(np.float32))
    return cv2.remap(np.eye(SIDE, dtype=np.float32), across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def near_pairs(
    thumbnails: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray], block: int = 256
) -> tuple[list[Near], bool]:
    """Pairs of alike thumbnails, and whether there are so many that only the likeliest were taken.

    Args:
        thumbnails: float32 (N, 256), each of mean 0 and norm 1; rows of zeros are left out.
        wanted: which pairs of positions count, bool of the shape of its two int64 arguments.
        block: how many are compared with all others at once, so that memory does not grow with N squared.
    """
    usable = usable_rows(thumbnails)
    if len(usable) < 2:
        return [], False
    known, views = Thumbnails(thumbnails[usable]), views_for(len(usable))
    most = min(MOST_PAIRS, max(500, PAIRS_PER_IMAGE * len(usable)))
    found, least, incomplete = np.zeros((4, 0)), LIKELY, False
    for number, (turn, window) in enumerate(progress(views, "comparing thumbnails")):
        view = known.view(turn, window)
        both_ways = window == WHOLE and turn not in (5, 6)  # the other two turns undo each other, not themselves
        for start in range(0, len(usable), block):
            others = start if both_ways else 0
            products = view[start : start + block] @ known.turned[0][others:].T
            left, right = np.nonzero(products >= least)
            a, b = usable[start + left], usable[others + right]
            counts = a < b if both_ways else a != b
            counts[counts] = wanted(a[counts], b[counts])
            more = np.stack([a, b, products[left, right], np.full(len(a), number)])[:, counts]
            found = np.concatenate([found, more], axis=1)
            if found.shape[1] > 4 * most:
                found = _likeliest_views(found)
                if found.shape[1] > most:
                    found, incomplete, least = found[:, :most], True, float(found[2, most - 1])
    found = _likeliest_views(found)
    incomplete = incomplete or found.shape[1] > most
    return [Near(int(a), int(b), *views[int(view)]) for a, b, _, view in found[:, :most].T], incomplete


def usable_rows(thumbnails: np.ndarray) -> np.ndarray:
    """Positions of the images that have contrast."""
    return np.flatnonzero(thumbnails.any(axis=1) & np.isfinite(thumbnails).all(axis=1))


def _likeliest_views(found: np.ndarray) -> np.ndarray:
    """Of each pair the likeliest view; the likeliest pairs first."""
    found = found[:, np.lexsort((found[3], found[1], found[0], -found[2]))]
    _, first = np.unique(np.sort(found[:2], axis=0), axis=1, return_index=True)
    return found[:, np.sort(first)]


class Copies:
    """Tells which near pairs are copies.

    Args:
        thumbnails: of all images, as for `near_pairs`.
        read: gives the image (H, W, C) at a position, at no less than a height and width; near ones are read again.
    """

    def __init__(self, thumbnails: np.ndarray, read: Callable[[int, Size], np.ndarray]) -> None:
        usable = usable_rows(thumbnails)
        # The same picture many times is one neighbour.
        _, first, position = np.unique(thumbnails[usable], axis=0, return_index=True, return_inverse=True)
        self.rows = usable[first]
        self.position = dict(zip(usable.tolist(), position.ravel().tolist(), strict=True))
        self.turned = Thumbnails(thumbnails[self.rows]).turned
        self.read = read
        self.pixels = functools.lru_cache(maxsize=CACHED_IMAGES)(self._pixels)
        self.neighbours = functools.lru_cache(maxsize=65536)(self._neighbours)

    def _pixels(self, row: int) -> np.ndarray:
        image = grey(self.read(row, (DETAIL, DETAIL)))
        height, width = (min(length, 2 * DETAIL) for length in image.shape)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    def _neighbours(self, row: int) -> list[tuple[int, int]]:
        """Images at `RANKS` among those that look like that of a row, and how each is turned to do so."""
        position = self.position[row]
        scores = np.stack([view @ self.turned[0][position] for view in self.turned])
        order = np.argsort(-scores.max(axis=0), kind="stable")
        order = order[order != position]
        ranks = sorted({min(rank, len(order) // 2) for rank in RANKS}) if len(order) else []
        return [(int(self.rows[other]), int(scores[:, other].argmax())) for other in order[ranks]]

    def find(self, near: Sequence[Near]) -> Iterator[tuple[int, int, float]]:
        """The near pairs that are copies, also beside what either has in common with others, and their distance."""
        for pair in progress(sorted(near), "comparing images that look alike"):  # sorted: few are read more than once
            first, second = (pair.first, 0), (pair.second, 0)
            found, detail, distance = self._compare(pair, first, second), 0.0, 2.0
            others = [
                *((other, second) for other in self.neighbours(pair.first)),
                *((first, other) for other in self.neighbours(pair.second)),
            ]
            usual = (self._compare(pair, a, b) for a, b in others if a[0] != b[0])
            for one in usual if found.is_copy(detail, distance) else ():
                detail, distance = max(detail, one.detail), min(distance, one.distance)
                if not found.is_copy(detail, distance):
                    break
            if found.is_copy(detail, distance):
                yield min(pair[:2]), max(pair[:2]), found.distance

    def _compare(self, pair: Near, first: tuple[int, int], second: tuple[int, int]) -> Likeness:
        a, b = (self.pixels(first[0]), (first[1], pair.turn)), (self.pixels(second[0]), (second[1],))
        return likeness(a, b, pair.window)
