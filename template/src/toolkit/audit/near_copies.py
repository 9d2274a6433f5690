"""Near-duplicate images: copies that were encoded again, resized, mirrored, turned by 90 degrees or cropped a little.

Structure alike is no copy: all images of a medical set may have the same outline. So a pair is measured against its own
set. First the thumbnails of all images are compared, all with all, less what is usual in the set; each thumbnail also
turned, and cut to four fifths at the least. Then the nearest pairs are laid upon each other (`likeness`). A pair is a
copy if it is near in its pixels or shares its fine detail, noise included, and both clearly more than its two images do
with others that look like them: those at the places of `RANKS` among their neighbours. So of more than a dozen copies
of one image, none is unusual. Images of less than 64 pixels, or without detail as fine as that, are compared by their
pixels alone, and crops of them are not found.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from toolkit.audit.likeness import (
    ALIGNED,
    DETAIL,
    WHOLE,
    Likeness,
    Window,
    detail,
    likeness,
    resized,
    resolution,
    standardized,
    turned,
)
from toolkit.audit.scan import SIDE, grey
from toolkit.images.pixels import Size
from toolkit.terminal import progress

COPY = 0.068  # pixels that are further apart are copies only if their detail says so
RANKS = (12, 20, 30)  # places among the neighbours of an image, of those that it is compared with for what is usual
PATTERN_IMAGES = (16, 128)  # with fewer, what they share is not known; of more, so many are read
KEPT_IMAGES = 512  # in memory, each of no more than 256 x 256 float32
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


class Copies:
    """Tells which near pairs are copies.

    Args:
        thumbnails: of all images, as for `near_pairs`.
        read: gives the image (H, W, C) at a position, at no less than a height and width; near ones are read again.
    """

    def __init__(self, thumbnails: np.ndarray, read: Callable[[int, Size], np.ndarray]) -> None:
        usable = usable_rows(thumbnails)
        # The same picture many times is one neighbour.
        _, first, places = np.unique(thumbnails[usable], axis=0, return_index=True, return_inverse=True)
        self.rows = usable[first]
        self.place = dict(zip(usable.tolist(), places.ravel().tolist(), strict=True))
        self.set = Thumbnails(thumbnails[self.rows])
        self.read = read
        self.pixels = functools.lru_cache(maxsize=KEPT_IMAGES)(self._pixels)
        self.resolution = functools.lru_cache(maxsize=65536)(lambda row: resolution(self.pixels(row)))
        self.neighbours = functools.lru_cache(maxsize=65536)(self._neighbours)
        self.pattern = self._pattern()

    def _pixels(self, row: int) -> np.ndarray:
        image: np.ndarray = grey(self.read(row, (DETAIL, DETAIL))).astype(np.float32)
        most = 2 * DETAIL
        if max(image.shape) > most:
            size = min(image.shape[1], most), min(image.shape[0], most)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return image

    def _pattern(self) -> np.ndarray | None:
        """float32 (DETAIL, DETAIL): the mean of the images' details, such as a form or a marker that all have."""
        fewest, most = PATTERN_IMAGES
        if len(self.rows) < fewest:
            return None
        chosen = self.rows[np.linspace(0, len(self.rows) - 1, min(len(self.rows), most)).astype(int)]
        mean: np.ndarray = sum(
            (detail(standardized(resized(self.pixels(int(row)), DETAIL))) for row in chosen),
            np.zeros((DETAIL, DETAIL), np.float32),
        ) / np.float32(len(chosen))
        return mean

    def _neighbours(self, row: int) -> list[tuple[int, int]]:
        """Images at `RANKS` among those that look like that of a row, and how each is turned to do so."""
        place = self.place[row]
        scores = np.stack([views @ self.set.turned[0][place] for views in self.set.turned])
        found = []
        for turns in (1, len(TURNS)):  # the upright ones, and those that may be turned
            order = np.argsort(-scores[:turns].max(axis=0), kind="stable")
            order = order[order != place]
            for other in order[sorted({min(rank, len(order) // 2) for rank in RANKS})] if len(order) else ():
                found.append((int(self.rows[other]), int(scores[:turns, other].argmax())))
        return found

    def find(self, near: Sequence[Near]) -> Iterator[tuple[int, int, float]]:
        """The near pairs that are copies, with the distance of their pixels."""
        # In the order of the rows, so that an image is seldom read more than once.
        ordered = sorted(near, key=lambda pair: (pair.first, pair.second))
        for pair in progress(ordered, "comparing images that look alike"):
            found = self._compare((pair.first, 0), (pair.second, 0), pair)
            if self._stands_out(pair, found):
                yield min(pair.first, pair.second), max(pair.first, pair.second), found.distance

    def _compare(self, first: tuple[int, int], second: tuple[int, int], pair: Near) -> Likeness:
        a, b = ((self.pixels(row), turn) for row, turn in (first, second))
        # A copy may have lost detail, not gained it: the finer of the pair says how finely they are compared.
        finest = max(self.resolution(pair.first), self.resolution(pair.second))
        return likeness(a, b, pair.turn, pair.window, finest, self.pattern)

    def _stands_out(self, pair: Near, found: Likeness) -> bool:
        """Whether the two are a copy, also beside what either has in common with others that look like it."""
        detail, distance = 0.0, 2.0
        if not is_copy(found, detail, distance):
            return False
        for mine, others in zip(self.neighbours(pair.first), self.neighbours(pair.second), strict=True):
            others_of_both = []
            if mine[0] != pair.second:
                others_of_both.append(self._compare(mine, (pair.second, 0), pair))
            if others[0] != pair.first:
                others_of_both.append(self._compare((pair.first, 0), others, pair))
            for usual in others_of_both:
                detail, distance = max(detail, usual.detail), min(distance, usual.distance)
                if not is_copy(found, detail, distance):
                    return False
        return True


def is_copy(found: Likeness, detail: float, distance: float) -> bool:
    """Whether two images are copies, where the most alike others of the set have this detail and distance.

    The limits are measured on drawn sets: outlines, chests, documents, forms, fundi, cells, digits, textures, scenes.
    """
    more = found.detail - detail
    nearer = float(np.log(max(distance, 1e-4) / max(found.distance, 1e-4)))
    correlation = float(np.tanh(found.detail))
    if found.whole and found.distance <= COPY and nearer >= 0.7:
        return True
    if found.fineness < ALIGNED:
        return False
    if found.distance <= 0.25 and nearer >= 1.6 and more >= 0:
        return correlation >= 0.5 if found.whole else correlation >= 0.6 and found.area >= 0.7
    if found.whole and found.distance <= 0.5 and correlation >= 0.6 and more >= 0.85:
        return nearer >= (0 if found.area >= 0.7 else 0.4)
    if found.distance <= 0.5 and correlation >= 0.7 and more >= 1 and found.area >= 0.7 and nearer >= 0.6:
        return True
    # Something was laid over a part of it, such as a text: the pixels differ, the detail elsewhere does not.
    return found.distance <= 1 and correlation >= 0.8 and more >= 1 and found.area >= 0.7 and nearer >= 0.1
