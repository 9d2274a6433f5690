"""Map cells come back as they went in, at the size that was asked for, through parquet as well."""

import io

import cv2
import numpy as np
import pandas as pd
import pytest

from toolkit.masks.maps import (
    MapWriter,
    at_image_size,
    average,
    encode,
    encode_mask,
    probability,
    size_of,
)

GENERATOR = np.random.default_rng(0)


def random_map(height: int, width: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (33, 50), (256, 256)])
def test_a_map_comes_back_however_its_rows_were_written(shape: tuple[int, int]) -> None:
    pixels = random_map(*shape)
    for band in (1, 3, 1000):
        writer = MapWriter((100, 200), shape)
        for top in range(0, shape[0], band):
            writer.add(pixels[top : top + band])
        writer.add(pixels[:0])
        cell = writer.finish()
        assert size_of(cell) == (100, 200)
        assert np.array_equal(probability(cell), pixels)
        assert at_image_size(cell).shape == (100, 200)


def test_a_mask_comes_back_and_is_sure() -> None:
    for shape in ((1, 1), (5, 9), (64, 63)):
        mask = GENERATOR.random(shape) > 0.5
        cell = encode_mask(mask)
        assert size_of(cell) == shape
        assert np.array_equal(probability(cell), np.where(mask, 255, 0))
        assert np.array_equal(at_image_size(cell), np.where(mask, 255, 0))


def test_a_smaller_map_is_interpolated_to_its_image() -> None:
    slope = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (10, 1))
    big = at_image_size(encode(slope, (40, 80)))
    # Pixel centres: x of the image is (x + 0.5) / 4 - 0.5 of the map; the border is held.
    expected = np.clip((np.arange(80) + 0.5) / 4 - 0.5, 0, 19) * 10
    assert np.abs(big - expected).max() <= 0.51


def test_the_mean_of_cells_is_rounded_and_has_the_size_of_the_largest() -> None:
    first, second = random_map(20, 30), random_map(20, 30)
    cell = average([encode(first, (20, 30)), encode(second, (20, 30))])
    assert np.abs(probability(cell) - (first.astype(float) + second) / 2).max() <= 0.5
    mask = np.zeros((20, 30), bool)
    mask[:, :10] = True
    mixed = average([encode(cv2.resize(first, (15, 10)), (20, 30)), encode_mask(mask), encode_mask(mask)])
    assert probability(mixed).shape == (20, 30)
    assert probability(mixed)[:, :10].min() >= 170 and probability(mixed)[:, 10:].max() <= 85


def test_cells_go_through_parquet() -> None:
    cells = [encode(random_map(8, 9), (80, 90)), encode_mask(random_map(8, 9) > 99)]
    file = io.BytesIO()
    pd.DataFrame({"mask_a": pd.Series(cells, dtype=object)}).to_parquet(file)
    assert pd.read_parquet(file)["mask_a"].tolist() == cells


def test_a_map_of_too_few_rows_is_refused() -> None:
    writer = MapWriter((4, 4), (4, 4))
    writer.add(random_map(3, 4))
    with pytest.raises(ValueError, match="3 rows"):
        writer.finish()
    with pytest.raises(ValueError, match="uint8"):
        writer.add(random_map(1, 5))
