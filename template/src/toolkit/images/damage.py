"""Files that decoders take though a part of the picture is lost, or stands where it is not looked for."""

import re
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit.images.header import JPEG, TIF, header_in

ZEROS = re.compile(rb"\0{64,}")  # compressed data have as many where an image is flat, or where they are lost
MORE_ZEROS = re.compile(rb"\0{256,}")  # the same where nothing can be held against it
WEBP_COLOURS = re.compile(rb"VP8[ L]")
MARKER, RESTARTS = re.compile(rb"\xff[^\0\xff]"), range(0xD0, 0xD8)  # of a JPEG, between and within compressed data
# Put into a file to see whether what stands there is used; a flat white hides some of them.
PROBES = (b"\x55" * 32, b"\xaa" * 32, b"\x33" * 32, bytes(range(0xE0, 0xC0, -1)))
MOST_PIXELS = 80_000_000  # of an image that is decoded again
LOSSLESS = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits")


def damage(data: bytes) -> str:
    """What is lost of a file that decoders take nevertheless; empty where nothing is, or nothing can be told.

    Long runs of zero bytes are what a download put together from parts leaves, and also what a flat part may be coded
    as. So a run counts only where the decoder then needs more data than there are, or leaves some of them over.
    """
    hole = 0
    if bytes(64) not in data:
        return ""
    if data.startswith(TIF):
        return _tif_damage(data)
    if data.startswith(JPEG):
        hole = _jpeg_hole(data)
    elif data.startswith(b"RIFF") and (found := WEBP_COLOURS.search(data, 12)):
        end = found.end() + 4 + int.from_bytes(data[found.end() : found.end() + 4], "little")
        hole = max((len(run) for run in MORE_ZEROS.findall(data, found.end() + 4, end)), default=0)
    lost = f"{hole} zero bytes stand in the middle of its compressed data, so a part of the picture is lost"
    return lost if hole else ""


def _jpeg_hole(data: bytes) -> int:
    """How many bytes are lost of a JPEG; 0 where it is sound."""
    header = header_in(data)
    scan = data.rfind(b"\xff\xda", 0, header.scan) if header else 0
    runs = [run.span() for run in ZEROS.finditer(data, scan, max(scan, data.find(b"\xff\xd9", scan)))]
    whole = _decoded(data) if runs and scan else None
    if whole is None:
        return 0

    def same(first: int, last: int, instead: bytes) -> bool:
        """Whether the picture stays the same with other bytes from `first` to `last`."""
        other = _decoded(data[:first] + instead + data[last:])
        return other is not None and np.array_equal(whole, other)

    first, last = max(runs, key=lambda run: run[1] - run[0])
    if same(first, last, PROBES[0] * ((last - first) // len(PROBES[0]) + 1)):
        return 0  # nothing is made of these bytes
    found = MARKER.search(data, last)
    stop, number = (found.start(), found[0][1]) if found else (len(data), 0)
    *_, before = [match[0][1] for match in MARKER.finditer(data, scan, first)]  # the start of the scan, if no other
    following = RESTARTS[(before + 1) % 8] if before in RESTARTS else RESTARTS[0]
    if number in RESTARTS and number != following:  # they are counted, and some are gone
        return last - first
    if not same(stop, stop, PROBES[0] * 8):  # it needs more
        return last - first
    scan = data.rfind(b"\xff\xda", scan, first)
    if data[scan + 1 + int.from_bytes(data[scan + 2 : scan + 4], "big")] > 0xF:
        return 0  # one that refines by the last bit changes too little to be seen
    left_over = all(same(stop - len(probe), stop, probe) for probe in PROBES)
    return last - first if left_over else 0


def _decoded(data: bytes) -> np.ndarray | None:
    """By PIL, which keeps quiet about what it finds strange; none where it refuses."""
    try:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image) if image.width * image.height <= MOST_PIXELS else None
    except Exception:  # whatever a broken file makes of it
        return None


def _tif_damage(data: bytes) -> str:
    """What libtiff says of a losslessly compressed tif, where OpenCV goes on with black."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.info.get("compression") in LOSSLESS and image.width * image.height <= MOST_PIXELS:
                image.load()
    except Exception as error:  # of other kinds than an OSError: it is a tif that PIL does not know
        if isinstance(error, OSError) and not isinstance(error, UnidentifiedImageError):
            return "its compressed data cannot be decoded to their end, so a part of the picture is lost"
    return ""


def has_picture_in_alpha(data: bytes) -> bool:
    """Whether the alpha channel of an image file is not the same everywhere."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        return False
    return pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 4 and bool(np.ptp(pixels[:, :, 3]))
