"""What is wrong with masks, before anything is trained on them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.tables import is_image
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.tasks.segmentation.truth import PolygonTruth, RunTruth, Truth
from toolkit.errors import UserError, listed
from toolkit.masks import rle
from toolkit.masks.sizes import Frame, Size, known_header, known_size

LOOKED_AT = 40  # images whose outlines are measured
SMOOTHER = 0.6  # how much shorter outlines must be in another order to be the right ones


def mask_faults(rows: pd.DataFrame, column: str) -> Iterator[Fault]:
    """Masks that cannot be read, do not fit their image or cover all of it, what of them is read in a way to be known,
    RLE in another order, images that are turned, classes that are in no image, and how many are empty in each fold.

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
            known_size(truth.image)
        except UserError:
            if _is_no_file(truth.image):
                unsized.append(name)
            continue  # an image that is missing is told elsewhere
        wrong, odd = _looked_at(truth)
        if wrong:
            yield Fault("mask", name, wrong)
            continue
        for what in odd:
            strange.setdefault(what, []).append(name)
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
        named = [(str(rows[ROW_ID].iloc[position]), truth) for position, truth in sound]
        yield from turn_faults(named)
        yield from _orientation(named)
        yield from _normalised(named)
        yield from _classes(rows.iloc[[position for position, _ in sound]], [truth for _, truth in sound], column)


def _is_no_file(image: Size | Path) -> bool:
    """Whether an image is what a reader of the user's own makes of its path: of a folder, a record, an unknown file."""
    if not isinstance(image, Path):
        return False
    if image.is_file():
        return not is_image(image.name)
    return image.is_dir() or any(folder.is_file() for folder in image.parents)


def _looked_at(truth: Truth) -> tuple[str, list[str]]:
    """Why a truth cannot be read, and what is odd about it; both empty if all is well."""
    size = truth.size
    if isinstance(truth, PolygonTruth) and (wrong := _other_size(truth)):
        return wrong, []
    odd = []
    if isinstance(truth, RunTruth):
        for name, texts in zip(truth.classes, truth.runs, strict=True):
            for text in texts:
                if wrong := rle.fault(text, size, truth.first):
                    return f"the RLE of '{name}' is wrong: {wrong}", []
            if len(texts) == 1:
                odd.append(rle.check(texts[0], size, truth.first))
            elif len(set(texts)) < len(texts):
                odd.append("an RLE stands twice")
    try:
        areas = truth.areas()
        odd += truth.odd()
    except UserError as error:
        return str(error), []
    full = [name for name, area in zip(truth.classes, areas, strict=True) if area == size[0] * size[1] > 0]
    if full:
        odd.append(f"{listed(full)} covers every pixel of the image")
    return "", [what for what in dict.fromkeys(odd) if what]


def _other_size(truth: PolygonTruth) -> str:
    """That the file of the outlines is of an image of another size; empty where it is not."""
    if truth.given is None or not isinstance(truth.image, Path):
        return ""
    header = known_header(truth.image)
    if truth.given in (header.stored, header.size):
        return ""
    return (
        "its outlines are of an image of {} x {} pixels (height x width), and the file has {} x {}; scale the points, "
        "or correct height and width in the file of the outlines".format(*truth.given, *header.size)
    )


