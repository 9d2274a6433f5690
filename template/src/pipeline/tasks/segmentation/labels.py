"""How masks are divided into folds, by the classes that are in an image, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels
from pipeline.data.tables import is_image
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.tasks.segmentation.outlines import PolygonTruth
from pipeline.tasks.segmentation.submission import mark_of
from pipeline.tasks.segmentation.truth import RunTruth, Truth
from toolkit.errors import UserError, listed
from toolkit.images.header import Header
from toolkit.masks import rle
from toolkit.masks.sizes import Size, known_header, known_size

LOOKED_AT = 40  # images whose outlines are measured
SMOOTHER = 0.6  # how much shorter outlines must be in another order to be the right ones
OTHER: dict[rle.Order, rle.Order] = {"column": "row", "row": "column"}


@dataclass(frozen=True)
class MaskLabels(ClassLabels):
    """Columns of `Truth`. Every fold has as many images with each set of classes, those with none among them."""

    classes: Sequence[str] = ()
    fewest_classes: ClassVar[int] = 1  # what is not of it is background
    of_whole_images: ClassVar[bool] = False

    def asked(self, ids: pd.Series) -> pd.Series:
        """The ids of images, each once, where a sample has a row per image and class, or per object."""
        mark = mark_of(ids, self.classes)
        return (ids.str.rpartition(mark)[0] if mark else ids).drop_duplicates()

    def faults(self, rows: pd.DataFrame) -> Iterator[Fault]:
        for column in self.targets:
            yield from mask_faults(rows, column)

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """The names of the classes that are in each image, one entry each; no entry for an image with none."""
        present = [np.array(truth.classes)[truth.present()].tolist() for truth in _truths(rows, column)]
        return pd.Series(present, rows.index, dtype=object).explode().dropna().astype("str")

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        sets = {column: [str(truth) for truth in _truths(rows, column)] for column in self.targets}
        return self.numbered(rows.assign(**sets), n_folds, pool=True)


def _truths(rows: pd.DataFrame, column: str) -> list[Truth]:
    strange = [name for name, truth in zip(rows[ROW_ID], rows[column], strict=True) if not isinstance(truth, Truth)]
    if strange:
        raise UserError(
            f"the column '{column}' holds no mask in {len(strange)} training rows (id {strange[0]}); "
            "make it with mask_rows in src/competition/tables.py"
        )
    return list(rows[column])


def mask_faults(rows: pd.DataFrame, column: str) -> Iterator[Fault]:
    """Masks that cannot be read, do not fit their image or cover all of it, what of them is read in a way to be known,
    RLE in another order, images that are turned, classes that are in no image, and how many are empty in each fold."""
    strange: dict[str, list[str]] = {}
    unsized: list[str] = []
    sound: dict[int, tuple[str, Truth]] = {}
    for position, (name, truth) in enumerate(zip(rows[ROW_ID].astype(str), rows[column], strict=True)):
        if not isinstance(truth, Truth):
            yield Fault("missing mask", name, f"'{column}' holds no mask; make it with mask_rows in tables.py")
            continue
        try:
            known_size(truth.image)
        except UserError:  # an image that is missing is told elsewhere
            unsized += [name] if _is_no_file(truth.image) else []
            continue
        wrong, odd = _looked_at(truth)
        if wrong:
            yield Fault("mask", name, wrong)
            continue
        sound[position] = name, truth
        for what in odd:
            strange.setdefault(what, []).append(name)
    if unsized:
        detail = (
            f"no file says the size of {len(unsized)} images, which their masks need; give mask_rows the argument "
            "`size` in src/competition/tables.py"
        )
        yield Fault("size of an image", listed(unsized), detail)
    for what, names in strange.items():
        yield Fault("odd masks", listed(names), f"{len(names)} masks: {what}; they are read nevertheless", fatal=False)
    if sound:
        yield from _turned(list(sound.values()))
        yield from _other_order(list(sound.values()))
        yield from _shares([(name, truth) for name, truth in sound.values() if isinstance(truth, PolygonTruth)])
        yield from _classes(rows.iloc[list(sound)], column)


def _is_no_file(image: Size | Path) -> bool:
    """Whether an image is what a reader of the user's own makes of its path: of a folder, a record, an unknown file."""
    if not isinstance(image, Path):
        return False
    if image.is_file():
        return not is_image(image.name)
    return image.is_dir() or any(folder.is_file() for folder in image.parents)


def _looked_at(truth: Truth) -> tuple[str, list[str]]:
    """Why a truth cannot be read, and what is odd about it; both empty if all is well."""
    try:
        if wrong := truth.wrong():
            return wrong, []
        areas, odd = truth.areas(), list(truth.odd())
    except UserError as error:
        return str(error), []
    full = np.array(truth.classes)[areas == truth.size[0] * truth.size[1]]
    odd += [f"{listed(full)} covers every pixel of the image"] if len(full) else []
    return "", [what for what in dict.fromkeys(odd) if what]


