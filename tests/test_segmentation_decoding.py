"""Decisions against a slow reading of their definition with scipy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from segmentation_tables import blob, tables  # isort: skip

from pipeline.competition import Head
from pipeline.heads.mask_decoding import as_stored, columns, decoded, has_presence
from toolkit.errors import UserError
from toolkit.masks.maps import size_of

MASK = Head("mask", "mask", ("a", "b"))
MULTI = Head("mask", "multiclass_mask", ("a", "b", "c"))


def slowly_cleaned(mask: np.ndarray, area: float) -> np.ndarray:
    """Without components (8 neighbours) and then holes (4 neighbours) that are smaller than `area`."""
    mask = mask.copy()
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    for label in range(1, count + 1):
        if (labels == label).sum() < area:
            mask[labels == label] = False
    labels, count = ndimage.label(~mask)
    rim = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    for label in range(1, count + 1):
        if mask.any() and label not in rim and (labels == label).sum() < area:
            mask[labels == label] = True
    return mask


def test_planes_that_may_overlap_follow_their_definition() -> None:
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, 256, (2, 17, 23), dtype=np.uint8) for _ in range(30)]
    presence = generator.random((30, 2)).astype(np.float32)
    for thresholds in ((0.5, 0, 0.5) * 2, (0.3, 4, 0.0, 0.62, 12, 0.9)):
        head = replace(MASK, thresholds=thresholds)
        _, predictions = tables(head, maps, maps, presence)
        for planes, own, likely in zip(decoded(predictions, head), maps, presence, strict=True):
            for number in range(2):
                threshold, area, least = thresholds[3 * number : 3 * number + 3]
                expected = slowly_cleaned(own[number] / 255 > threshold, area) & bool(likely[number] >= least)
                assert np.array_equal(planes[number], expected)


def test_without_thresholds_the_usual_ones_decide() -> None:
    maps = [np.random.default_rng(1).integers(0, 256, (2, 9, 9), dtype=np.uint8)]
    _, predictions = tables(MASK, maps, maps)
    assert not has_presence(predictions, MASK)
    assert np.array_equal(next(decoded(predictions, MASK)), maps[0] / 255 > 0.5)


def test_a_pixel_belongs_to_the_most_probable_class() -> None:
    generator = np.random.default_rng(2)
    shares = generator.dirichlet([0.6] * 4, (40, 15, 15))  # background and three classes
    maps = [np.round(255 * each[..., 1:]).astype(np.uint8).transpose(2, 0, 1) for each in shares]
    thresholds = (0.3, 0, 0.5, 0.6, 0, 0.5, 0.45, 0, 0.5)
    head = replace(MULTI, thresholds=thresholds)
    _, predictions = tables(head, maps, maps)
    for planes, own in zip(decoded(predictions, head), maps, strict=True):
        background = 255 - own.astype(int).sum(axis=0)
        expected = np.zeros(own.shape, bool)
        for row, column in np.ndindex(own.shape[1:]):
            best = int(own[:, row, column].argmax())
            value = own[best, row, column]
            expected[best, row, column] = value > background[row, column] and value / 255 > thresholds[3 * best]
        assert np.array_equal(planes, expected)


def test_holes_of_a_class_are_filled_but_not_over_other_classes() -> None:
    maps = np.zeros((3, 12, 12), np.uint8)
    maps[0, 1:11, 1:11] = 200
    maps[0, 3:5, 3:5] = 0  # background
    maps[0, 7:9, 7:9], maps[1, 7:9, 7:9] = 0, 200
    head = replace(MULTI, thresholds=(0.5, 5, 0.5, 0.5, 0, 0.5, 0.5, 0, 0.5))
    _, predictions = tables(head, [maps], [maps])
    planes = next(decoded(predictions, head))
    assert planes[0, 3:5, 3:5].all() and planes[1, 7:9, 7:9].all() and not planes[0, 7:9, 7:9].any()
    assert planes.sum(axis=0).max() == 1 and planes[0].sum() == 96


def test_classes_never_share_a_pixel_however_they_are_cleaned() -> None:
    generator = np.random.default_rng(3)
    maps = [generator.dirichlet([0.4] * 4, (30, 30))[..., 1:].transpose(2, 0, 1) for _ in range(20)]
    maps = [np.round(255 * each).astype(np.uint8) for each in maps]
    head = replace(MULTI, thresholds=(0.3, 9, 0.5) * 3)
    _, predictions = tables(head, maps, maps)
    assert max(planes.sum(axis=0).max() for planes in decoded(predictions, head)) == 1


@pytest.mark.parametrize("head", [MASK, MULTI], ids=lambda head: head.kind)
def test_stored_masks_are_decided_like_the_probabilities(head: Head) -> None:
    generator = np.random.default_rng(4)
    size = len(head.classes)
    maps = [generator.integers(0, 256 // (size - 1), (size, 20, 31), dtype=np.uint8) for _ in range(5)]
    presence = generator.random((5, size))
    _, predictions = tables(head, maps, maps, presence)
    tuned = replace(head, thresholds=(0.9, 3, 0.1) * size)
    stored = as_stored(predictions, tuned, "masks")
    assert list(stored) == list(predictions) and size_of(stored[columns(head)[0]].iloc[0]) == (20, 31)
    for ours, expected in zip(decoded(stored, head), decoded(predictions, head), strict=True):
        assert np.array_equal(ours, expected)
    assert as_stored(predictions, head, "probabilities") is predictions
    assert as_stored(predictions, head, "none").columns.empty


def test_tables_that_do_not_fit_are_refused() -> None:
    maps = [np.zeros((2, 4, 4), np.uint8)]
    _, predictions = tables(MASK, maps, maps)
    with pytest.raises(UserError, match="mask_b"):
        list(decoded(predictions.drop(columns="mask_b"), MASK))
    with pytest.raises(UserError, match="4 thresholds for 2 classes"):
        list(decoded(predictions, replace(MASK, thresholds=(0.5, 1, 2, 3))))
    assert list(decoded(predictions[:0], MASK)) == []
    assert isinstance(as_stored(predictions[:0], MASK, "masks"), pd.DataFrame)


def test_blobs_survive_a_cleaning_that_drops_specks() -> None:
    generator = np.random.default_rng(5)
    whole = blob(generator, (64, 64), 0.2)
    noisy = whole ^ (generator.random(whole.shape) < 0.01)
    maps = [np.stack([noisy, noisy]).astype(np.uint8) * np.uint8(255)]
    head = replace(MASK, thresholds=(0.5, 6, 0.5) * 2)
    _, predictions = tables(head, maps, maps)
    assert np.array_equal(next(decoded(predictions, head))[0], slowly_cleaned(noisy, 6))
