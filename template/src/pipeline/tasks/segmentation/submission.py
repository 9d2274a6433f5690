"""How decided masks become the rows of a sample submission, and back, and what is wrong with such rows.

The sample is recognised by its columns and ids: one row per image (of a single class), per image and class (an own
column, or ids such as `0002cc93b.jpg_1`), a column for each class, or as many rows per image as there are objects.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_decoding import EXCLUSIVE, columns, decoded
from pipeline.submission_schema import Keys, Problem, sample_id_column
from pipeline.tasks.segmentation.forms import RunLengths, Written, is_empty
from toolkit.errors import UserError, listed
from toolkit.masks import maps, rle
from toolkit.masks.components import Components
from toolkit.masks.sizes import Size, known_size

CLASS_COLUMNS = ("class", "label", "class_id", "classid", "category")
ANY_SIZE = (1 << 30, 1 << 30)  # stands for a size that is not known
NUMBER = re.compile(r"-?\d+")
Cell = tuple[str, str, str]  # id of the image, class, text


@dataclass(frozen=True)
class MaskRules:
    """What the sample of a competition asks for, and what may stand in it."""

    head: Head  # what is predicted
    form: Written  # how masks are written
    id_column: str
    columns: tuple[str, ...]  # of the sample
    cells: Mapping[str, str | None]  # the columns of RLE -> the class in it, none where the row says it
    class_column: str  # if there is one
    mark: str  # what joins image and class in an id; empty where ids are those of images
    objects: bool  # whether each object has a row
    empty: str  # what stands for an empty mask
    sizes: Mapping[str, Size]  # of the test images, by id, as far as they are known
    read: RunLengths | None  # how training masks are read, where they are RLE

    @property
    def keys(self) -> Keys:
        further = (self.class_column,) if self.class_column else ()
        return Keys((self.id_column, *further), repeats=self.objects, rows=self.rows)

    def key(self, name: str, of_class: str) -> dict[str, str]:
        """What names the row of an image and a class."""
        key = {self.id_column: name + self.mark + of_class if self.mark else name}
        return {**key, self.class_column: of_class} if self.class_column else key

    def rows(self, ids: pd.Series) -> pd.DataFrame:
        """The rows that these images should have, of key columns alone."""
        classes = self.head.classes if self.class_column or self.mark else self.head.classes[:1]
        return pd.DataFrame([self.key(name, each) for name in ids for each in classes], dtype="str")

    def sorted_out(self, table: pd.DataFrame) -> Iterator[Cell]:
        """Every cell of a submission; rows of an unknown class are left out."""
        for row in table.to_dict("records"):
            name, of_row = str(row[self.id_column]), str(row.get(self.class_column, self.head.classes[0]))
            if self.mark:
                name, _, of_row = name.rpartition(self.mark)
            for column, of_column in self.cells.items():
                if column in row and (of_column or of_row) in self.head.classes:
                    yield name, of_column or of_row, str(row[column])

    def described(self) -> list[str]:
        size = "the image's size" if self.form.size is None else "{} x {} pixels".format(*self.form.size)
        rows = ", a row for each object" if self.objects else ""
        return [f"{name}: RLE at {size}, {_way(self.form)}{rows}" for name in self.cells]

    def notes(self) -> list[str]:
        notes = [f"an empty mask is written '{self.empty}'"] if self.empty else []
        extra = [repr(name) for name in self.columns if name not in {*self.keys.columns, *self.cells}]
        notes += [f"no class or mask is {listed(extra)}: filled as in the sample"] if extra else []
        if self.read is not None and _way(self.read) != _way(self.form):
            notes.append(
                f"RLE is read {_way(self.read)} (TRUTH in src/competition/targets.py) and written {_way(self.form)} "
                "(FORM in submission.py); competitions seldom mean that"
            )
        return notes

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        if not {*self.keys.columns, *self.cells} <= set(table.columns):
            return []
        cells = list(self.sorted_out(table))
        found: dict[tuple[str, bool], list[tuple[str, str]]] = {}
        for name, of_class, text in [cell for cell in cells if not is_empty(cell[2])]:
            size = self.form.size or self.sizes.get(name, ANY_SIZE)
            if what := rle.check(text, size, self.form.first):
                row = f"{name}{self.mark or ' '}{of_class}" if len(self.head.classes) > 1 else name
                warning = not rle.fault(text, size, self.form.first)
                found.setdefault((NUMBER.sub("#", what), warning), []).append((row, what))
        form, whole = f"write pairs of start and length, {_way(self.form)}", f"of {len(cells)} masks"
        problems = [
            Problem("mask", f"{len(rows)} {whole} ({listed(r for r, _ in rows)}): {rows[0][1]}; {form}", warning)
            for (_, warning), rows in found.items()
        ]
        other = [name for name, _, text in cells if is_empty(text) and text != self.empty]
        shared = [] if problems else self._shared(cells)
        if other:
            what = f"are not written as the sample does it; write {repr(self.empty) if self.empty else 'nothing'}"
            problems.append(Problem("mask", f"{len(other)} empty masks ({listed(other)}) {what}", warning=True))
        return [*problems, *shared]

    def _shared(self, cells: Sequence[Cell]) -> list[Problem]:
        """Images in which a pixel has two classes, where each has one; or belongs to two objects."""
        if self.head.kind != EXCLUSIVE and not self.objects:
            return []
        by_image: dict[str, list[str]] = {}
        for name, _, text in cells:
            by_image.setdefault(name, []).extend([] if is_empty(text) else [text])
        shared = [name for name, texts in by_image.items() if len(texts) > 1 and _overlap(texts, self.form.first)]
        what = "two objects" if self.objects else "two classes"
        text = f"in {len(shared)} images ({listed(shared)}) masks overlap; a pixel cannot belong to {what}"
        return [Problem("mask", text, warning=not self.objects)] if shared else []


def _way(form: Written | RunLengths) -> str:
    return f"{'down the columns' if form.order == 'column' else 'along the rows'}, first pixel {form.first}"


def _overlap(texts: Sequence[str], first: int) -> bool:
    """Whether a pixel is in two of the masks, each of which is right by itself."""
    starts, ends = np.concatenate([rle.runs(text, ANY_SIZE, first) for text in texts], axis=1)
    order = np.argsort(starts, kind="stable")
    return bool((starts[order][1:] < np.maximum.accumulate(ends[order])[:-1]).any())


def submission_rules(
    sample: pd.DataFrame,
    heads: Sequence[Head],
    id_column: str,
    form: Written | None = None,
    images: Mapping[str, Path] | None = None,
    read: RunLengths | None = None,
) -> MaskRules:
    """What this sample asks for, given the image of each test id, as far as it is there and says a size; a `UserError`
    where the columns and ids are of no known kind."""
    [head], form = heads, form or Written()
    names = [str(name) for name in sample.columns]
    id_column = sample_id_column(names, id_column)
    others = [name for name in names if name != id_column]
    cells: dict[str, str | None] = {name: name for name in others if name in head.classes}
    class_column = mark = ""
    if not (len(cells) == len(others) or len(cells) == len(head.classes)):
        if len(others) > 1:  # the column that holds classes; in a sample without rows, one that is called so
            holds = (name for name in others if len(sample) and sample[name].isin(head.classes).all())
            called = (name for name in others if sample.empty and name.lower() in CLASS_COLUMNS)
            class_column = next(holds, next(called, ""))
        mark = "" if class_column else mark_of(sample[id_column], head.classes)
        cells = {name: None for name in others if name != class_column}
        if len(cells) > 1:  # those that hold masks
            cells = {name: None for name in cells if all(_is_mask(text, form.first) for text in sample[name].unique())}
        if len(cells) != 1 or not (class_column or mark or len(head.classes) == 1):
            raise UserError(
                f"the sample submission has the columns {listed(names, 5)} and does not say of which of the "
                f"{len(head.classes)} classes a row is; one column of RLE and one of the class "
                f"({listed(head.classes)}) are known: fill others in src/competition/submission.py"
            )
    repeated = not (class_column or mark) and bool(sample[id_column].duplicated().any())
    shown = [text for name in cells for text in sample[name].unique() if text and is_empty(text)]
    sizes = {}
    for name, path in (images or {}).items():
        with contextlib.suppress(UserError):
            sizes[name] = known_size(path)
    objects = repeated if form.objects is None else form.objects
    empty = next(map(str, shown), "") if form.empty is None else form.empty
    return MaskRules(head, form, id_column, tuple(names), cells, class_column, mark, objects, empty, sizes, read)


def _is_mask(text: str, first: int) -> bool:
    return is_empty(text) or not rle.fault(text, ANY_SIZE, first)


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


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], id_column: str, form: Written | None = None
) -> pd.DataFrame:
    """The sample's columns with the RLE of every decided mask: a row per image, image and class, or object.

    Raises:
        UserError: the sample is not recognised, or the predictions lack a column.
    """
    rules, [head] = submission_rules(sample, heads, id_column, form), heads
    lines: list[dict[str, str]] = []
    for name, masks in zip(predictions.index.astype(str), decoded(predictions, head), strict=True):
        texts = {of_class: _texts(mask, rules) for of_class, mask in zip(head.classes, masks, strict=True)}
        if rules.class_column or rules.mark:
            [cell] = rules.cells
            lines += [{**rules.key(name, each), cell: text} for each, own in texts.items() for text in own]
        else:  # a single class, or a column for each of them
            rows = zip(*(texts[of or head.classes[0]] for of in rules.cells.values()), strict=True)
            lines += [{rules.id_column: name, **dict(zip(rules.cells, row, strict=True))} for row in rows]
    own = [name for name in rules.columns if name in rules.keys.columns or name in rules.cells]
    return rules.keys.completed(pd.DataFrame(lines, columns=own, dtype="str"), sample)


def _texts(mask: np.ndarray, rules: MaskRules) -> list[str]:
    """The RLE of a mask, bool (H, W), or of each of its objects."""
    mask = _resized(mask, rules.form.size or mask.shape)
    if not mask.any():
        return [rules.empty]
    masks = Components.of(mask, 8).masks() if rules.objects else [mask]
    return [rle.encode(one, rules.form.order, rules.form.first) for one in masks]


def _resized(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if mask.shape == size:
        return mask
    return cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def as_predictions(table: pd.DataFrame, rules: MaskRules) -> pd.DataFrame | None:
    """A submission as a table of predictions: the way back from `submission_table`. None where a size is not known."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, of_class, text in rules.sorted_out(table):
        own = found.setdefault(name, {each: [] for each in rules.head.classes})
        own[of_class] += [] if is_empty(text) else [text]
    if not set(found) <= set(rules.sizes):
        return None
    form, cells = rules.form, []
    for name, own in found.items():
        size = rules.sizes[name]
        masks = (rle.decode(" ".join(texts), form.size or size, form.order, form.first) for texts in own.values())
        cells.append([maps.encode_mask(_resized(mask, size)) for mask in masks])
    return pd.DataFrame(cells, index=pd.Index(list(found), name="id"), columns=columns(rules.head), dtype=object)
