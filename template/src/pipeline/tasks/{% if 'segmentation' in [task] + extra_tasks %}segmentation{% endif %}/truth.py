"""The truth of an image: where the pixels of each class are. It holds text, points or paths, and decodes when asked."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
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
from pipeline.tasks.segmentation.mask_files import BACKGROUND, codes_in
from pipeline.tasks.segmentation.sizes import Frame, Size, known_header, known_size, told_frame

Window = tuple[int, int, int, int]  # top, left, height, width in pixels of the image
IGNORED = 255


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
        return known_size(self.image, self.frame)

    def turn(self, header: Header) -> int:
        """The EXIF orientation by which the planes become those of the image as it is read; 1: they are.

        Args:
            header: of the image.
        """
        return header.orientation if self.told(header) == "stored" else 1

    def told(self, header: Header) -> Frame | None:
        """Which way the masks lie, as their size tells, or else `frame`; none where neither does."""
        return told_frame(self.size, header) or self.frame

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
        codes: (value of a pixel, place of its class, `BACKGROUND` or `IGNORED`); empty: any value above 0 is the class.
    """

    files: tuple[Path | None, ...]
    codes: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> Size:
        """Height and width of the image, as the masks lie: of one that its EXIF turns, their own size tells which."""
        file = next((file for file in self.files if file is not None), None)
        if isinstance(self.image, Path) and file is not None and (header := known_header(self.image)).orientation != 1:
            with contextlib.suppress(UserError):  # reading it will say what is wrong
                if told_frame(own := known_size(file), header):
                    return own
        return super().size

    def _planes(self, window: Window) -> np.ndarray:
        top, left, height, width = window
        planes = np.zeros((len(self.classes), height, width), np.uint8)
        for place, file in enumerate(self.files):
            if file is None:
                continue
            values = codes_in(file)
            if values.shape != self.size:
                raise UserError(
                    "the mask {} has {} x {} pixels, and its image {} x {}; correct the pattern of the masks in "
                    "src/competition/targets.py, or drop the row in tables.py".format(file, *values.shape, *self.size)
                )
            part = values[top : top + height, left : left + width]
            if self.codes:
                self._sort_out(part, planes, file)
            else:
                planes[place] = part > 0
        return planes

    def _sort_out(self, values: np.ndarray, planes: np.ndarray, file: Path) -> None:
        """Fill the planes with what the codes say of values (H, W)."""
        known = 0
        for code, place in self.codes:
            hit = values == code
            known += int(np.count_nonzero(hit))
            if place == IGNORED:
                planes[:, hit] = IGNORED
            elif place != BACKGROUND:
                planes[place][hit] = 1
        if known < values.size:
            strange = sorted(set(np.unique(values).tolist()) - {code for code, _ in self.codes})
            raise UserError(
                f"the mask {file} holds the values {listed(map(_shown, strange))}, which stand for no class; name them "
                "in src/competition/targets.py (values, background or ignored of MaskFiles)"
            )


@dataclass(frozen=True, eq=False)
class PolygonTruth(Truth):
    """Masks as outlines, filled with the pixels on them.

    Attributes:
        objects: for each class its objects, each a tuple of rings, float (points, 2) of x and y in pixels.
    """

    objects: tuple[tuple[tuple[np.ndarray, ...], ...], ...]

    def _planes(self, window: Window) -> np.ndarray:
        return np.stack([self._filled(list(of_class), window) for of_class in self.objects])

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return np.array([bool(of_class) for of_class in self.objects], bool)

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        whole = (0, 0, *self.size)
        drawn = (self._filled([rings], whole).view(bool) for rings in self.objects[class_index])
        return (mask for mask in drawn if mask.any())

    def _pixel(self, class_index: int, generator: np.random.Generator) -> tuple[int, int]:
        rings = self.objects[class_index][generator.integers(len(self.objects[class_index]))]
        points = np.concatenate(rings)
        (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        window = (int(top), int(left), int(bottom - top) + 1, int(right - left) + 1)
        places = np.argwhere(self._filled([rings], window))
        row, column = (int(place) for place in places[generator.integers(len(places))] + window[:2])
        height, width = self.size
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    @staticmethod
    def _filled(objects: list[tuple[np.ndarray, ...]], window: Window) -> np.ndarray:
        """The union of objects, uint8 (height, width)."""
        top, left, height, width = window
        plane = np.zeros((height, width), np.uint8)
        for rings in objects:
            for ring in rings:
                cv2.fillPoly(plane, [np.rint(ring - (left, top)).astype(np.int32)], 1)
        return plane


def _shown(code: int) -> str:
    """A value as the user knows it: a number, or red, green and blue."""
    return str(code) if code < 1 << 24 else str(((code >> 16) & 255, (code >> 8) & 255, code & 255))
