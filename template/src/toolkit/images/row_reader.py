"""How a reader is called: with `(path, size)`, or `(path, size, row)` where it has a third positional parameter, since
an image is not one file: a slice of a stack, a record of a table. Then rows of one path are different images."""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toolkit.images.pixels import Size

Row = Mapping[str, Any]  # column -> cell
Reader = Callable[..., np.ndarray]  # (path, size) or (path, size, row) -> (H, W, C)
NO_ROW: Row = {}
FOLD = "fold"  # the column that says nothing about the image


class RowReader(ABC):
    """Any reader, called as `(path, size, row)`."""

    takes_row: bool  # whether the row decides what is read, beside the path

    @abstractmethod
    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        """The image (H, W, C) at a path, or of a row."""


@dataclass(frozen=True)
class OwnReader(RowReader):
    """A reader as an experiment names it."""

    function: Reader
    takes_row: bool

    def __call__(self, path: Path, size: Size | None, row: Row = NO_ROW) -> np.ndarray:
        return self.function(path, size, row) if self.takes_row else self.function(path, size)


def row_reader(reader: Reader) -> RowReader:
    """The reader, called as `(path, size, row)`; one that is called so already stays as it is."""
    if isinstance(reader, RowReader):
        return reader
    kinds = [parameter.kind for parameter in inspect.signature(reader).parameters.values()]
    return OwnReader(reader, sum(kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds) > 2)


class Rows:
    """The rows of a table as a reader sees them, without the fold; a reader that does not ask for them gets none."""

    def __init__(self, table: pd.DataFrame, reader: Reader) -> None:
        names = [name for name in table if name != FOLD] if row_reader(reader).takes_row else []
        self.columns = {str(name): table[name].to_numpy(object) for name in names}

    def __getitem__(self, position: int) -> Row:
        return {name: cells[position] for name, cells in self.columns.items()} if self.columns else NO_ROW


@dataclass(frozen=True)
class Place:
    """Where an image is: a path, and the row for a reader that asks for it. Equal where both are."""

    path: Path = field(compare=False)
    row: Row = field(default_factory=dict, compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", image_key(str(self.path), self.row))


def image_key(path: str, row: Row) -> str:
    """What an image is known by: its path, and where the reader asks for the row, all that stands in it."""
    if not row:
        return path
    cells = json.dumps(row, sort_keys=True, default=_plain)
    return f"{path} {hashlib.blake2b(cells.encode(), digest_size=12).hexdigest()}"


def _plain(cell: Any) -> Any:
    """A cell that JSON does not know. An object (the truth of a mask) is known by its kind only."""
    if isinstance(cell, np.generic | np.ndarray):
        return cell.tolist()
    text = str(cell)
    return text if isinstance(cell, Path | bytes) or type(cell).__module__.startswith(("pandas", "datetime")) else ""
