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
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from toolkit.audit.likeness import (
    ALIGNED,
    DETAIL,
    Likeness,
    detail,
    likeness,
    resized,
    resolution,
    standardized,
)
from toolkit.audit.near_pairs import TURNS, Near, Thumbnails, usable_rows
from toolkit.audit.scan import grey
from toolkit.images.pixels import Size
from toolkit.terminal import progress

COPY = 0.068  # pixels that are further apart are copies only if their detail says so
RANKS = (12, 20, 30)  # places among the neighbours of an image, of those that it is compared with for what is usual
PATTERN_IMAGES = (16, 128)  # with fewer, what they share is not known; of more, so many are read
KEPT_IMAGES = 512  # in memory, each of no more than 256 x 256 float32


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
