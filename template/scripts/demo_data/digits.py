"""The handwritten digits that come with scikit-learn, and which of them are to be predicted.

`load_digits`: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998; 8 x 8 pixels each, enlarged smoothly to images of mixed sizes.
"""

import functools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from sklearn.datasets import load_digits

TEST_ROWS = 500
SEED = 1998
SIZES = (40, 72)  # smallest and largest height and width


@functools.cache
def digits() -> Any:
    """scikit-learn's `load_digits()`: 1,797 images of 8 x 8 pixels."""
    return load_digits()


@functools.cache
def order() -> np.ndarray:
    """int64 (1797,): the numbers of the digits, those to train on first, `TEST_ROWS` to predict last."""
    shuffled = np.random.default_rng(SEED).permutation(len(digits().target))
    return np.concatenate([np.sort(shuffled[TEST_ROWS:]), np.sort(shuffled[:TEST_ROWS])])


def demo_images() -> Iterator[np.ndarray]:
    """uint8 images (H, W), light on dark, of mixed sizes, in the order of the tables."""
    generator = np.random.default_rng(SEED)
    for number in order():
        height, width = generator.integers(SIZES[0], SIZES[1], 2, endpoint=True)
        strokes = digits().images[number].astype(np.float32) * (255 / 16)
        smooth = cv2.resize(strokes, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        yield np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
