"""RLE against pycocotools, windows against whole masks, and what is wrong with a text."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from toolkit.errors import UserError
from toolkit.masks.rle import check, decode, decode_window, encode, fault


def random_mask(generator: np.random.Generator) -> np.ndarray:
    """Blobs, noise, stripes, empty and full masks of any size from one pixel on."""
    height, width = generator.integers(1, 70, 2)
    kind = generator.integers(5)
    if kind < 2:
        return np.full((height, width), kind == 1)
    noise = generator.random((height, width)).astype(np.float32)
    return (cv2.blur(noise, (5, 5)) if kind > 2 else noise) > generator.random()


def coco_runs(mask: np.ndarray) -> list[int]:
    """Start and length of each run, 1-indexed, from pycocotools' own counts."""
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    counts, position = [], 0
    while position < len(text):  # the LEB128-like code of maskApi.c, rleFrString
        value, shift, more = 0, 0, True
        while more:
            byte = text[position] - 48
            value |= (byte & 31) << shift
            more, position, shift = bool(byte & 32), position + 1, shift + 5
            if not more and byte & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    ends = np.cumsum(counts)
    return [int(number) for gap in range(1, len(counts), 2) for number in (ends[gap - 1] + 1, counts[gap])]


def test_a_thousand_masks_agree_with_pycocotools_and_come_back() -> None:
    generator = np.random.default_rng(0)
    for _ in range(1000):
        mask = random_mask(generator)
        text = encode(mask)
        assert [int(number) for number in text.split()] == coco_runs(mask)
        assert check(text, mask.shape) == ""
        assert np.array_equal(decode(text, mask.shape), mask)
        rows = encode(mask, "row", 0)
        assert [int(number) + (place % 2 == 0) for place, number in enumerate(rows.split())] == coco_runs(mask.T)
        assert np.array_equal(decode(rows, mask.shape, "row", 0), mask)


@pytest.mark.parametrize("order", ["column", "row"])
def test_a_window_is_what_the_whole_mask_shows_there(order: str) -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        mask = random_mask(generator)
        top, left = generator.integers(-20, 70, 2)
        height, width = generator.integers(1, 50, 2)
        around = np.pad(mask, 120)[top + 120 : top + 120 + height, left + 120 : left + 120 + width]
        found = decode_window(encode(mask, order, 1), mask.shape, (top, left, height, width), order)  # type: ignore[arg-type]
        assert np.array_equal(found, around)


def test_runs_in_any_order_and_over_each_other_are_decoded() -> None:
    expected = np.zeros((3, 4), bool)
    expected.T.flat[[0, 1, 2, 3, 8]] = True
    for text in ("9 1 1 3 2 3", "2 3 1 3 9 1", "1 4 9 1"):
        assert np.array_equal(decode(text, (3, 4)), expected)
        assert np.array_equal(decode_window(text, (3, 4), (0, 0, 3, 4)), expected)


@pytest.mark.parametrize(
    ("text", "said", "fatal"),
    [
        ("", "", False),
        ("1 12", "", False),
        ("1 3 5", "odd", True),
        ("1 x", "no whole number", True),
        ("1.5 2", "no whole number", True),
        ("1 99999999999999999999", "no whole number", True),
        ("1 0", "length 0", True),
        ("3 -1", "length -1", True),
        ("0 2", "starts at 0", True),
        ("12 2", "1 pixels beyond", True),
        ("5 2 1 2", "not sorted", False),
        ("1 4 3 2", "overlap", False),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str, fatal: bool) -> None:
    assert said in check(text, (3, 4)) and bool(said) == bool(check(text, (3, 4)))
    assert bool(fault(text, (3, 4))) == fatal
    if fatal:
        for function in (lambda: decode(text, (3, 4)), lambda: decode_window(text, (3, 4), (0, 0, 2, 2))):
            with pytest.raises(UserError, match=said):
                function()
    else:
        decode(text, (3, 4))
