"""From maps of probabilities to masks. Nothing else of the room looks at a map to decide."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_predictions import columns, has_presence, presence_columns, require_columns
from toolkit.errors import UserError
from toolkit.masks import maps
from toolkit.masks.components import Components

USUAL = (0.5, 0.0, 0.5)
EXCLUSIVE = "multiclass_mask"

Store = Literal["probabilities", "masks", "none"]


@dataclass(frozen=True)
class Decision:
    """How a class is decided.

    Attributes:
        threshold: a pixel belongs to the class if its probability exceeds this.
        min_area: connected components (8 neighbours) of fewer pixels are dropped, then holes (4 neighbours, not at the
            border of the image) of fewer pixels are filled.
        presence: below this probability to be in the image the class is empty, where a model says it.
    """

    threshold: float = USUAL[0]
    min_area: float = USUAL[1]
    presence: float = USUAL[2]


def decisions(head: Head) -> list[Decision]:
    """The decision of each class: the head's thresholds, else the usual ones.

    Raises:
        UserError: there are not three thresholds per class.
    """
    values = head.thresholds or USUAL * len(head.classes)
    if len(values) != len(USUAL) * len(head.classes):
        raise UserError(
            f"the head '{head.name}' has {len(values)} thresholds for {len(head.classes)} classes; "
            "a class has three: threshold, min_area, presence"
        )
    return [Decision(*values[start : start + len(USUAL)]) for start in range(0, len(values), len(USUAL))]


def decoded(predictions: pd.DataFrame, head: Head) -> Iterator[np.ndarray]:
    """The masks of every row, bool (C, H, W) at the size of the image, in the order of the table."""
    require_columns(None, predictions, head)
    chosen = decisions(head)
    presence = presence_of(predictions, head)
    for number, cells in enumerate(predictions[columns(head)].itertuples(index=False, name=None)):
        yield decided(cells, presence[number], chosen, head.kind)


def presence_of(predictions: pd.DataFrame, head: Head) -> np.ndarray:
    """How likely each class is in each image, float32 (N, C); infinite where no model says it."""
    if has_presence(predictions, head):
        return predictions[presence_columns(head)].to_numpy(np.float32)
    return np.full((len(predictions), len(head.classes)), np.inf, np.float32)


def decided(cells: Sequence[bytes], presence: np.ndarray, chosen: Sequence[Decision], kind: str) -> np.ndarray:
    """The masks of one image, bool (C, H, W), from a map cell per class."""
    owner, size = owners(cells) if kind == EXCLUSIVE else None, maps.size_of(cells[0])
    planes = np.zeros((len(cells), *size), bool)
    for number, (cell, decision) in enumerate(zip(cells, chosen, strict=True)):
        if presence[number] < decision.presence:
            continue
        own, free = (None, None) if owner is None else (owner == number, (owner == number) | (owner < 0))
        planes[number] = above(cell, decision.threshold, own)
        planes[number] = cleaned(planes[number], decision.min_area, free)
        if owner is not None:
            planes[number] &= ~planes[:number].any(axis=0)
    return planes


def owners(cells: Sequence[bytes]) -> np.ndarray:
    """Which class is the most probable one of each pixel, int16 (H, W); -1 where the background is at least as likely.

    It asks for no threshold, so that the classes can be decided one by one.
    """
    size = maps.size_of(cells[0])
    owner, best, total = np.full(size, -1, np.int16), np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    for number, cell in enumerate(cells):
        probability = maps.at_image_size(cell)
        owner[probability > best] = number
        np.maximum(best, probability, out=best)
        total += probability
    owner[best + total <= 255] = -1
    return owner


def above(cell: bytes, threshold: float, own: np.ndarray | None = None) -> np.ndarray:
    """Where a map exceeds a threshold, bool (H, W) at the size of the image; only among its `own` pixels, if given."""
    size, least = maps.size_of(cell), math.floor(threshold * 255)
    mask = np.empty(size, bool)
    for rows, band in zip(maps.strips(size), maps.bands(cell, size), strict=True):
        np.greater(band, least, out=mask[rows])
    if own is not None:
        mask &= own
    return mask


def cleaned(mask: np.ndarray, min_area: float, free: np.ndarray | None = None) -> np.ndarray:
    """A mask, bool (H, W), without small components and small holes; see `Decision`.

    Args:
        free: bool (H, W), the only pixels that may be filled; none: all.
    """
    return next(cleanings(mask, (min_area,), free))


def cleanings(mask: np.ndarray, areas: Sequence[float], free: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The mask as each of the areas cleans it, ascending; what they share is looked for once, and the same array comes
    again where nothing changes. See `cleaned`."""
    components: Components | None = None
    kept, closed, without, filled, holes = -1, 0, mask, mask, None
    for area in areas:
        if area <= 1 or not mask.any():
            yield mask
            continue
        components = components or Components.of(mask, 8)
        keep = components.areas >= area
        if keep.sum() != kept:
            kept, closed, holes = int(keep.sum()), 0, None
            filled = without = mask if keep.all() else components.mask(keep)
        if not kept:
            yield without
            continue
        holes = holes or Components.of(without, 4, value=False)
        small = (holes.areas < area) & ~holes.at_border()
        if small.sum() != closed:
            closed = int(small.sum())
            filled = holes.mask(small)
            if free is not None:
                filled &= free
            filled |= without
        yield filled


def kept(predictions: pd.DataFrame, head: Head, store: Store) -> pd.DataFrame:
    """The table as it is stored out of fold: with its probabilities, with masks as the usual thresholds decide them, or
    none. Other columns stay."""
    if store == "probabilities":
        return predictions
    if store == "none":
        return predictions.drop(columns=[*columns(head), *presence_columns(head)], errors="ignore")
    cells = [
        [maps.encode_mask(plane) for plane in planes] for planes in decoded(predictions, replace(head, thresholds=()))
    ]
    table = pd.DataFrame(cells, index=predictions.index, columns=columns(head), dtype=object)
    return predictions.assign(**{str(name): table[name] for name in table})
