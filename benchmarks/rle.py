"""Run-length encoding of masks, beside the form that is usual in notebooks."""

import time
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.measure import Aim, Effort, Row, beside, in_turns
from benchmarks.workplace import Workplace

AIM = Aim("at most", 0.25)
SIZE, MASKS = 1024, 16


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Milliseconds for a mask of 1024 x 1024 pixels with some fifty blobs."""
    generator = np.random.default_rng(0)
    masks = [blobs(generator) for _ in range(MASKS)]
    with place.pipeline():
        from toolkit.masks.rle import decode, encode

        texts = [encode(mask) for mask in masks]
        for mask, text in zip(masks, texts, strict=True):
            assert text == usual_encode(mask)
            assert np.array_equal(mask, usual_decode(text, mask.shape))
            assert np.array_equal(mask, decode(text, mask.shape))
        encoders = {
            "ours": lambda: _milliseconds(encode, [(mask,) for mask in masks]),
            "peer": lambda: _milliseconds(usual_encode, [(mask,) for mask in masks]),
        }
        decoders = {
            "ours": lambda: _milliseconds(decode, [(text, (SIZE, SIZE)) for text in texts]),
            "peer": lambda: _milliseconds(usual_decode, [(text, (SIZE, SIZE)) for text in texts]),
        }
        rows = []
        for name, functions in (("encode", encoders), ("decode", decoders)):
            in_turns(functions, 2)
            times = in_turns(functions, effort.collate_rounds)
            title = f"RLE {name} {SIZE} x {SIZE}"
            rows.append(beside("rle", title, "usual NumPy form", "ms", times["ours"], times["peer"], AIM))
        return rows


def blobs(generator: np.random.Generator) -> np.ndarray:
    """A mask with some fifty irregular blobs, bool, such as nuclei make: some 2,000 runs or more."""
    noise = generator.random((24, 24)).astype(np.float32)
    smooth = cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    mask: np.ndarray = smooth > np.quantile(smooth, 0.85)
    return mask


def usual_encode(mask: np.ndarray) -> str:
    """https://www.kaggle.com/code/paulorzp/rle-functions-run-length-encode-decode"""
    pixels = mask.T.flatten()
    pixels = np.concatenate([[0], pixels, [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def usual_decode(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """https://www.kaggle.com/code/paulorzp/rle-functions-run-length-encode-decode"""
    s = text.split()
    starts, lengths = [np.asarray(x, dtype=int) for x in (s[0:][::2], s[1:][::2])]
    starts -= 1
    ends = starts + lengths
    img = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    for lo, hi in zip(starts, ends, strict=True):
        img[lo:hi] = 1
    return img.reshape(shape[::-1]).T


def _milliseconds(function: Callable[..., object], arguments: list[tuple[object, ...]]) -> float:
    began = time.perf_counter()
    for each in arguments:
        function(*each)
    return 1000 * (time.perf_counter() - began) / len(arguments)
