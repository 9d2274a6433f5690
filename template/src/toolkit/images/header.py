"""What an image file says of itself before it is decoded: its size, how it is turned, and its pages. Readers, windows,
masks and checks all ask here, so that none of them sees an image otherwise than the others."""

import dataclasses
import warnings
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from toolkit.archives import missing
from toolkit.images.formats import require
from toolkit.images.pixels import Size, turned_size

Image.MAX_IMAGE_PIXELS = None  # only headers are read here, and a slide is larger than PIL takes for an attack
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # that PIL reads the header of
TIF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112  # the tag, in EXIF as in a tif
HEIGHT, WIDTH, BITS, SAMPLES, PLANAR, TILES = 0x0101, 0x0100, 0x0102, 0x0115, 0x011C, 0x0142
# The image is read without what is broken.
warnings.filterwarnings(
    "ignore", "Corrupt EXIF data|Truncated File Read|Image appears to be a malformed MPO", UserWarning
)
TAIL = 1 << 16  # bytes at the end of a PNG in which its EXIF may stand


@dataclasses.dataclass(frozen=True)
class Header:
    """What stands in front of the pixels.

    Attributes:
        stored: height and width as the pixels are stored.
        orientation: the EXIF orientation, 1 to 8, by which the pipeline's reader turns it.
        pages: of a tif, how many of the size and the kind of the first one follow each other, with it.
        misread: of a tif, whether OpenCV mixes up its pixels: channels that are stored one by one in more than 8 bits,
            and tiles of an image that is turned.
    """

    stored: Size
    orientation: int = 1
    pages: int = 1
    misread: bool = False

    @property
    def size(self) -> Size:
        """Height and width as the image is seen, and as the pipeline's reader gives it."""
        return turned_size(self.stored, self.orientation)


def header_of(path: Path) -> Header | None:
    """The header of a file; none where its format is not known here, or it is broken.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file():
        raise missing(path)
    with path.open("rb") as file:
        return _header(file, path.suffix.lower())


def header_in(data: bytes) -> Header | None:
    """The header of a file that was read."""
    return _header(BytesIO(data), "")


def orientation_in(data: bytes) -> int:
    """The EXIF orientation of a file that was read; a tif is left out, since whatever reads it turns it."""
    marks = {b"\xff\xd8\xff": b"Exif\0\0", b"\x89PNG": b"eXIf", b"RIFF": b"EXIF"}
    mark = next((mark for start, mark in marks.items() if data.startswith(start)), None)
    header = header_in(data) if mark is not None and mark in data else None
    return header.orientation if header else 1


def _header(file: IO[bytes], suffix: str) -> Header | None:
    start = file.read(8)
    file.seek(0)
    try:
        if start.startswith(TIF):
            return _tif(file)
        if start.startswith(b"\x93NUMPY"):
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape = read(file)[0]
            return Header((int(shape[0]), int(shape[1])))
        if suffix not in (".dcm", ".dicom"):
            with Image.open(file, formats=FORMATS) as image:
                exif = image.info.get("exif", b"") or (_png_exif(file) if image.format == "PNG" else b"")
                return Header((image.height, image.width), _orientation(exif))
    except Exception:  # whatever Pillow and NumPy stumble over; the reader says what is wrong
        return None
    return _dicom(file)


def _orientation(exif: bytes) -> int:
    try:
        tags = Image.Exif()
        tags.load(exif)
        found = tags.get(ORIENTATION, 1)
    except Exception:  # broken EXIF is no reason not to read an image
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _png_exif(file: IO[bytes]) -> bytes:
    """EXIF that stands behind the pixels of a PNG, where some tools write it."""
    file.seek(0, 2)
    file.seek(max(0, file.tell() - TAIL))
    _, mark, rest = file.read().rpartition(b"eXIf")
    return rest if mark and rest[:4] in (b"II*\0", b"MM\0*") else b""


def _tif(file: IO[bytes]) -> Header:
    start = file.read(8)
    folder = ImageFileDirectory_v2(start + file.read(8) if start[2:3] == b"+" or start[3:4] == b"+" else start)
    first, pages, seen = None, 0, set()
    about: Header | None = None
    while folder.next and folder.next not in seen:
        seen.add(folder.next)
        file.seek(folder.next)
        folder.load(file)
        size = (int(folder[HEIGHT]), int(folder[WIDTH]))
        page = (size, folder.get(BITS), folder.get(SAMPLES, 1))
        if first is None:
            first, turn = page, folder.get(ORIENTATION, 1)
            planes = folder.get(PLANAR, 1) == 2 and page[2] > 1 and max(np.ravel(folder.get(BITS, 1))) > 8
            about = Header(size, turn if 1 <= turn <= 8 else 1, 1, planes or (turn != 1 and TILES in folder))
        elif page != first:
            break
        pages += 1
    if about is None:
        raise ValueError("no page")
    return dataclasses.replace(about, pages=pages)


def _dicom(file: IO[bytes]) -> Header | None:
    """Raises a `UserError` where pydicom is not installed."""
    pydicom = require("pydicom", "dcm")
    file.seek(0)
    try:
        found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return Header((int(found.Rows), int(found.Columns)))
    except Exception:  # pydicom raises whatever a broken file makes of it
        return None
