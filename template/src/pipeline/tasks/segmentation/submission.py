"""How masks become the rows of a sample submission, which is recognised by its columns and ids.

One row per image (of a single class), per image and class (an own column, or ids such as `0002cc93b.jpg_1`), a column
for each class, or as many rows per image as there are objects.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Competition, Head
from pipeline.heads.mask_decoding import decoded
from pipeline.heads.mask_predictions import columns
from pipeline.submission_schema import Keys, sample_id_column
from pipeline.tasks.segmentation.forms import EMPTY, RunLengths
from toolkit.errors import UserError, listed
from toolkit.masks import maps, rle
from toolkit.masks.components import Components
from toolkit.masks.sizes import Size

CLASS_COLUMNS = ("class", "label", "class_id", "classid", "category")


@dataclass(frozen=True)
class Written:
    """How a competition wants masks; `FORM` in `src/competition/submission.py`.

    Attributes:
        order, first: of the RLE, see `rle`.
        size: height and width at which masks are written; none: those of the image.
        objects: whether each connected component has a row of its own; none: where the sample repeats ids.
        empty: what stands for an empty mask; none: what the sample shows, or else nothing.
    """

    order: rle.Order = "column"
    first: int = 1
    size: Size | None = None
    objects: bool | None = None
    empty: str | None = None


def form_of(competition: Competition) -> Written:
    """`FORM` of the competition's `submission`; without it, the usual form."""
    found = getattr(importlib.import_module(f"{competition.package}.submission"), "FORM", Written())
    if not isinstance(found, Written):
        raise UserError("FORM in src/competition/submission.py is no Written(...); correct it")
    return found


def read_as(competition: Competition) -> RunLengths | None:
    """`TRUTH` of the competition's `targets`, where it is RLE."""
    found = getattr(importlib.import_module(f"{competition.package}.targets"), "TRUTH", None)
    return found if isinstance(found, RunLengths) else None


