"""The truth of an image in the forms that competitions give. It holds text, points or paths, and decodes when asked."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.heads.mask_decoding import IGNORED
from toolkit.images.header import Header
from toolkit.masks import rle
from toolkit.masks.components import Components
from toolkit.masks.maps import strips
from toolkit.masks.sizes import Frame, Size, frame_by_size, known_size

Window = tuple[int, int, int, int]  # top, left, height, width in pixels of the image


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
        """The EXIF orientation by which the planes become those of the image of this header as it is read."""
        return header.orientation if self.frame_of(header) == "stored" else 1

    def frame_of(self, header: Header) -> Frame | None:
        """Which way the masks lie, as their size tells, or else `frame`; none where neither does."""
        own = self._own_size()
        return (frame_by_size(own, header) if own else None) or self.frame

    def _own_size(self) -> Size | None:
        """Height and width as a table or the masks themselves say them; none where they do not."""
        return None if isinstance(self.image, Path) else self.image

    def read(self, window: Window | None = None) -> np.ndarray:
        """The planes, uint8 (C, H, W) of 0, 1 and 255 (ignored), of a window or all; beyond the image all is ignored.

        Raises:
            UserError: the truth is missing, or does not fit the image.
        """
        height, width = self.size
        top, left, rows, columns = window or (0, 0, height, width)
        first, last = max(top, 0), min(top + rows, height)
        begin, end = max(left, 0), min(left + columns, width)
        if (first, begin, last, end) == (top, left, top + rows, left + columns):
            return self._planes((top, left, rows, columns))
        planes = np.full((len(self.classes), rows, columns), IGNORED, np.uint8)
        if first < last and begin < end:
            inside = self._planes((first, begin, last - first, end - begin))
            planes[:, first - top : last - top, begin - left : end - left] = inside
        return planes

    @abstractmethod
    def _planes(self, window: Window) -> np.ndarray:
        """`read` of a window that lies within the image."""

    def areas(self) -> np.ndarray:
        """How many pixels of each class there are, int64 (C,), as training reads them."""
        parts = (self._planes((rows.start, 0, rows.stop - rows.start, self.size[1])) for rows in strips(self.size))
        return np.sum([(planes == 1).sum(axis=(1, 2), dtype=np.int64) for planes in parts], axis=0)

    def present(self) -> np.ndarray:
        """Whether there is a pixel of each class, bool (C,)."""
        return self._present

    @functools.cached_property
    def _present(self) -> np.ndarray:
        return self.areas() > 0

    def wrong(self) -> str:
        """Why it cannot be read, before it is; empty if it can."""
        return ""

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

    def __str__(self) -> str:
        """The classes that are there."""
        return ", ".join(name for name, held in zip(self.classes, self.present(), strict=True) if held) or "nothing"


@dataclass(frozen=True, eq=False)
class RunTruth(Truth):
    """Masks as RLE; see `rle`."""

    runs: tuple[tuple[str, ...], ...]  # of each class, a text for each object or for all of them; none: an empty mask
    order: rle.Order = "column"
    first: int = 1

    def _planes(self, window: Window) -> np.ndarray:
        planes = np.zeros((len(self.classes), *window[2:]), np.uint8)
        for plane, texts in zip(planes, self.runs, strict=True):
            if texts and window == (0, 0, *self.size):
                plane[:] = rle.decode(" ".join(texts), self.size, self.order, self.first)
            elif texts:
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

    def wrong(self) -> str:
        named = ((name, text) for name, texts in zip(self.classes, self.runs, strict=True) for text in texts)
        found = ((name, rle.fault(text, self.size, self.first)) for name, text in named)
        return next((f"the RLE of '{name}' is wrong: {wrong}" for name, wrong in found if wrong), "")

    def odd(self) -> list[str]:
        told = [rle.check(texts[0], self.size, self.first) for texts in self.runs if len(texts) == 1]
        return told + ["an RLE stands twice" for texts in self.runs if len(set(texts)) < len(texts)]

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
        across, along = divmod(int(ends[run]) - int(counted[run] - drawn), self.size[self.order == "row"])
        return (across, along) if self.order == "row" else (along, across)
