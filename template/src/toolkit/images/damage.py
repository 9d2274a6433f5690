"""Image files that are not what they should be: other formats, and files that can be decoded though a part is lost."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit.archives import shown
from toolkit.errors import UserError

JPEG_END = b"\xff\xd9"
ZEROS = re.compile(rb"\0{64,}")  # compressed data have as many where an image is flat, or where they are lost
MARKER, RESTARTS = re.compile(rb"\xff[^\0\xff]"), range(0xD0, 0xD8)  # of a JPEG, between and within compressed data
MORE_ZEROS = re.compile(rb"\0{256,}")  # the same where nothing can be held against it
PROBE = b"\x55" * 32  # put into a file to see whether what stands there is used
PROBES = (PROBE, b"\xaa" * 32, b"\x33" * 32, bytes(range(0xE0, 0xC0, -1)))  # a flat white hides some of them
MOST_PIXELS = 80_000_000  # of an image that is decoded again
LOSSLESS = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits")

CONVERT = "convert it to png or jpg, or write a reader of your own"
AS_NPY = "save its array as npy, or write a reader of your own"
UNPACK = "unpack it, or write a reader of your own"
AGAIN = "download it again"
BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"mif1": "a HEIC image", b"msf1": "a HEIC image"}
MAGIC: tuple[tuple[int, bytes, str, str], ...] = (  # where it stands, what stands there, what it is, what to do
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file", "run git lfs pull where it is from"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!", "a rar archive", UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x89HDF", "a HDF5 file", AS_NPY),
    (344, b"n+1\0", "a NIfTI volume", AS_NPY),
    (0, b"SIMPLE  =", "a FITS file", AS_NPY),
    (0, b"\x80\x04\x95", "a pickle", AS_NPY),
    (0, b"%PDF", "a PDF", CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", CONVERT),
    (0, b"\x1a\x45\xdf\xa3", "a video", "save its frames as images, or write a reader of your own"),
    (8, b"AVI ", "a video", "save its frames as images, or write a reader of your own"),
)


def unreadable(data: bytes, path: Path, kind: str = "an image", why: str = "") -> UserError:
    """That a file cannot be read as what it should be: what it is instead, as far as that is known.

    Args:
        why: what the library said, for a file that is no other one.
    """
    what, remedy = _other_format(data)
    if what:
        return UserError(f"cannot read {shown(path)} as {kind}: it is {what}; {remedy}")
    reason = f" ({why})" if why else ""
    return UserError(f"cannot read {shown(path)} as {kind}{reason}; {AGAIN}, or drop its row in tables.py")


def _other_format(data: bytes) -> tuple[str, str]:
    """What a file is, and what to do; both empty where that is not known."""
    for place, magic, what, remedy in MAGIC:
        if data.startswith(magic, place):
            return what, remedy
    if data.startswith(b"ftyp", 4):
        brand = data[8:12]
        if brand in BRANDS or brand.startswith((b"hei", b"hev")):
            return BRANDS.get(brand, "a HEIC image"), CONVERT
        return "a video", "save its frames as images, or write a reader of your own"
    if data.startswith(b"PK\3\4"):
        return ("an npz archive", AS_NPY) if b".npy" in data[:256] else ("a zip archive", UNPACK)
    if not data.strip(b"\0"):
        return "a file of zero bytes only", AGAIN
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    text = start.lower()
    if b"<svg" in text:
        return "an SVG drawing", CONVERT
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page", f"{AGAIN}: the server gave a page (a login, an error) in place of the file"
    if text.startswith((b"<?xml", b"{", b"<error")) and text.isascii():
        return f"a text ({' '.join(start[:60].decode().split())})", AGAIN
    return "", ""


def damage(data: bytes) -> str:
    """What is lost of a file that decoders take nevertheless; empty where nothing is, or nothing can be told.

    Long runs of zero bytes among compressed data are what a download that was put together from parts leaves, and
    also what a flat part of an image may be coded as. So a run counts only where what follows does not fit: the decoder
    needs more data than there are, or leaves some of them over.
    """
    if bytes(64) not in data:
        return ""
    if data.startswith(b"\xff\xd8\xff"):
        hole = _jpeg_hole(data)
    elif data.startswith(b"RIFF"):
        hole = next((len(run) for chunk in _webp_chunks(data) for run in MORE_ZEROS.findall(chunk)), 0)
    else:
        return _tif_damage(data) if data.startswith((b"II*\0", b"MM\0*")) else ""
    return (
        f"{hole} zero bytes stand in the middle of its compressed data, so a part of the picture is lost"
        if hole
        else ""
    )


def _jpeg_hole(data: bytes) -> int:
    """How many bytes are lost of a JPEG; 0 where it is sound."""
    begin = data.find(b"\xff\xda", _end_of_app_headers(data))  # a thumbnail in them has data of its own
    runs = [run.span() for run in ZEROS.finditer(data, begin, max(begin, data.find(JPEG_END, begin)))]
    first, last = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    whole = _decoded(data) if runs else None
    if whole is None or _same(whole, data[:first] + PROBE * ((last - first) // len(PROBE) + 1) + data[last:]):
        return 0  # nothing is made of these bytes
    found = MARKER.search(data, last)
    stop, number = (found.start(), found[0][1]) if found else (len(data), 0)
    *_, before = [match[0][1] for match in MARKER.finditer(data, begin, first)]  # the start of the scan, if no other
    following = RESTARTS[(before + 1) % 8] if before in RESTARTS else RESTARTS[0]
    if number in RESTARTS and number != following:  # they are counted, and some are gone
        return last - first
    needs_more = not _same(whole, data[:stop] + PROBE * 8 + data[stop:])
    scan = data.rfind(b"\xff\xda", begin, first)
    refines = data[scan + 1 + int.from_bytes(data[scan + 2 : scan + 4], "big")] > 0xF
    if needs_more or refines:  # one that refines by the last bit changes too little to be seen
        return last - first if needs_more else 0
    left_over = all(_same(whole, data[: stop - len(probe)] + probe + data[stop:]) for probe in PROBES)
    return last - first if left_over else 0


def _end_of_app_headers(data: bytes) -> int:
    position = 2
    while data[position : position + 1] == b"\xff" and 0xE0 <= data[position + 1] <= 0xEF:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position


def _decoded(data: bytes) -> np.ndarray | None:
    """By PIL, which keeps quiet about what it finds strange; none where it refuses."""
    try:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image) if image.width * image.height <= MOST_PIXELS else None
    except Exception:  # whatever a broken file makes of it
        return None


def _same(whole: np.ndarray, data: bytes) -> bool:
    other = _decoded(data)
    return other is not None and np.array_equal(whole, other)


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """The compressed colours of a WebP."""
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] in (b"VP8 ", b"VP8L"):
            yield data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _tif_damage(data: bytes) -> str:
    """What libtiff says of a losslessly compressed tif, where OpenCV goes on with black."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.info.get("compression") in LOSSLESS and image.width * image.height <= MOST_PIXELS:
                image.load()
    except UnidentifiedImageError:  # a kind of tif that PIL does not know
        return ""
    except OSError:
        return "its compressed data cannot be decoded to their end, so a part of the picture is lost"
    except Exception:  # whatever a strange file makes of it
        return ""
    return ""


def has_picture_in_alpha(data: bytes) -> bool:
    """Whether the alpha channel of an image file is not the same everywhere."""
    if not data:
        return False
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return False
    return pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 4 and bool(np.ptp(pixels[:, :, 3]))
