"""What an image file says of itself before it is decoded: its size, how it is turned, and its pages. Readers, windows,
masks and checks all ask here, so that none of them sees an image otherwise than the others."""

import contextlib
import dataclasses
import warnings
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from toolkit.files import missing
from toolkit.images.formats import require
from toolkit.images.pixels import Size, turned_size

Image.MAX_IMAGE_PIXELS = None  # only headers are read here, and a slide is larger than PIL takes for an attack
# The image is read without what is broken.
warnings.filterwarnings("ignore", "Corrupt EXIF data|Truncated File Read", UserWarning)
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
TIF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EXIF = {PNG[:4]: b"eXIf", b"RIFF": b"EXIF"}  # start of a file that is no JPEG -> what precedes its EXIF
ORIENTATION = 0x0112  # the tag, in EXIF as in a tif
HEIGHT, WIDTH, BITS, SAMPLES, PLANAR, TILES = 0x0101, 0x0100, 0x0102, 0x0115, 0x011C, 0x0142
PNG_COLOURS = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}
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
        scan: of a JPEG, the byte at which its compressed data begin.
    """

    stored: Size
    orientation: int = 1
    pages: int = 1
    misread: bool = False
    scan: int = 0

    @property
    def size(self) -> Size:
        """Height and width as the image is seen, and as the pipeline's reader gives it."""
        return turned_size(self.stored, self.orientation)


def header_of(path: Path) -> Header | None:
    """The header of a file, which must be there; none where its format is not known here, or it is broken."""
    if not path.is_file():
        raise missing(path)
    with path.open("rb") as file:
        return _header(file)


def header_in(data: bytes) -> Header | None:
    """The header of a file that was read."""
    return _header(BytesIO(data))


def orientation_in(data: bytes) -> int:
    """The EXIF orientation of a file that was read; a tif is left out, since whatever reads it turns it."""
    mark = b"Exif" if data.startswith(JPEG) else EXIF.get(data[:4])
    header = header_in(data) if mark and mark in data else None
    return header.orientation if header else 1


def _header(file: IO[bytes]) -> Header | None:
    start = file.read(132)
    file.seek(0)
    try:
        if start.startswith(TIF):
            return _tif(file)
        if start.startswith(b"\x93NUMPY"):
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape = read(file)[0]
            return Header((int(shape[0]), int(shape[1])))
        if start.startswith(b"DICM", 128):
            tags = require("pydicom", "dcm").dcmread(file, stop_before_pixels=True)
            return Header((int(tags.Rows), int(tags.Columns)))
        jpeg = start.startswith(JPEG)
        image = JpegImageFile(file) if jpeg else Image.open(file, formats=("PNG", "WEBP", "BMP", "GIF"))
        if jpeg and not image.tile:  # it ends before its compressed data
            return None
        exif, scan = image.info.get("exif", b""), file.tell()
        if image.format == "PNG" and not exif:  # some tools write it behind the pixels
            file.seek(max(0, file.seek(0, 2) - TAIL))
            exif = file.read().rpartition(b"eXIf")[2]
        return Header((image.height, image.width), _orientation(exif), scan=scan)
    except Exception:  # whatever the libraries stumble over; the reader says what is wrong
        return None


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    with contextlib.suppress(Exception):  # broken EXIF is no reason not to read an image
        tags.load(exif)
        found = tags.get(ORIENTATION, 1)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1
    return 1


def _tif(file: IO[bytes]) -> Header | None:
    start = file.read(8)
    folder = ImageFileDirectory_v2(start + file.read(8) if b"+" in start[2:4] else start)
    first, pages, done = None, 0, set()
    about: Header | None = None
    while folder.next and folder.next not in done:
        done.add(folder.next)
        file.seek(folder.next)
        folder.load(file)
        page = ((int(folder[HEIGHT]), int(folder[WIDTH])), folder.get(BITS), folder.get(SAMPLES, 1))
        if about is None:
            first, turn = page, folder.get(ORIENTATION, 1)
            planes = folder.get(PLANAR, 1) == 2 and page[2] > 1 and max(np.ravel(folder.get(BITS, 1))) > 8
            about = Header(page[0], turn if 1 <= turn <= 8 else 1, 1, planes or (turn != 1 and TILES in folder))
        elif page != first:
            break
        pages += 1
    return about and dataclasses.replace(about, pages=pages)


def describe(data: bytes) -> str:
    """`8-bit colour`, `16-bit grey`: what a JPEG or PNG holds, read from its header; empty for other files."""
    if data.startswith(PNG) and len(data) > 25:
        return f"{max(data[24], 8)}-bit {PNG_COLOURS.get(data[25], 'unknown')}"
    if data.startswith(JPEG) and header_in(data):
        return f"8-bit {'grey' if JpegImageFile(BytesIO(data)).mode == 'L' else 'colour'}"
    return ""


def size_of(data: bytes) -> Size | None:
    """Height and width as the file is read, from its header; none where it does not say."""
    header = header_in(data)
    return header.size if header else None
