"""What is wrong with masks, before anything is trained on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.places import archive_at
from pipeline.data.tables import is_image
from pipeline.errors import UserError, listed
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.tasks.segmentation import rle
from pipeline.tasks.segmentation.sizes import Size, known_size
from pipeline.tasks.segmentation.truth import FileTruth, PolygonTruth, RunTruth, Truth

LOOKED_AT = 40  # images whose outlines are measured
SMOOTHER = 0.6  # how much shorter outlines must be in another order to be the right ones
BEYOND = 2.0  # pixels that an outline may leave the image


def mask_faults(rows: pd.DataFrame, column: str) -> Iterator[Fault]:
    """Masks that cannot be read or do not fit their image, RLE in another order, classes that are in no image, and how
    many images are empty in each fold.

    Args:
        rows: with their folds.
        column: of `Truth`.
    """
    strange: dict[str, list[str]] = {}
    unsized: list[str] = []
    sound: list[tuple[int, Truth]] = []
    for position, (name, truth) in enumerate(zip(rows[ROW_ID].astype(str), rows[column], strict=True)):
        if not isinstance(truth, Truth):
            yield Fault("missing mask", name, f"'{column}' holds no mask; make it with mask_rows in tables.py")
            continue
        try:
            size = known_size(truth.image)
        except UserError:
            if _is_no_file(truth.image):
                unsized.append(name)
            continue  # an image that is missing is told elsewhere
        wrong, odd = _looked_at(truth, size)
        if wrong:
            yield Fault("mask", name, wrong)
            continue
        if odd:
            strange.setdefault(odd, []).append(name)
        sound.append((position, truth))
    if unsized:
        detail = (
            f"no file says the size of {len(unsized)} images, which their masks need; give mask_rows the argument "
            "`size` in src/competition/tables.py"
        )
        yield Fault("size of an image", listed(unsized), detail)
    for what, names in strange.items():
        yield Fault("odd masks", listed(names), f"{len(names)} masks: {what}; they are read nevertheless", fatal=False)
    if sound:
        yield from _orientation([(str(rows[ROW_ID].iloc[position]), truth) for position, truth in sound])
        yield from _classes(rows.iloc[[position for position, _ in sound]], [truth for _, truth in sound], column)


def _is_no_file(image: Size | Path) -> bool:
    """Whether an image is what a reader of the user's own makes of its path: of a folder, a record, an unknown file."""
    if not isinstance(image, Path) or archive_at(image) is not None:
        return False
    if image.is_file():
        return not is_image(image.name)
    return image.is_dir() or any(folder.is_file() for folder in image.parents)


def _looked_at(truth: Truth, size: Size) -> tuple[str, str]:
    """Why a truth cannot be read, and what is odd about it; both empty if all is well."""
    if isinstance(truth, RunTruth):
        for name, texts in zip(truth.classes, truth.runs, strict=True):
            for text in texts:
                if wrong := rle.fault(text, size, truth.first):
                    return f"the RLE of '{name}' is wrong: {wrong}", ""
        odd = [rle.check(" ".join(texts), size, truth.first) for texts in truth.runs if len(texts) == 1]
        return "", next((what for what in odd if what), "")
    if isinstance(truth, FileTruth):
        try:
            truth.present()
        except UserError as error:
            return str(error), ""
    if isinstance(truth, PolygonTruth):
        points = [ring for of_class in truth.objects for rings in of_class for ring in rings]
        far = any((ring < -BEYOND).any() or (ring > np.array(size[::-1]) + BEYOND).any() for ring in points)
        return "", "an outline leaves the image" if far else ""
    return "", ""


def _orientation(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """RLE whose outlines are far shorter when it is read in the other order.

    Reading it with height and width exchanged gives the same outlines, transposed; so this finds both mistakes, in
    images that are not square.
    """
    masks = [(name, truth) for name, truth in found if isinstance(truth, RunTruth) and truth.size[0] != truth.size[1]]
    masks = [(name, truth) for name, truth in masks if any(truth.runs)][:LOOKED_AT]
    lengths = np.zeros(2)
    for _, truth in masks:
        other: rle.Order = "row" if truth.order == "column" else "column"
        for texts in truth.runs:
            for place, order in enumerate((truth.order, other)):
                lengths[place] += _outline(rle.decode(" ".join(texts), truth.size, order, truth.first))
    if masks and lengths[1] < SMOOTHER * lengths[0]:
        order = "row" if masks[0][1].order == "column" else "column"
        yield Fault(
            "orientation",
            listed(name for name, _ in masks),
            f"read as order='{order}' the outlines of these masks are {1 - lengths[1] / lengths[0]:.0%} shorter, so "
            "they are written that way, or height and width are exchanged; correct TRUTH in src/competition/targets.py",
            fatal=False,
        )


def _outline(mask: np.ndarray) -> int:
    """Pairs of neighbouring pixels of which one is in the mask."""
    return int(np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1]))


def _classes(rows: pd.DataFrame, truths: Sequence[Truth], column: str) -> Iterator[Fault]:
    """Classes that are in no image, and the share of empty images in each fold."""
    present = np.stack([truth.present() for truth in truths])
    missing = [name for name, there in zip(truths[0].classes, present.T, strict=True) if not there.any()]
    if missing:
        detail = f"{listed(missing)} is in no image; correct CLASSES or TRUTH in src/competition/targets.py"
        yield Fault("missing class", column, detail, fatal=len(missing) == len(truths[0].classes))
    empty = pd.Series(~present.any(axis=1), index=rows.index)
    if empty.any() and ROW_FOLD in rows:
        scored = rows[ROW_FOLD] >= 0
        shares = empty[scored].groupby(rows[ROW_FOLD][scored]).mean()
        text = listed((f"fold {fold}: {share:.1%}" for fold, share in shares.items()), 10)
        yield Fault("empty images", column, f"images without any class: {text}", fatal=False)