@dataclass(frozen=True)
class Layout:
    """What a sample is made of.

    Attributes:
        cells: the columns of RLE -> the class in it, none where the row says it.
        class_column: the column of the class, if there is one.
        mark: what joins image and class in an id; empty where ids are those of images.
        objects: whether each object has a row.
        empty: what stands for an empty mask.
    """

    id_column: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    cells: Mapping[str, str | None]
    class_column: str = ""
    mark: str = ""
    objects: bool = False
    empty: str = ""

    @property
    def keys(self) -> Keys:
        """What names a row of a submission."""
        further = (self.class_column,) if self.class_column else ()
        return Keys((self.id_column, *further), repeats=self.objects, rows=self.rows)

    def rows(self, ids: pd.Series) -> pd.DataFrame:
        """The rows that these images should have, of key columns alone."""
        ids = ids.reset_index(drop=True)
        if not (self.class_column or self.mark):
            return pd.DataFrame({self.id_column: ids})
        repeated = ids.repeat(len(self.classes)).reset_index(drop=True)
        of_class = pd.Series(list(self.classes) * len(ids), dtype="str")
        if self.mark:
            return pd.DataFrame({self.id_column: repeated + self.mark + of_class})
        return pd.DataFrame({self.id_column: repeated, self.class_column: of_class})

    def sorted_out(self, table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
        """(id of the image, class, text) of every cell of a submission; rows of an unknown class are left out."""
        for row in table.to_dict("records"):
            name, of_row = str(row[self.id_column]), self.classes[0]
            if self.mark:
                name, _, of_row = name.rpartition(self.mark)
            elif self.class_column:
                of_row = str(row[self.class_column])
            for column, of_column in self.cells.items():
                if column in row and (of_column or of_row) in self.classes:
                    yield name, of_column or of_row, str(row[column])


def layout(sample: pd.DataFrame, heads: Sequence[Head], id_column: str, form: Written) -> Layout:
    """What the sample asks for.

    Raises:
        UserError: its columns and ids are of no known kind.
    """
    [head] = heads
    names = [str(name) for name in sample.columns]
    id_column = sample_id_column(names, id_column)
    others = [name for name in names if name != id_column]
    found: dict[str, str | None]
    class_column, mark = "", ""
    if set(others) <= set(head.classes):
        found = {name: name for name in others}
    else:
        class_column = _class_column(sample, others, head.classes)
        cells = [name for name in others if name != class_column]
        mark = "" if class_column else mark_of(sample[id_column], head.classes)
        if len(cells) != 1:
            raise UserError(
                f"the sample submission has the columns {listed(names, 5)}, and one column of RLE and one of the class "
                f"({listed(head.classes)}) are known; fill others in src/competition/submission.py"
            )
        found = {cells[0]: None}
        if not class_column and not mark and len(head.classes) > 1:
            raise UserError(
                f"the sample submission does not say of which of the {len(head.classes)} classes a row is; decide it "
                "in src/competition/submission.py"
            )
    by_class = bool(class_column or mark)
    repeated = not by_class and bool(sample[id_column].duplicated().any())
    objects = repeated if form.objects is None else form.objects
    empty = _empty(sample, list(found)) if form.empty is None else form.empty
    return Layout(id_column, tuple(names), head.classes, found, class_column, mark, objects, empty)


def _class_column(sample: pd.DataFrame, others: Sequence[str], classes: Sequence[str]) -> str:
    """The column that holds classes; in a sample without rows, one that is called so."""
    if len(others) < 2:
        return ""
    for name in others:
        if len(sample) and sample[name].isin(classes).all():
            return name
    return next((name for name in others if sample.empty and name.lower() in CLASS_COLUMNS), "")


def mark_of(ids: pd.Series, classes: Sequence[str]) -> str:
    """What stands in every id between the image and a class at its end; empty where ids are no such."""
    ends = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    found = ids.str.extract(rf"([^0-9A-Za-z.])(?:{ends})$")[0] if len(ids) and ends else ids.iloc[:0]
    known = found.dropna().unique()
    if found.isna().any() or len(known) != 1:
        return ""
    stems = ids.str.rpartition(known[0])
    # Ids that merely end in a number are no images and classes: each image has every class.
    return str(known[0]) if stems[2].nunique() == len(classes) or stems[0].duplicated().any() else ""


def _empty(sample: pd.DataFrame, cells: Sequence[str]) -> str:
    """What the sample writes for an empty mask."""
    shown = [text for name in cells for text in sample[name].unique() if text and text.strip().lower() in EMPTY]
    return str(shown[0]) if shown else ""


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], id_column: str, form: Written | None = None
) -> pd.DataFrame:
    """The sample's columns with the RLE of every decided mask: a row per image, image and class, or object.

    Raises:
        UserError: the sample is not recognised, or the predictions lack a column.
    """
    form = form or Written()
    asked, [head] = layout(sample, heads, id_column, form), heads
    lines: list[dict[str, str]] = []
    for name, masks in zip(predictions.index.astype(str), decoded(predictions, head), strict=True):
        texts = [_texts(mask, form, asked) for mask in masks]
        if not (asked.class_column or asked.mark):
            # Either a single class, or a column for each of them.
            by_class = dict(zip(head.classes, texts, strict=True))
            of_cells = [by_class[of or head.classes[0]] for of in asked.cells.values()]
            lines += [
                {asked.id_column: name, **dict(zip(asked.cells, cells, strict=True))}
                for cells in zip(*of_cells, strict=True)
            ]
            continue
        [cell] = asked.cells
        for of_class, own in zip(head.classes, texts, strict=True):
            key = {asked.id_column: name + asked.mark + of_class} if asked.mark else {asked.id_column: name}
            further = {asked.class_column: of_class} if asked.class_column else {}
            lines += [{**key, **further, cell: text} for text in own]
    return pd.DataFrame(lines, columns=list(asked.columns), dtype="str")


def _texts(mask: np.ndarray, form: Written, asked: Layout) -> list[str]:
    """The RLE of a mask, bool (H, W), or of each of its objects."""
    if form.size is not None and mask.shape != form.size:
        mask = cv2.resize(mask.view(np.uint8), form.size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    if not mask.any():
        return [asked.empty]
    if not asked.objects:
        return [rle.encode(mask, form.order, form.first)]
    return [rle.encode(one, form.order, form.first) for one in Components.of(mask, 8).masks()]


def as_predictions(
    table: pd.DataFrame, asked: Layout, form: Written, head: Head, sizes: Mapping[str, Size]
) -> pd.DataFrame | None:
    """A submission as a table of predictions: the way back from `submission_table`. None where a size is not known."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, of_class, text in asked.sorted_out(table):
        own = found.setdefault(name, {each: [] for each in head.classes})
        if text.strip().lower() not in EMPTY:
            own[of_class].append(text)
    if any(name not in sizes for name in found):
        return None
    cells = [[_cell(" ".join(own[each]), sizes[name], form) for each in head.classes] for name, own in found.items()]
    return pd.DataFrame(cells, index=pd.Index(list(found), name="id"), columns=columns(head), dtype=object)


def _cell(text: str, size: Size, form: Written) -> bytes:
    mask = rle.decode(text, form.size or size, form.order, form.first)
    if mask.shape != size:
        mask = cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return maps.encode_mask(mask)
