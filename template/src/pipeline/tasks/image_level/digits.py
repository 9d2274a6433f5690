"""The handwritten digits that come with scikit-learn, and which of them are to be predicted."""

import functools
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

TEST_ROWS = 500
SEED = 1998


@functools.cache
def digits() -> Any:
    """scikit-learn's `load_digits()`: 1,797 images of 8 x 8 pixels."""
    return load_digits()


@functools.cache
def order() -> np.ndarray:
    """int64 (1797,): the numbers of the digits, those to train on first, `TEST_ROWS` to predict last."""
    shuffled = np.random.default_rng(SEED).permutation(len(digits().target))
    return np.concatenate([np.sort(shuffled[TEST_ROWS:]), np.sort(shuffled[:TEST_ROWS])])
