"""Tables of map cells, one per class, and how they become masks. Nothing else looks at a map to decide."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, nearest
from toolkit.masks import maps
from toolkit.masks.components import Components

USUAL = (0.5, 0.0, 0.5)  # threshold, min_area and presence of a class; see `decisions`
EXCLUSIVE = "multiclass_mask"
MASKS = ("mask", EXCLUSIVE)  # the kinds of heads of masks
IGNORED = 255  # in a target: what is known of no class


def columns(head: Head) -> list[str]:
    """The columns of map cells, in class order."""
    return [f"{head.name}_{name}" for name in head.classes]


def presence_columns(head: Head) -> list[str]:
    """The columns that say how likely a class is in the image at all, in class order; a table has all or none."""
    return [f"{column}@presence" for column in columns(head)]


def has_presence(predictions: pd.DataFrame, head: Head) -> bool:
    """Whether the table says how likely the classes of a head are in the image."""
    return all(column in predictions for column in presence_columns(head))


def presence_of(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """How likely each class is in each image, float32 (N, C); infinite where no model says it."""
    if has_presence(predictions, head):
        return predictions[presence_columns(head)].to_numpy(np.float32)
    return np.full((len(predictions), len(head.classes)), np.inf, np.float32)


def require_columns(truth: pd.DataFrame | None, predictions: pd.DataFrame, head: Head) -> None:
    """Raise a `UserError` where a column of the head is missing, or both tables are not in the same order."""
    missing = [column for column in columns(head) if column not in predictions]
    if missing:
        raise UserError(
            f"the predictions have no column '{missing[0]}'; the classes changed, or the run was trained with "
            "`store: none`: train or predict again"
        )
    if truth is not None and head.name not in truth:
        raise UserError(f"the truth has no column '{head.name}'; put it there in src/competition/tables.py")
    if truth is not None and not truth.index.equals(predictions.index):
        raise UserError(
            "truth and predictions do not hold the same ids in the same order; use predictions.loc[truth.index]"
        )


def gated(rows: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], gate: str) -> pd.DataFrame:
    """Predictions whose presence is what an earlier stage says, times what the model says of it where it does; `gate`
    is the column of the rows that says it, with `{class}` for the name of the class."""
    by_id = rows.set_index(ROW_ID)
    added = {}
    for head in heads:
        for name, column in zip(head.classes, presence_columns(head), strict=True):
            source = gate.replace("{class}", name)
            if source not in by_id:
                hint = nearest(source, map(str, by_id.columns))
                raise UserError(f"task.params.gate: no earlier stage predicts '{source}'; {hint}")
            chance = by_id[source].reindex(predictions.index).astype(np.float32)
            added[column] = chance * predictions[column] if column in predictions else chance
    return predictions.assign(**added)


def decisions(head: Head) -> list[Sequence[float]]:
    """How each class is decided, (C, 3), by the head's thresholds, else the usual ones: a pixel belongs to it
    if its probability exceeds the first; of components (8 neighbours) with fewer pixels than the second, then of such
    holes (4 neighbours, not at the border of the image), nothing is left; and below the third as its probability to be
    in the image at all, where a model says it, it is empty."""
    values = head.thresholds or USUAL * len(head.classes)
    if len(values) != 3 * len(head.classes):
        raise UserError(
            f"the head '{head.name}' has {len(values)} thresholds for {len(head.classes)} classes; "
            "a class has three: threshold, min_area, presence"
        )
    return [values[start : start + 3] for start in range(0, len(values), 3)]


def decoded(predictions: pd.DataFrame, head: Head) -> Iterator[np.ndarray]:
    """The masks of every row, bool (C, H, W) at the size of the image, in the order of the table."""
    require_columns(None, predictions, head)
    chosen, presence = decisions(head), presence_of(predictions, head)
    for number, cells in enumerate(predictions[columns(head)].itertuples(index=False, name=None)):
        yield decided(cells, presence[number], chosen, head.kind)


def decided(cells: Sequence[bytes], presence: np.ndarray, chosen: Sequence[Sequence[float]], kind: str) -> np.ndarray:
    """The masks of one image, bool (C, H, W), from a map cell per class."""
    owner = owners(cells) if kind == EXCLUSIVE else None
    planes = np.zeros((len(cells), *maps.size_of(cells[0])), bool)
    for number, (cell, (threshold, min_area, least)) in enumerate(zip(cells, chosen, strict=True)):
        if presence[number] >= least:
            planes[number] = above(cell, threshold, number, owner)
            [planes[number]] = cleanings(planes[number], (min_area,), number, owner)
            if owner is not None:
                planes[number] &= ~planes[:number].any(axis=0)
    return planes


def owners(cells: Sequence[bytes]) -> np.ndarray:
    """Which class is the most probable one of each pixel, int16 (H, W); -1 where the background is at least as likely.
    It asks for no threshold, so that the classes can be decided one by one."""
    size = maps.size_of(cells[0])
    owner, best, total = np.full(size, -1, np.int16), np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for number, cell in enumerate(cells):
        probability = maps.at_image_size(cell)
        owner[probability > best] = number
        np.maximum(best, probability, out=best)
        total += probability
    owner[best + total <= 255] = -1
    return owner


def above(cell: bytes, threshold: float, number: int, owner: np.ndarray | None) -> np.ndarray:
    """Where the map of a class exceeds a threshold, bool (H, W) at the size of the image; where each pixel has an owner
    (see `owners`), only among those of the class of this number."""
    size, least = maps.size_of(cell), math.floor(threshold * 255)
    mask = np.empty(size, bool)
    for rows, band in zip(maps.strips(size), maps.bands(cell, size), strict=True):
        np.greater(band, least, out=mask[rows])
    if owner is not None:
        mask &= owner == number
    return mask


def cleanings(mask: np.ndarray, areas: Sequence[float], number: int, owner: np.ndarray | None) -> Iterator[np.ndarray]:
    """A mask, bool (H, W), without components and holes below each of the ascending areas; see `decisions`. The same
    array comes again where nothing changes. Where pixels have owners, those of other classes are not filled."""
    components: Components | None = None
    kept = -1
    for area in areas:
        if area <= 1 or not mask.any():
            yield mask
            continue
        components = components or Components.of(mask, 8)
        keep = components.areas >= area
        if keep.sum() != kept:
            kept, without = int(keep.sum()), mask if keep.all() else components.mask(keep)
            holes = Components.of(without, 4, value=False)
        small = (holes.areas < area) & ~holes.at_border()
        if not small.any():
            yield without
            continue
        filled = holes.mask(small)
        if owner is not None:
            filled &= (owner == number) | (owner < 0)
        filled |= without
        yield filled


def as_stored(predictions: pd.DataFrame, head: Head, store: Literal["probabilities", "masks", "none"]) -> pd.DataFrame:
    """The table as it is stored out of fold: with its probabilities, with masks as the usual thresholds decide them, or
    none. Other columns stay."""
    if store == "probabilities":
        return predictions
    if store == "none":
        return predictions.drop(columns=[*columns(head), *presence_columns(head)], errors="ignore")
    usual = replace(head, thresholds=())
    cells = [[maps.encode_mask(plane) for plane in planes] for planes in decoded(predictions, usual)]
    table = pd.DataFrame(cells, index=predictions.index, columns=columns(head), dtype=object)
    return predictions.assign(**{str(name): table[name] for name in table})