def _header(truth: Truth) -> Header:
    """Of the image; one that is not turned where a table says its size."""
    return known_header(truth.image) if isinstance(truth.image, Path) else Header(truth.image)


def _turned(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """Images that their EXIF orientation turns, where nothing tells which way their masks lie."""
    turned = [(name, truth, truth.frame_of(_header(truth))) for name, truth in found if _header(truth).orientation != 1]
    unknown = [(name, truth) for name, truth, frame in turned if frame is None and truth.present().any()]
    frames = [frame for _, _, frame in turned]
    told_stored, told_seen = frames.count("stored"), frames.count("seen")
    runs = [truth for _, truth in unknown if isinstance(truth, RunTruth) and _swapped(truth)][:LOOKED_AT]
    seen = sum(_outline(truth, _header(truth).size, truth.order) for truth in runs)
    stored = sum(_outline(truth, _header(truth).stored, truth.order) for truth in runs)
    if not unknown or seen < SMOOTHER * stored:
        return
    by_outline = stored < SMOOTHER * seen
    why = f"; of {told_stored + told_seen} others the size says that they lie as the image is stored" * bool(
        told_stored
    )
    why += "; read as it is stored their outlines are far shorter" * by_outline
    detail = (
        f"{len(unknown)} images are turned by their EXIF orientation when they are read, and the size of their masks "
        f"does not tell whether they lie as the image is seen, which is assumed, or as it is stored{why}; look at "
        "some, and say frame='seen' or frame='stored' in TRUTH of src/competition/targets.py"
    )
    fatal = by_outline or told_stored > told_seen
    yield Fault("turned images", listed(name for name, _ in unknown), detail, fatal=fatal)


def _swapped(truth: Truth) -> bool:
    """Whether EXIF exchanges height and width of the image, and nothing tells which way its masks lie."""
    return truth.frame is None and _header(truth).stored != _header(truth).size


def _outline(truth: RunTruth, size: Size, order: rle.Order) -> int:
    """The length of all outlines, if the RLE is read so: pairs of neighbouring pixels of which one is in the mask."""
    masks = [rle.decode(" ".join(texts), size, order, truth.first) for texts in truth.runs]
    return sum(int((m[1:] != m[:-1]).sum() + (m[:, 1:] != m[:, :-1]).sum()) for m in masks)


def _other_order(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """RLE whose outlines are far shorter when it is read in the other order. Reading it with height and width exchanged
    gives the same outlines, transposed; so this finds both mistakes, in images that are not square."""
    masks = [(name, truth) for name, truth in found if isinstance(truth, RunTruth) and truth.size[0] != truth.size[1]]
    masks = [(name, truth) for name, truth in masks if any(truth.runs) and not _swapped(truth)][:LOOKED_AT]
    now = sum(_outline(truth, truth.size, truth.order) for _, truth in masks)
    other = sum(_outline(truth, truth.size, OTHER[truth.order]) for _, truth in masks)
    if other < SMOOTHER * now:
        order, shorter = OTHER[masks[0][1].order], 1 - other / now
        detail = (
            f"read as order='{order}' the outlines of these masks are {shorter:.0%} shorter, so they are written that "
            "way, or height and width are exchanged; correct TRUTH in src/competition/targets.py"
        )
        yield Fault("orientation", listed(name for name, _ in masks), detail, fatal=False)


def _shares(found: Sequence[tuple[str, PolygonTruth]]) -> Iterator[Fault]:
    """Outlines of which no point is beyond 1: shares of width and height, and no pixels."""
    objects = [polygons for _, truth in found if max(truth.size) > 2 for polygons in truth.all_objects()]
    if objects and max(polygon[0].max() for polygons in objects for polygon in polygons) <= 1:
        detail = (
            "no point of an outline is beyond 1, so they are shares of width and height; multiply them, in the file, "
            "by the width and height of their image"
        )
        yield Fault("outlines", listed(name for name, _ in found), detail)


def _classes(rows: pd.DataFrame, column: str) -> Iterator[Fault]:
    """Classes that are in no image, and the share of empty images in each fold."""
    present = np.stack([truth.present() for truth in rows[column]])
    missing = np.array(rows[column].iloc[0].classes)[~present.any(axis=0)]
    if len(missing):
        detail = f"{listed(missing)} is in no image; correct CLASSES or TRUTH in src/competition/targets.py"
        yield Fault("missing class", column, detail, fatal=len(missing) == present.shape[1])
    empty = pd.Series(~present.any(axis=1), index=rows.index)
    if empty.any() and ROW_FOLD in rows:
        scored = rows[ROW_FOLD] >= 0
        shares = empty[scored].groupby(rows[ROW_FOLD][scored]).mean()
        text = listed((f"fold {fold}: {share:.1%}" for fold, share in shares.items()), 10)
        yield Fault("empty images", column, f"images without any class: {text}", fatal=False)
