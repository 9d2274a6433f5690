"""Height and width of an image: known from a table or its name, or else read from its file when asked for."""

import functools
from io import BytesIO
from pathlib import Path

import numpy as np

from pipeline.data.formats import require
from pipeline.data.images import PNG, image, size_of
from pipeline.data.places import archive_at, read_bytes, shown
from pipeline.errors import UserError

Size = tuple[int, int]
HEADER = 65536  # bytes; nearly every header is shorter


def known_size(source: Size | Path) -> Size:
    """The size itself, or what the header of the file says.

    Raises:
        UserError: the file is missing, or no image.
    """
    return _size_of_file(source) if isinstance(source, Path) else source


@functools.cache
def _size_of_file(path: Path) -> Size:
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return _size_of_tif(path)
    if suffix == ".npy":
        shape = np.load(BytesIO(read_bytes(path)), allow_pickle=False).shape
        return int(shape[0]), int(shape[1])
    start = _start(path)
    found = size_of(start)
    if found is None or (not start.startswith(PNG) and 0 in found):
        found = size_of(read_bytes(path))
    if found is None:  # a format whose header is not known here
        pixels = image(path, None)
        found = pixels.shape[0], pixels.shape[1]
    return found


def _start(path: Path) -> bytes:
    """The first bytes of a file; all of one that is in an archive."""
    if archive_at(path) is not None or not path.is_file():
        return read_bytes(path)
    with path.open("rb") as file:
        return file.read(HEADER)


def _size_of_tif(path: Path) -> Size:
    tifffile = require("tifffile", "tif")
    try:
        with tifffile.TiffFile(path if path.is_file() else BytesIO(read_bytes(path))) as file:
            page = file.pages[0]
            return int(page.imagelength), int(page.imagewidth)
    except UserError:
        raise
    except Exception as error:  # tifffile raises whatever a broken file makes of it
        raise UserError(f"cannot read {shown(path)} as tif ({error}); download it again") from error
