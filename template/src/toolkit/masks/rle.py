"""Run-length encoding of masks as text: `start length start length ...`, starts counted from `first`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from toolkit.errors import UserError
from toolkit.masks.maps import strips

Order = Literal["column", "row"]
Size = tuple[int, int]


def encode(mask: np.ndarray, order: Order = "column", first: int = 1) -> str:
    """The runs of a mask, bool (H, W), in ascending order; an empty text for an empty mask."""
    pixels = mask.astype(bool, copy=False).view(np.uint8)
    lines, length = mask.shape if order == "row" else mask.shape[::-1]
    found = [np.zeros(0, np.int64)]
    for part in strips((lines, length)) if mask.size else ():
        flat = pixels[part] if order == "row" else cv2.transpose(pixels[:, part])
        found.append(edges(flat.ravel()) + part.start * length)
    positions = np.concatenate(found)
    through = np.flatnonzero(positions[1:] == positions[:-1])  # runs that go on in the next strip
    starts, ends = np.delete(positions, [*through, *(through + 1)]).reshape(-1, 2).T
    return _text(np.stack([starts + first, ends - starts], axis=1).ravel())


def decode(text: str, size: Size, order: Order = "column", first: int = 1) -> np.ndarray:
    """The mask, bool (H, W). Runs may stand in any order, and overlap. A `UserError` says what `fault` does."""
    starts, ends = runs(text, size, first)
    if order == "row":
        return filled(starts, ends, size[0] * size[1]).reshape(size)
    mask = np.empty(size, bool)
    for part in strips((size[1], size[0])) if mask.size else ():
        flat = _between(starts, ends, part.start * size[0], part.stop * size[0])
        mask.view(np.uint8)[:, part] = cv2.transpose(flat.view(np.uint8).reshape(-1, size[0]))
    return mask


def decode_window(
    text: str, size: Size, window: tuple[int, int, int, int], order: Order = "column", first: int = 1
) -> np.ndarray:
    """A window (top, left, height, width) of the mask, bool (height, width), False beyond the image. Only the columns
    (or rows) of the window are made, so that the image may be far larger than memory."""
    top, left, height, width = window
    if order == "column":
        transposed = decode_window(text, (size[1], size[0]), (left, top, width, height), "row", first)
        return np.ascontiguousarray(transposed.T)
    starts, ends = runs(text, size, first)
    out = np.zeros((height, width), bool)
    rows = slice(max(top, 0), min(top + height, size[0]))
    columns = slice(max(left, 0), min(left + width, size[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        strip = _between(starts, ends, rows.start * size[1], rows.stop * size[1]).reshape(-1, size[1])
        place = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        out[place] = strip[:, columns]
    return out


@lru_cache(maxsize=4)  # the windows of one image come one after the other, and a text may hold a million numbers
def runs(text: str, size: Size, first: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Start, counted from 0, and end of each run along the image, both int64 (N,); a `UserError` as `decode`."""
    starts, ends, wrong = _read(text, size, first)
    if wrong:
        raise UserError(f"a mask cannot be read from its RLE: {wrong}")
    return starts, ends


def fault(text: str, size: Size, first: int = 1) -> str:
    """Why a text cannot be decoded for an image of this size, in words; empty if it can."""
    return _read(text, size, first)[2]


def check(text: str, size: Size, first: int = 1) -> str:
    """What is wrong with a text, in words; empty if nothing. What `fault` does not say is no more than a warning."""
    starts, ends, wrong = _read(text, size, first)
    if not wrong and (starts[1:] < starts[:-1]).any():
        return "its runs are not sorted by their start"
    if not wrong and (starts[1:] < ends[:-1]).any():
        return "its runs overlap"
    return wrong


