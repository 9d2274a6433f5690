"""Run-length encoding of masks as text: `start length start length ...`, starts counted from `first`."""

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from pipeline.errors import UserError

Order = Literal["column", "row"]
Size = tuple[int, int]


def encode(mask: np.ndarray, order: Order = "column", first: int = 1) -> str:
    """The runs of a mask, bool (H, W), in ascending order; an empty text for an empty mask."""
    pixels = mask.astype(bool, copy=False).view(np.uint8)
    flat = (cv2.transpose(pixels) if order == "column" and pixels.size else pixels).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        edges = np.concatenate([[0], edges])
    if len(edges) % 2:
        edges = np.append(edges, flat.size)
    runs = edges.reshape(-1, 2)
    runs = np.stack([runs[:, 0] + first, runs[:, 1] - runs[:, 0]], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def decode(text: str, size: Size, order: Order = "column", first: int = 1) -> np.ndarray:
    """The mask, bool (H, W). Runs may stand in any order, and overlap.

    Raises:
        UserError: the text cannot be read for an image of this size; see `fault`.
    """
    runs = _checked(text, size, first)
    flat = _filled(runs[:, 0], runs.sum(axis=1), size[0] * size[1])
    if order == "row" or not flat.size:
        return flat.reshape(size).astype(bool, copy=False)
    return cv2.transpose(flat.view(np.uint8).reshape(size[1], size[0])).view(bool)


def decode_window(
    text: str, size: Size, window: tuple[int, int, int, int], order: Order = "column", first: int = 1
) -> np.ndarray:
    """A window (top, left, height, width) of the mask, bool (height, width), False beyond the image.

    Only the columns (or rows) of the window are made, so that the image may be far larger than memory.

    Raises:
        UserError: as `decode`.
    """
    top, left, height, width = window
    if order == "column":
        transposed = decode_window(text, (size[1], size[0]), (left, top, width, height), "row", first)
        return np.ascontiguousarray(transposed.T)
    out = np.zeros((height, width), bool)
    rows = slice(max(top, 0), min(top + height, size[0]))
    columns = slice(max(left, 0), min(left + width, size[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return out
    runs = _remembered(text, size, first)
    begin, end = rows.start * size[1], rows.stop * size[1]
    starts = np.clip(runs[:, 0], begin, end) - begin
    ends = np.clip(runs.sum(axis=1), begin, end) - begin
    inside = ends > starts
    strip = _filled(starts[inside], ends[inside], end - begin).reshape(-1, size[1])
    place = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    out[place] = strip[:, columns]
    return out


def check(text: str, size: Size, first: int = 1) -> str:
    """What is wrong with a text, in words; empty if nothing. What `fault` does not say is no more than a warning."""
    if wrong := fault(text, size, first):
        return wrong
    runs = _runs(text, first)
    if (np.diff(runs[:, 0]) < 0).any():
        return "its runs are not sorted by their start"
    if (runs[1:, 0] < runs[:-1].sum(axis=1)).any():
        return "its runs overlap"
    return ""


def fault(text: str, size: Size, first: int = 1) -> str:
    """Why a text cannot be decoded for an image of this size, in words; empty if it can."""
    try:
        count = len(_numbers(text))
    except (ValueError, OverflowError):
        return "it holds something that is no whole number"
    if count % 2:
        return f"it holds {count} numbers, an odd count; every run is a start and a length"
    runs = _runs(text, first)
    if len(runs) and runs[:, 1].min() <= 0:
        return f"a run has the length {runs[:, 1].min()}"
    if len(runs) and runs[:, 0].min() < 0:
        return f"a run starts at {runs[:, 0].min() + first}, and the first pixel is number {first}"
    pixels = size[0] * size[1]
    if len(runs) and runs.sum(axis=1).max() > pixels:
        return f"a run ends {runs.sum(axis=1).max() - pixels} pixels beyond the image of {size[0]} x {size[1]} pixels"
    return ""


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=np.int64)


def _runs(text: str, first: int) -> np.ndarray:
    """Start, counted from 0, and length of each run, int64 (N, 2)."""
    runs = _numbers(text).reshape(-1, 2)
    runs[:, 0] -= first
    return runs


def _checked(text: str, size: Size, first: int) -> np.ndarray:
    try:
        runs = _runs(text, first)
    except (ValueError, OverflowError):
        runs = None
    if runs is None or (len(runs) and (runs.min(axis=0) < (0, 1)).any()) or _end(runs) > size[0] * size[1]:
        raise UserError(f"a mask cannot be read from its RLE: {fault(text, size, first)}")
    return runs


# The windows of one image come one after the other, and a text may hold a million numbers.
_remembered = lru_cache(maxsize=4)(_checked)


def _end(runs: np.ndarray) -> int:
    return int(runs.sum(axis=1).max()) if len(runs) else 0


def _filled(starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Bool (length,), True from each start to before its end."""
    if (starts[1:] >= ends[:-1]).all():
        edges = np.empty(2 * len(starts) + 2, np.int64)
        edges[0], edges[-1] = 0, length
        edges[1:-1:2], edges[2:-1:2] = starts, ends
        return np.repeat(np.arange(len(edges) - 1) % 2 == 1, np.diff(edges))
    steps = np.bincount(starts, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
    filled: np.ndarray = np.cumsum(steps[:length]) > 0
    return filled
