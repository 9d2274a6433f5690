"""The forms in which competitions give masks; `src/competition/targets.py` names one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.tables import image_paths, require_columns
from pipeline.heads.mask_decoding import IGNORED
from pipeline.keys import ROW_ID
from pipeline.tasks.segmentation.mask_files import BACKGROUND, COLOUR, FileTruth
from pipeline.tasks.segmentation.truth import RunTruth, Truth
from toolkit.errors import UserError, listed, nearest
from toolkit.files import archive_above, missing
from toolkit.masks.rle import Order
from toolkit.masks.sizes import Frame, Size

EMPTY = frozenset({"", "-", "-1", "nan", "none", "0 0", "1 0"})  # what stands for an empty mask
MARKED = "class of the row"  # the column of a class that was joined to an id
Image = Size | Path
Colour = int | tuple[int, int, int]


@dataclass(frozen=True)
class Written:
    """How a competition wants masks; `FORM` in `src/competition/submission.py`.

    Attributes:
        order, first: of the RLE, see `rle`.
        size: height and width at which masks are written; none: those of the image.
        objects: whether each connected component has a row of its own; none: where the sample repeats ids.
        empty: what stands for an empty mask; none: what the sample shows, or else nothing.
    """

    order: Order = "column"
    first: int = 1
    size: Size | None = None
    objects: bool | None = None
    empty: str | None = None


def is_empty(text: str) -> bool:
    """Whether a cell stands for an empty mask."""
    return text.strip().lower() in EMPTY


class Form(ABC):
    """How masks are given."""

    @property
    def own_columns(self) -> Sequence[str]:
        """Of the table, those that say something about a mask, not about an image."""
        return ()

    def by_image(self, table: pd.DataFrame, id_column: str, classes: Sequence[str]) -> pd.DataFrame:
        """The table with ids of images, still with all its rows."""
        return table

    @abstractmethod
    def truths(
        self, table: pd.DataFrame, rows: pd.DataFrame, images: Sequence[Image], classes: tuple[str, ...], data: Path
    ) -> list[Truth]:
        """The truth of each row, one per image, given a table of `by_image` and the sizes of the images, or their
        files."""


@dataclass(frozen=True)
class RunLengths(Form):
    """RLE in a column: one row per image, per image and class, or several rows per image, one for each object.

    Attributes:
        column: the column of the RLE. With `{class}` in it there is one for each class.
        classes: the column that names the class of a row.
        mark: what joins image and class where one column holds both: `_` in `0002cc93b.jpg_1`.
        order: `column` (from top to bottom, then left to right) or `row`.
        first: the number of the first pixel, 1 or 0.
        frame: of images that their EXIF orientation turns, whether masks lie as the image is `seen` or as it is
            `stored`; none: as it is seen.
    """

    column: str
    classes: str = ""
    mark: str = ""
    order: Order = "column"
    first: int = 1
    frame: Frame | None = None

    @property
    def own_columns(self) -> Sequence[str]:
        return [self.column, *([self.classes] if self.classes else [])]

    def by_image(self, table: pd.DataFrame, id_column: str, classes: Sequence[str]) -> pd.DataFrame:
        if not self.mark:
            return table
        parts = table[id_column].str.rpartition(self.mark)
        strange = table[id_column][~parts[2].isin(classes)]
        if len(strange):
            raise UserError(
                f"{len(strange)} ids of '{id_column}' ({listed(strange)}) do not end in '{self.mark}' and a class "
                f"({listed(classes, 5)}); correct CLASSES or mark in src/competition/targets.py"
            )
        return table.assign(**{id_column: parts[0], MARKED: parts[2]})

    def truths(
        self, table: pd.DataFrame, rows: pd.DataFrame, images: Sequence[Image], classes: tuple[str, ...], data: Path
    ) -> list[Truth]:
        found: dict[tuple[str, str], list[str]] = {}
        for name, of_class, text in self._cells(table, classes):
            if isinstance(text, str) and not is_empty(text):
                found.setdefault((name, of_class), []).append(text.strip())
        runs = [tuple(tuple(found.get((name, each), ())) for each in classes) for name in rows[ROW_ID]]
        return [
            RunTruth(classes, image, texts, self.order, self.first, frame=self.frame)
            for image, texts in zip(images, runs, strict=True)
        ]

    def _cells(self, table: pd.DataFrame, classes: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
        """(id, class, text) of every cell."""
        if "{class}" in self.column:
            for of_class in classes:
                name = self.column.replace("{class}", of_class)
                require_columns(table, [name], "the table")
                yield from ((row, of_class, text) for row, text in zip(table[ROW_ID], table[name], strict=True))
            return
        by_row = self.classes or (MARKED if self.mark else "")
        if not by_row and len(classes) > 1:
            raise UserError(
                f"the column '{self.column}' does not say which of {len(classes)} classes it is of; give RunLengths in "
                "src/competition/targets.py the column of the class (classes) or what joins it to the id (mark)"
            )
        require_columns(table, [self.column, *([by_row] if by_row else [])], "the table")
        of_rows = table[by_row] if by_row else pd.Series(classes[0], index=table.index)
        strange = of_rows[~of_rows.isin(classes)].dropna()
        if len(strange):
            raise UserError(
                f"{len(strange)} rows are of the class '{strange.iloc[0]}' (id {listed(table[ROW_ID][strange.index])}),"
                f" which is not in CLASSES of src/competition/targets.py; {nearest(str(strange.iloc[0]), classes)}"
            )
        yield from zip(table[ROW_ID], of_rows, table[self.column], strict=True)


@dataclass(frozen=True)
class MaskFiles(Form):
    """Files of masks, 8 or 16 bit, with a palette, or in colours.

    Attributes:
        pattern: path below the data folder with columns in braces; with `{class}` there is a file for each class.
        values: what the value of a pixel, or its colour, means: `{1: "cat", (255, 0, 0): "dog"}`. None: whatever is
            above 0 is the class; in a file that is stored with loss or whose edges are smooth, above half of white.
        background, ignored: values or colours of no class, and of pixels that neither train nor score.
        may_be_absent: an image without a file has no pixel of the class; else a missing file is an error.
        above: without values: the value above which a pixel is of the class, if it is none of these.
        frame: see `RunLengths`; none: as the size of the file tells, else as the image is seen.
    """

    pattern: str
    values: Mapping[Colour, str] | None = None
    background: Sequence[Colour] = (0,)
    ignored: Sequence[Colour] = ()
    may_be_absent: bool = False
    above: int | None = None
    frame: Frame | None = None

    def truths(
        self, table: pd.DataFrame, rows: pd.DataFrame, images: Sequence[Image], classes: tuple[str, ...], data: Path
    ) -> list[Truth]:
        by_class = "{class}" in self.pattern
        if not by_class and self.values is None and len(classes) > 1:
            raise UserError(
                f"one mask file holds {len(classes)} classes; say in src/competition/targets.py what its values mean: "
                "MaskFiles(pattern, values={1: 'a class', ...})"
            )
        patterns = [self.pattern.replace("{class}", name) for name in classes] if by_class else [self.pattern]
        files = zip(*(image_paths(rows, pattern, data) for pattern in patterns), strict=True)
        codes = self._codes(classes)
        return [
            FileTruth(
                classes, image, tuple(self._file(data / path) for path in paths), codes, self.above, frame=self.frame
            )
            for paths, image in zip(files, images, strict=True)
        ]

    def _file(self, path: Path) -> Path | None:
        if archive_above(path):
            raise missing(path)
        return None if self.may_be_absent and not path.exists() else path

    def _codes(self, classes: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        values = self.values or {}
        strange = [name for name in values.values() if name not in classes]
        if strange:
            raise UserError(
                f"values of MaskFiles in src/competition/targets.py names the class '{strange[0]}', which is not in "
                f"CLASSES; {nearest(strange[0], classes)}"
            )
        meanings: list[tuple[Colour, int]] = [(key, BACKGROUND) for key in self.background]
        if any(not isinstance(key, int) for key in values):  # black is the background of colours, too
            meanings.insert(0, ((0, 0, 0), BACKGROUND))
        meanings += [(key, IGNORED) for key in self.ignored]
        meanings += [(key, classes.index(name)) for key, name in values.items()]
        found: dict[int, int] = {}
        for key, place in meanings if values else ():
            red, green, blue = (key, key, key) if isinstance(key, int) else key
            if not isinstance(key, int):
                found[COLOUR | red << 16 | green << 8 | blue] = place
            if red == green == blue:  # a file whose colours are all grey holds numbers
                found[red] = place
        return tuple(found.items())