def turn_faults(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """Images that their EXIF orientation turns, where nothing tells which way their masks lie."""
    told: list[Frame | None] = []
    unknown: list[tuple[str, Truth]] = []
    for name, truth in found:
        header = known_header(truth.image) if isinstance(truth.image, Path) else None
        if header is None or header.orientation == 1:
            continue
        frame = truth.told(header)
        told.append(frame)
        if frame is None and truth.present().any():
            unknown.append((name, truth))
    if not unknown:
        return
    stored, seen = told.count("stored"), told.count("seen")
    lengths = _turned_outlines([truth for _, truth in unknown if isinstance(truth, RunTruth)])
    by_outline = lengths[1] < SMOOTHER * lengths[0]
    if lengths[0] < SMOOTHER * lengths[1]:
        return
    why = f"; of {stored + seen} others the size says that they lie as the image is stored" if stored else ""
    why += "; read as it is stored their outlines are far shorter" if by_outline else ""
    detail = (
        f"{len(unknown)} images are turned by their EXIF orientation when they are read, and the size of their masks "
        f"does not tell whether they lie as the image is seen, which is assumed, or as it is stored{why}; look at "
        "some, and say frame='seen' or frame='stored' in TRUTH of src/competition/targets.py"
    )
    yield Fault("turned images", listed(name for name, _ in unknown), detail, fatal=by_outline or stored > seen)


def _turned_outlines(truths: Sequence[RunTruth]) -> np.ndarray:
    """The length of the outlines of RLE as it is read, and as it would be of the image as it is stored, of images whose
    height and width differ."""
    headers = [known_header(truth.image) if isinstance(truth.image, Path) else None for truth in truths[:LOOKED_AT]]
    ways = [
        (truth, [(header.size, truth.order), (header.stored, truth.order)])
        for truth, header in zip(truths, headers, strict=False)
        if header is not None and header.stored != header.size
    ]
    return _outlines(ways)


def _outlines(ways: Iterable[tuple[RunTruth, Sequence[tuple[Size, rle.Order]]]]) -> np.ndarray:
    """The length of all outlines, each way (size and order) that the RLE may be read, float64 (2,): pairs of
    neighbouring pixels of which one is in the mask."""
    lengths = np.zeros(2)
    for truth, read in ways:
        for texts in truth.runs:
            for place, (size, order) in enumerate(read):
                mask = rle.decode(" ".join(texts), size, order, truth.first)
                lengths[place] += np.count_nonzero(mask[1:] != mask[:-1])
                lengths[place] += np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    return lengths


def _normalised(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """Outlines of which no point is beyond 1: shares of width and height, and no pixels."""
    truths = [truth for _, truth in found if isinstance(truth, PolygonTruth)]
    highest = [point for truth in truths for point in truth.farthest() if max(truth.size) > 2]
    if highest and max(highest) <= 1:
        detail = (
            "no point of an outline is beyond 1, so they are shares of width and height; multiply them, in the file, "
            "by the width and height of their image"
        )
        yield Fault("outlines", listed(name for name, truth in found if isinstance(truth, PolygonTruth)), detail)


def _orientation(found: Sequence[tuple[str, Truth]]) -> Iterator[Fault]:
    """RLE whose outlines are far shorter when it is read in the other order.

    Reading it with height and width exchanged gives the same outlines, transposed; so this finds both mistakes, in
    images that are not square.
    """
    masks = [(name, truth) for name, truth in found if isinstance(truth, RunTruth) and truth.size[0] != truth.size[1]]
    masks = [(name, truth) for name, truth in masks if any(truth.runs) and not _swapped(truth)][:LOOKED_AT]
    other: dict[str, rle.Order] = {"column": "row", "row": "column"}
    ways = [(truth, [(truth.size, truth.order), (truth.size, other[truth.order])]) for _, truth in masks]
    lengths = _outlines(ways)
    if masks and lengths[1] < SMOOTHER * lengths[0]:
        order = other[masks[0][1].order]
        yield Fault(
            "orientation",
            listed(name for name, _ in masks),
            f"read as order='{order}' the outlines of these masks are {1 - lengths[1] / lengths[0]:.0%} shorter, so "
            "they are written that way, or height and width are exchanged; correct TRUTH in src/competition/targets.py",
            fatal=False,
        )


def _swapped(truth: RunTruth) -> bool:
    """Whether EXIF exchanges height and width of the image, of which `turn_faults` speaks."""
    header = known_header(truth.image) if isinstance(truth.image, Path) else None
    return truth.frame is None and header is not None and header.stored != header.size


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
