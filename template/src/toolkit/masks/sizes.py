"""Height and width of an image, and which way its masks lie: as it is seen, or as its file stores it before its EXIF
orientation turns it. Both occur, and the size tells which, but for squares, mirror images and half turns."""

import functools
from pathlib import Path
from typing import Literal

from toolkit.images.header import Header, header_of
from toolkit.images.readers import image

Size = tuple[int, int]
Frame = Literal["seen", "stored"]


def known_size(source: Size | Path, frame: Frame | None = None) -> Size:
    """The size itself, or what the header of the file says, in this frame (none: as it is seen).

    Raises:
        UserError: the file is missing, or no image.
    """
    if not isinstance(source, Path):
        return source
    header = known_header(source)
    return header.stored if frame == "stored" else header.size


@functools.cache
def known_header(path: Path) -> Header:
    """The header of an image file; of a format that says nothing there, its size as it is read."""
    if header := header_of(path):
        return header
    height, width = image(path, None).shape[:2]
    return Header((height, width))


def frame_by_size(size: Size, header: Header) -> Frame | None:
    """Which way masks of this size lie; none where that cannot be told."""
    if header.stored == header.size or size not in (header.stored, header.size):
        return None
    return "stored" if size == header.stored else "seen"
