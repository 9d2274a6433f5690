"""What every truth of an image can say: where the pixels of each class are, whole, by window and by object."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.tasks.segmentation.mask_files import IGNORED
from toolkit.images.header import Header
from toolkit.masks.components import Components
from toolkit.masks.maps import strips
from toolkit.masks.sizes import Frame, Size, known_size, told_frame

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
        planes = self.read()
        return np.array([sum(np.count_nonzero(plane[rows] == 1) for rows in strips(self.size)) for plane in planes])

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
