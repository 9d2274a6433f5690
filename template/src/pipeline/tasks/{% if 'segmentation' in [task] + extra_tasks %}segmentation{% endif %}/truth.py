"""The truth of an image: where the pixels of each class are. It holds text, points or paths, and decodes when asked."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.header import Header
from pipeline.errors import UserError, listed
from pipeline.tasks.segmentation import rle
from pipeline.tasks.segmentation.components import Components
from pipeline.tasks.segmentation.maps import strips
from pipeline.tasks.segmentation.mask_files import BACKGROUND, STRAY, mask_in, nearest_code
from pipeline.tasks.segmentation.sizes import Frame, Size, known_header, known_size, told_frame

Window = tuple[int, int, int, int]  # top, left, height, width in pixels of the image
Polygon = np.ndarray | tuple[np.ndarray, ...]
IGNORED = 255
BEYOND = 2.0  # pixels that an outline may leave the image
FAR = 1 << 24  # pixels from the window, beyond which it does not matter where a point lies


@dataclass(frozen=True, eq=False)
class Truth(ABC):
    """Where the classes are in an image.

    Attributes:
        classes: names, in the order of the planes; never the background.
        image: height and width of the image, or the file that says them.
        frame: whether the masks lie as the image is `seen`, or as it is `stored` before its EXIF orientation turns it,
            where the size does not tell; none: as it is seen.
    """

    classes: tuple[str, ...]
    image: Size | Path
    frame: Frame | None = field(default=None, kw_only=True)

    @property
    def size(self) -> Size:
        """Height and width of the image, as the masks lie."""
        return self._own_size() or known_size(self.image, self.frame)

    def turn(self, header: Header) -> int:
        """The EXIF orientation by which the planes become those of the image as it is read; 1: they are.

        Args:
            header: of the image.
        """
        return header.orientation if self.told(header) == "stored" else 1

    def told(self, header: Header) -> Frame | None:
        """Which way the masks lie, as their size tells, or else `frame`; none where neither does."""
        own = self._own_size()
        return (told_frame(own, header) if own else None) or self.frame

    def _own_size(self) -> Size | None:
        """Height and width as a table or the masks themselves say them; none where they do not."""
        return None if isinstance(self.image, Path) else self.image

    def read(self, window: Window | None = None) -> np.ndarray:
        """The planes, uint8 (C, H, W) of 0, 1 and 255 (ignored); beyond the image all is ignored.

        Args:
            window: the part to read; none: the whole image.

        Raises:
            UserError: the truth is missing, or does not fit the image.
        """
        height, width = self.size
        if window is None:
            return self._planes((0, 0, height, width))
        top, left, rows, columns = window
        first, last = max(top, 0), min(top + rows, height)
        begin, end = max(left, 0), min(left + columns, width)
        if (first, begin, last, end) == (top, left, top + rows, left + columns):
            return self._planes(window)
        planes = np.full((len(self.classes), rows, columns), IGNORED, np.uint8)
        if first < last and begin < end:
            inside = self._planes((first, begin, last - first, end - begin))
            planes[:, first - top : last - top, begin - left : end - left] = inside
        return planes

    def present(self) -> np.ndarray:
        """Whether there is a pixel of each class, bool (C,)."""
        return self._present

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return np.array([any((plane[rows] == 1).any() for rows in strips(self.size)) for plane in self.read()], bool)

    def areas(self) -> np.ndarray:
        """How many pixels of each class there are, int64 (C,), as training reads them.

        Raises:
            UserError: as `read`.
        """
        width = self.size[1]
        parts = (self.read((rows.start, 0, rows.stop - rows.start, width)) for rows in strips(self.size))
        counts = [(planes == 1).sum(axis=(1, 2), dtype=np.int64) for planes in parts]
        return np.sum([np.zeros(len(self.classes), np.int64), *counts], axis=0)

    def odd(self) -> Sequence[str]:
        """What is to be known of how it is read, in words that are the same for all it is true of."""
        return ()

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        """The objects of a class, bool (H, W) each: as they are told apart, or else connected components."""
        return Components.of(self.read()[class_index] == 1, 8).masks()

    def foreground(self, generator: np.random.Generator) -> tuple[int, int] | None:
        """Row and column of a pixel of some class; the class is drawn first. None in an empty image."""
        classes = np.flatnonzero(self.present())
        return self._pixel(int(generator.choice(classes)), generator) if len(classes) else None

    def _pixel(self, class_index: int, generator: np.random.Generator) -> tuple[int, int]:
        """A pixel of a class that is present."""
        plane = self.read()[class_index]
        counted = np.cumsum([np.count_nonzero(plane[rows] == 1) for rows in strips(self.size)])
        drawn = int(generator.integers(counted[-1]))
        number = int(np.searchsorted(counted, drawn, side="right"))
        rows = next(islice(strips(self.size), number, None))
        place = np.flatnonzero(plane[rows] == 1)[drawn - counted[number]]  # counted from the end of the strip
        return rows.start + int(place) // plane.shape[1], int(place) % plane.shape[1]

    @abstractmethod
    def _planes(self, window: Window) -> np.ndarray:
        """The planes of a window that lies within the image, uint8 (C, height, width)."""

    def __str__(self) -> str:
        """The classes that are there."""
        return ", ".join(name for name, held in zip(self.classes, self.present(), strict=True) if held) or "nothing"


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
                strange = set(np.unique(mask.codes).tolist()) - {code for code, _ in self.codes}
                if strange:
                    told.append("the file holds values beside those that are named, which are read as the nearest")
            elif self.above is None and mask.lossy and mask.middle:
                told.append("the file is stored with loss (JPEG), and what is above half of white is the class")
            elif self.above is None and mask.middle:
                told.append("the file holds values between black and white; what is above half of white is the class")
            elif self.above is None and len(np.unique(mask.levels)) > 2:
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
                self._sort_out(mask.codes[part], planes, file, mask.lossy)
                continue
            above = mask.middle if self.above is None else self.above
            if above is None:
                raise UserError(
                    f"the mask {file} is stored with loss and holds nothing brighter than {mask.levels.max()}, which may "
                    "be noise or a class; store it as PNG, or say above in MaskFiles of src/competition/targets.py"
                )
            planes[place] = mask.levels[part] > above
        return planes

    def _sort_out(self, values: np.ndarray, planes: np.ndarray, file: Path, lossy: bool) -> None:
        """Fill the planes with what the codes say of values (H, W)."""
        if self._sorted(values, planes) == values.size:
            return
        codes = np.array([code for code, _ in self.codes], np.int64)
        found, places = np.unique(values, return_inverse=True)
        stray = ~np.isin(found, codes)
        meant = found.astype(np.int64)
        meant[stray] = nearest_code(meant[stray], codes, lossy)
        lost = found[meant < 0]
        if len(lost) and not (lossy and np.isin(values, lost).mean() <= STRAY):  # an edge rings where three values meet
            raise UserError(
                f"the mask {file} holds the values {listed(map(_shown, lost.tolist()))}, which stand for no class; name "
                "them in src/competition/targets.py (values, background or ignored of MaskFiles)"
            )
        self._sorted(meant[places].reshape(values.shape), planes)

    def _sorted(self, values: np.ndarray, planes: np.ndarray) -> int:
        """Fill the planes with what the codes are of values (H, W), and count these pixels."""
        known = 0
        for code, place in self.codes:
            hit = values == code
            known += int(np.count_nonzero(hit))
            if place == IGNORED:
                planes[:, hit] = IGNORED
            elif place != BACKGROUND:
                planes[place][hit] = 1
        return known


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
        outer = [_rings(polygon)[0] for polygons in objects for polygon in polygons]
        told = list(self.unread)
        if any((ring < -BEYOND).any() or (ring > np.array(self.size[::-1]) + BEYOND).any() for ring in outer):
            told.append("an outline leaves the image")
        if len(outer) and not all(self._inside(polygons)[0].any() for polygons in objects):
            told.append("an outline lies outside of the image, or has no area")
        if any(_has_inner(polygons) for polygons in objects):
            told.append("an outline lies within another one of its object, and is filled (only GeoJSON has holes)")
        texts = [np.concatenate([_rings(polygon)[0].ravel() for polygon in polygons]).tobytes() for polygons in objects]
        if len(set(texts)) < len(texts):
            told.append("an outline stands twice")
        return told

    def farthest(self) -> list[float]:
        """The largest coordinate of each object."""
        objects = (polygons for of_class in (*self.objects, *self.crowds) for polygons in of_class)
        return [max(float(_rings(polygon)[0].max()) for polygon in polygons) for polygons in objects]

    def _planes(self, window: Window) -> np.ndarray:
        planes = np.stack([self._filled(of_class, window) for of_class in self.objects])
        for plane, crowds in zip(planes, self.crowds, strict=False):
            plane[(self._filled(crowds, window) == 1) & (plane == 0)] = IGNORED
        return planes

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return np.array([any(self._inside(each)[0].any() for each in of_class) for of_class in self.objects], bool)

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        whole = (0, 0, *self.size)
        drawn = (self._filled([polygons], whole).view(bool) for polygons in self.objects[class_index])
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
        points = np.concatenate([_rings(polygon)[0] for polygon in polygons])
        left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(points.max(axis=0)) + 1, self.size[::-1]).astype(int).tolist()
        return self._filled([polygons], (top, left, max(bottom - top, 0), max(right - left, 0))), top, left

    @staticmethod
    def _filled(objects: Sequence[tuple[Polygon, ...]], window: Window) -> np.ndarray:
        """The union of objects, uint8 (height, width)."""
        top, left, height, width = window
        plane = np.zeros((height, width), np.uint8)
        for polygon in (polygon for polygons in objects for polygon in polygons if plane.size):
            rings = [np.rint(np.clip(ring - (left, top), -FAR, FAR)).astype(np.int32) for ring in _rings(polygon)]
            cv2.fillPoly(plane, rings, 1)
        return plane


def _rings(polygon: Polygon) -> tuple[np.ndarray, ...]:
    """The outer ring and the holes of a polygon."""
    return (polygon,) if isinstance(polygon, np.ndarray) else polygon


def _has_inner(polygons: tuple[Polygon, ...]) -> bool:
    """Whether one of the polygons lies within another one."""
    outer = [_rings(polygon)[0].astype(np.float32) for polygon in polygons]
    boxes = [(ring.min(axis=0), ring.max(axis=0)) for ring in outer]
    return any(
        (low > least).all() and (high < most).all() and cv2.pointPolygonTest(around, ring[0].tolist(), False) > 0
        for ring, (low, high) in zip(outer, boxes, strict=True)
        for around, (least, most) in zip(outer, boxes, strict=True)
    )


def _shown(code: int) -> str:
    """A value as the user knows it: a number, or red, green and blue."""
    return str(code) if code < 1 << 24 else str(((code >> 16) & 255, (code >> 8) & 255, code & 255))
