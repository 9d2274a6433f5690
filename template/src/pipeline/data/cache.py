"""Images decoded and resized once: `image.cache: true`.

The dataset then sees every image at the size of the cache (`image.cache_size`, or `image.size`), with the same pixels
whether they come from the cache or were decoded on the spot. So test rows, which are read once and not kept, are
predicted as the training rows were seen, and an image size that changes while training needs no other cache.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.config import Experiment
from pipeline.data.cache_file import Store
from pipeline.data.cache_fill import Filling, Source
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.project import Project
from pipeline.registry import Names
from toolkit.errors import UserError
from toolkit.files import digest
from toolkit.images.readers import Size
from toolkit.images.row_reader import NO_ROW, Reader, Row, RowReader, Rows, image_key, row_reader

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 4  # channels that OpenCV resizes at once with INTER_AREA


@dataclass(frozen=True)
class ResizedReader(RowReader):
    """A reader whose images all have `size`, whatever size is asked for.

    Raises:
        UserError: what `reader` made is neither uint8 nor float32, or not (H, W, C).
    """

    reader: RowReader
    size: Size
    takes_row: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_row", self.reader.takes_row)

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        pixels = self.reader(path, self.size, row)
        if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.float32):
            raise UserError(
                f"the reader made {pixels.dtype} {pixels.shape} of {path.name}; "
                "uint8 or float32 of shape (H, W, C) is expected"
            )
        return resized(pixels, self.size)


class CachedImages(RowReader):
    """A reader that takes images out of a store, and those that are not in it as `reader` gives them.

    A loader's process maps the file into its own memory when it first reads, so nothing is copied to it.

    Args:
        store: the files of the cache.
        rows: what an image is known by (`image_key`) -> its row in the store.
        reader: what decodes the others.
    """

    def __init__(self, store: Store, rows: dict[str, int], reader: RowReader) -> None:
        self.store, self.rows, self.reader = store, rows, reader
        self.takes_row = reader.takes_row
        self.images: np.ndarray | None = store.images() if rows else None

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        """A copy of the image (H, W, C), which may be changed."""
        place = self.rows.get(image_key(str(path), row))
        if place is None:
            return self.reader(path, size, row)
        if self.images is None:
            self.images = self.store.images()
        return self.images[place].copy()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "images": None}


def reader_for(experiment: Experiment, names: Names) -> RowReader:
    """The experiment's reader; where `image.cache` is on, its images are resized to the size of the cache."""
    reader = row_reader(names.bind("reader", experiment.image.reader))
    return ResizedReader(reader, cache_size(experiment)) if experiment.image.cache else reader


def open_cache(project: Project, experiment: Experiment, names: Names, *tables: "pd.DataFrame") -> Reader:
    """What reads the images of some rows: the cache, once all are in it; without `image.cache` the plain reader.

    What is not in it, and what has another size or time of change than when it was read, is decoded now; everything
    else stays as it is. One process does it, and others wait. The old row of a changed image takes up space until
    `scripts/cache.py --clear`.

    Args:
        tables: rows with `id` and `image`.

    Raises:
        UserError: an image cannot be read (its row and path are named) or is not like the others, or the disk is too
            small. What was decoded before stays.
    """
    reader = reader_for(experiment, names)
    if not experiment.image.cache:
        return reader
    about = describe(project, experiment, names)
    store = Store(project.cache / folder_name(about))
    sources = {source.key: source for table in tables for source in _sources(table, reader)}
    Filling(project, store, reader, sources).fill(about)
    index = store.index()
    places = {image_key(str(project.data / one.path), one.row): index[key][0] for key, one in sources.items()}
    return CachedImages(store, places, reader)


def _sources(table: "pd.DataFrame", reader: Reader) -> Iterator[Source]:
    rows = Rows(table, reader)
    for position, (name, path) in enumerate(zip(table[ROW_ID], table[ROW_IMAGE], strict=True)):
        yield Source(image_key(path, rows[position]), path, rows[position], position, name)


def cache_size(experiment: Experiment) -> Size:
    """Height and width of the cached images."""
    return experiment.image.cache_size or experiment.image.size


def describe(project: Project, experiment: Experiment, names: Names) -> dict[str, Any]:
    """What decides the pixels in a cache: reader, its params and code, the size, and the data folder.

    The code is the source file in which the reader is defined; any change of that file counts, so a reader is best kept
    in a file of its own. What it imports is not looked at: after a change there, `scripts/cache.py --clear`.
    """
    entry = names.resolve("reader", experiment.image.reader)
    return {
        "reader": entry.name,
        "params": json.loads(json.dumps(entry.params, default=str)),
        "code": _source_digest(names.find("reader", entry.name)),
        "size": list(cache_size(experiment)),
        "data": project.shown(project.data),
    }


def folder_name(about: dict[str, Any]) -> str:
    """The size for a person to read, and a fingerprint of all that `describe` says."""
    height, width = about["size"]
    return f"{height}x{width}-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]}"


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """An image (H, W, C) at another size, aspect ignored: averaged where it shrinks, linear where it grows."""
    smaller = (min(pixels.shape[0], size[0]), min(pixels.shape[1], size[1]))
    for target, interpolation in ((smaller, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if pixels.shape[:2] != target:
            pixels = _resize(pixels, target, interpolation)
    return pixels


def _resize(pixels: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    parts = [
        cv2.resize(pixels[:, :, first : first + AT_ONCE], size[::-1], interpolation=interpolation)
        for first in range(0, pixels.shape[2], AT_ONCE)
    ]
    return parts[0].reshape(*size, -1) if len(parts) == 1 else np.dstack(parts)


def _source_digest(reader: Callable[..., Any]) -> str:
    """A fingerprint of the file in which a function, a class, or the class of an object is defined."""
    unwrapped = inspect.unwrap(reader)
    defined = unwrapped if inspect.isroutine(unwrapped) or inspect.isclass(unwrapped) else type(unwrapped)
    source = inspect.getsourcefile(defined)
    return digest(Path(source).read_bytes()) if source else ""
