"""The truth of an image in the forms that competitions give. It holds text, points or paths, and decodes when asked."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.tasks.segmentation.base_truth import Truth, Window
from pipeline.tasks.segmentation.mask_files import COLOUR, IGNORED, mask_in, sort_out
from toolkit.errors import UserError
from toolkit.masks import rle
from toolkit.masks.maps import strips
from toolkit.masks.outlines import Polygon, filled, has_inner, rings_of
from toolkit.masks.sizes import Size, known_header, known_size, told_frame

BEYOND = 2.0  # pixels that an outline may leave the image


@dataclass(frozen=True, eq=False)
class RunTruth(Truth):
    """Masks as RLE.

    Attributes:
        runs: the texts of each class, one for each object or for all of them; none for an empty mask.
        order, first: see `rle`.
    """

    runs: tuple[tuple[str, ...], ...]
    order: rle.Order = "column"
    first: int = 1

    def _planes(self, window: Window) -> np.ndarray:
        planes = np.zeros((len(self.classes), *window[2:]), np.uint8)
        for plane, texts in zip(planes, self.runs, strict=True):
            if not texts:
                continue
            if window == (0, 0, *self.size):
                plane[:] = rle.decode(" ".join(texts), self.size, self.order, self.first)
            else:
                plane[:] = rle.decode_window(" ".join(texts), self.size, window, self.order, self.first)
        return planes

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return np.array([bool(texts) for texts in self.runs], bool)

    def areas(self) -> np.ndarray:
        counts = []
        for texts in self.runs:
            starts, ends = rle.runs(" ".join(texts), self.size, self.first)
            order = np.argsort(starts, kind="stable")
            reached = np.concatenate([[0], np.maximum.accumulate(ends[order])])  # runs may overlap
            counts.append(int(np.clip(ends[order] - np.maximum(starts[order], reached[:-1]), 0, None).sum()))
        return np.array(counts, np.int64)

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        texts = self.runs[class_index]
        if len(texts) < 2:  # one text for the whole mask, which may hold several objects
            return super().instances(class_index)
        return (rle.decode(text, self.size, self.order, self.first) for text in texts)

    def _pixel(self, class_index: int, generator: np.random.Generator) -> tuple[int, int]:
        starts, ends = rle.runs(" ".join(self.runs[class_index]), self.size, self.first)
        counted = np.cumsum(ends - starts)
        drawn = int(generator.integers(counted[-1]))
        run = int(np.searchsorted(counted, drawn, side="right"))
        place = int(ends[run]) - int(counted[run] - drawn)
        height, width = self.size
        if self.order == "row":
            return place // width, place % width
        return place % height, place // height


@dataclass(frozen=True, eq=False)
class FileTruth(Truth):
    """Masks in files.

    Attributes:
        files: one file for all classes, or one for each class; none where a class has no file and is empty so.
        codes: (value of a pixel, place of its class, `BACKGROUND` or `IGNORED`); empty: any value above 0 is the class,
            or above half of white where the file says so.
        above: without codes: the value above which a pixel is of the class, instead.
    """

    files: tuple[Path | None, ...]
    codes: tuple[tuple[int, int], ...] = ()
    above: int | None = None

    def _own_size(self) -> Size | None:
        file = next((file for file in self.files if file is not None), None)
        if isinstance(self.image, Path) and file is not None and (header := known_header(self.image)).orientation != 1:
            with contextlib.suppress(UserError):  # reading it will say what is wrong
                if told_frame(own := known_size(file), header):
                    return own
        return super()._own_size()

    def odd(self) -> list[str]:
        """What is to be known of how the files are read."""
        told = []
        for mask in (mask_in(file) for file in self.files if file is not None):
            if mask.alpha:
                told.append("what is transparent in the file (its alpha) decides, its colours do not")
            if self.codes:
                strange = set(mask.values) - {code for code, _ in self.codes}
                if strange:
                    told.append("the file holds values beside those that are named, which are read as the nearest")
            elif self.above is None and mask.lossy and mask.middle:
                told.append("the file is stored with loss (JPEG), and what is above half of white is the class")
            elif self.above is None and mask.middle:
                told.append("the file holds values between black and white; what is above half of white is the class")
            elif self.above is None and len(set(mask.values) - {0, COLOUR}) > 1:
                told.append("the file holds several values above 0, all of which are the class")
        return told

    def _planes(self, window: Window) -> np.ndarray:
        top, left, height, width = window
        planes = np.zeros((len(self.classes), height, width), np.uint8)
        for place, file in enumerate(self.files):
            if file is None:
                continue
            mask = mask_in(file)
            if mask.codes.shape != self.size:
                raise UserError(
                    "the mask {} has {} x {} pixels, and its image {} x {}; correct the pattern of the masks in "
                    "src/competition/targets.py, or drop the row in tables.py".format(
                        file, *mask.codes.shape, *self.size
                    )
                )
            part = (slice(top, top + height), slice(left, left + width))
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
class PolygonTruth(Truth):
    """Masks as outlines, filled with the pixels on them.

    Attributes:
        objects: for each class its objects, each a tuple of polygons whose union it is: rings, float (points, 2) of x
            and y in pixels, or tuples of an outer ring and its holes.
        crowds: the same of what is ignored; empty: nothing.
        given: height and width of the image, where the file of the outlines says them.
        unread: what of the file was not read, in words.
    """

    objects: tuple[tuple[tuple[Polygon, ...], ...], ...]
    crowds: tuple[tuple[tuple[Polygon, ...], ...], ...] = ()
    given: Size | None = None
    unread: tuple[str, ...] = ()

    def _own_size(self) -> Size | None:
        return self.given or super()._own_size()

    def odd(self) -> list[str]:
        objects = [polygons for of_class in (*self.objects, *self.crowds) for polygons in of_class]
        outer = [rings_of(polygon)[0] for polygons in objects for polygon in polygons]
        told = list(self.unread)
        if any((ring < -BEYOND).any() or (ring > np.array(self.size[::-1]) + BEYOND).any() for ring in outer):
            told.append("an outline leaves the image")
        if len(outer) and not all(self._inside(polygons)[0].any() for polygons in objects):
            told.append("an outline lies outside of the image, or has no area")
        if any(has_inner(polygons) for polygons in objects):
            told.append("an outline lies within another one of its object, and is filled (only GeoJSON has holes)")
        texts = [
            np.concatenate([rings_of(polygon)[0].ravel() for polygon in polygons]).tobytes() for polygons in objects
        ]
        if len(set(texts)) < len(texts):
            told.append("an outline stands twice")
        return told

    def areas(self) -> np.ndarray:
        height, width = self.size
        parts = (self._planes((rows.start, 0, rows.stop - rows.start, width)) for rows in strips((height, width)))
        counts = [(planes == 1).sum(axis=(1, 2), dtype=np.int64) for planes in parts]
        return np.sum([np.zeros(len(self.classes), np.int64), *counts], axis=0)

    def farthest(self) -> list[float]:
        """The largest coordinate of each object."""
        objects = (polygons for of_class in (*self.objects, *self.crowds) for polygons in of_class)
        return [max(float(rings_of(polygon)[0].max()) for polygon in polygons) for polygons in objects]

    def _planes(self, window: Window) -> np.ndarray:
        planes = np.stack([filled(of_class, window) for of_class in self.objects])
        for plane, crowds in zip(planes, self.crowds, strict=False):
            plane[(filled(crowds, window) == 1) & (plane == 0)] = IGNORED
        return planes

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return np.array([any(self._inside(each)[0].any() for each in of_class) for of_class in self.objects], bool)

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        whole = (0, 0, *self.size)
        drawn = (filled([polygons], whole).view(bool) for polygons in self.objects[class_index])
        return (mask for mask in drawn if mask.any())

    def _pixel(self, class_index: int, generator: np.random.Generator) -> tuple[int, int]:
        objects = self.objects[class_index]
        first = int(generator.integers(len(objects)))
        for polygons in (*objects[first:], *objects[:first]):  # one that lies outside of the image has no pixel
            plane, top, left = self._inside(polygons)
            if plane.any():
                break
        places = np.argwhere(plane)
        row, column = (int(place) for place in places[generator.integers(len(places))])
        return row + top, column + left

    def _inside(self, polygons: tuple[Polygon, ...]) -> tuple[np.ndarray, int, int]:
        """The pixels of an object in the image, uint8 (h, w), and the row and column where they begin."""
        points = np.concatenate([rings_of(polygon)[0] for polygon in polygons])
        left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(points.max(axis=0)) + 1, self.size[::-1]).astype(int).tolist()
        return filled([polygons], (top, left, max(bottom - top, 0), max(right - left, 0))), top, left