def counts_of(counts: str | Sequence[int]) -> np.ndarray:
    """The lengths of the runs of 0 and 1 in turns that COCO writes, int64 (N,), also of its compressed text: numbers of
    5 bits a letter, from the fourth on as the difference to the last but one. A `ValueError` where it breaks off."""
    if not isinstance(counts, str):
        return np.asarray(counts, dtype=np.int64)
    found: list[int] = []
    number = shift = 0
    for letter in counts.encode():
        number |= (letter - 48 & 31) << shift
        shift += 5
        if not letter - 48 & 32:
            number -= (1 << shift) if letter - 48 & 16 else 0
            found.append(number + (found[-2] if len(found) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("the text breaks off")
    return np.asarray(found, dtype=np.int64)


def edges(flat: np.ndarray) -> np.ndarray:
    """Where runs start and end in turns, int64 (2 N,), of uint8 (length,) of 0 and 1."""
    if not flat.size:
        return np.zeros(0, np.int64)
    changes = np.empty(-(-(flat.size + 1) // 8) * 8, np.uint8)
    changes[0], changes[flat.size], changes[flat.size + 1 :] = flat[0], flat[-1], 0
    np.bitwise_xor(flat[1:], flat[:-1], out=changes[1 : flat.size])
    words = np.flatnonzero(changes.view(np.uint64) != 0)  # eight pixels at once, most of which do not change
    positions = np.flatnonzero(changes.reshape(-1, 8)[words].view(bool).ravel())
    found: np.ndarray = 8 * words[positions >> 3] + (positions & 7)
    return found


def filled(starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Bool (length,), True from each start to before its end; the runs may stand in any order, and overlap."""
    if (starts[1:] < ends[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        apart = starts[1:] > ends[:-1]
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    positions = np.empty(2 * len(starts) + 2, np.int64)
    positions[0], positions[-1] = 0, length
    positions[1:-1:2], positions[2:-1:2] = starts, ends
    return np.repeat(np.arange(len(positions) - 1) % 2 == 1, np.diff(positions))


def _between(starts: np.ndarray, ends: np.ndarray, start: int, end: int) -> np.ndarray:
    """What `filled` gives from `start` to before `end`."""
    starts, ends = np.clip(starts, start, end) - start, np.clip(ends, start, end) - start
    inside = ends > starts
    return filled(starts[inside], ends[inside], end - start)


def _text(numbers: np.ndarray) -> str:
    """Whole numbers int64 (N,) of at least 0 with spaces between; a quarter of the time of `str` on each."""
    if not len(numbers):
        return ""
    width = len(str(numbers.max()))
    letters = np.full((width + 1, len(numbers)), ord(" "), np.uint8)
    written = np.ones(letters.shape, bool)
    for place in range(width - 1, -1, -1):
        if place < width - 1:
            written[place] = numbers > 0
        numbers, digits = np.divmod(numbers, 10)
        letters[place] = digits + ord("0")
    return letters.T[written.T].tobytes().decode()[:-1]


def _numbers(text: str) -> np.ndarray:
    """int64 (N,); a `ValueError` or `OverflowError` for what is no whole number of 62 bits."""
    letters = np.frombuffer(text.encode(), np.uint8)
    plain = (((letters >= ord("0")) & (letters <= ord("9"))) | (letters == ord(" "))).all()
    if not plain or not text.strip():  # `fromstring` is four times as fast, but lets anything else pass
        return np.array(text.split(), dtype=np.int64)
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    if numbers.max() > 2**62:
        raise OverflowError
    return numbers


def _read(text: str, size: Size, first: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Start, counted from 0, and end of each run, both int64 (N,), and why they are no mask of this size."""
    none = np.zeros(0, np.int64)
    try:
        numbers = _numbers(text)
    except (ValueError, OverflowError):
        return none, none, "it holds something that is no whole number"
    if len(numbers) % 2:
        return none, none, f"it holds {len(numbers)} numbers, an odd count; every run is a start and a length"
    starts, wrong = numbers[::2] - first, ""
    ends = starts + numbers[1::2]
    if (ends <= starts).any():
        wrong = f"a run has the length {(ends - starts).min()}"
    elif len(starts) and starts.min() < 0:
        wrong = f"a run starts at {starts.min() + first}, and the first pixel is number {first}"
    elif len(starts) and (beyond := ends.max() - size[0] * size[1]) > 0:
        wrong = f"a run ends {beyond} pixels beyond the image of {size[0]} x {size[1]} pixels"
    return starts, ends, wrong
