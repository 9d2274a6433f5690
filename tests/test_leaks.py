"""Planted copies are found, and a demo of look-alike digits raises no alarm."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_sample_images

from demo_data.digits import demo_images
from pipeline.data.leaks import TEST, LeakReport, find_leaks, print_leaks, write_leaks
from toolkit.audit import near_copies as module
from toolkit.audit.likeness import COPY, pixel_distance
from toolkit.audit.near_copies import near_pairs
from toolkit.audit.scan import scan
from toolkit.images.readers import image

Change = Callable[[np.ndarray], np.ndarray]


def jpeg(pixels: np.ndarray) -> np.ndarray:
    content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


def sized(factor: float, way: int) -> Change:
    return lambda pixels: cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=way)


def halved_down(pixels: np.ndarray) -> np.ndarray:
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def squared(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_CUBIC)


COPIES: dict[str, Change] = {
    "jpeg": jpeg,
    "half, area": sized(0.5, cv2.INTER_AREA),
    "half, linear": sized(0.5, cv2.INTER_LINEAR),
    "half, rounded down": halved_down,
    "half, jpeg": lambda pixels: jpeg(sized(0.5, cv2.INTER_AREA)(pixels)),
    "0.7": sized(0.7, cv2.INTER_AREA),
    "1.5": sized(1.5, cv2.INTER_LINEAR),
    "double": sized(2.0, cv2.INTER_CUBIC),
    "double, jpeg": lambda pixels: jpeg(sized(2.0, cv2.INTER_LINEAR)(pixels)),
    "square": squared,
    "paler": lambda pixels: np.rint(pixels * 0.7 + 30).astype(np.uint8),
}


def report(folder: Path, rows: pd.DataFrame, pictures: list[np.ndarray]) -> LeakReport:
    names = [f"{number}.png" for number in range(len(pictures))]
    for name, pixels in zip(names, pictures, strict=True):
        assert cv2.imwrite(str(folder / name), pixels)
    rows = rows.assign(id=[f"i{number}" for number in range(len(rows))], image=names)
    return find_leaks(rows, scan([folder / name for name in names], image), folder, image)


@pytest.fixture(scope="module")
def digits() -> list[np.ndarray]:
    return list(demo_images())


def test_copies_of_digits_are_found_and_digits_are_not_copies(digits: list[np.ndarray], tmp_path: Path) -> None:
    originals = np.random.default_rng(0).permutation(len(digits))[: 12 * len(COPIES)].reshape(len(COPIES), 12)
    planted = [
        change(digits[number]) for change, numbers in zip(COPIES.values(), originals, strict=True) for number in numbers
    ]
    folds = [number % 5 for number in range(len(digits))]
    rows = pd.DataFrame({"fold": [*folds, *[TEST] * len(planted)]})
    pairs = report(tmp_path, rows, [*digits, *planted]).pairs
    expected = {(f"i{number}", f"i{len(digits) + place}") for place, number in enumerate(originals.ravel())}
    found = set(zip(pairs["id_a"], pairs["id_b"], strict=True))
    missed = [list(COPIES)[(int(b[1:]) - len(digits)) // 12] for _, b in expected - found]
    assert not missed
    assert not found - expected, "different digits are called copies"
    assert set(pairs["kind"]) == {"similar"}


def test_copies_of_photos(tmp_path: Path) -> None:
    photo = cv2.cvtColor(load_sample_images().images[0], cv2.COLOR_RGB2BGR)
    crops = [photo[top : top + 200, left : left + 260] for top in (0, 100, 200) for left in (0, 90, 180, 300, 380)]
    planted = [change(crop) for crop, change in zip(crops, COPIES.values(), strict=False)]
    rows = pd.DataFrame({"fold": [0] * len(crops) + [1] * len(planted)})
    pairs = report(tmp_path, rows, [*crops, *planted]).pairs
    found = set(zip(pairs["id_a"], pairs["id_b"], strict=True))
    assert found == {(f"i{number}", f"i{len(crops) + number}") for number in range(len(planted))}


def test_distances_keep_their_margin(digits: list[np.ndarray]) -> None:
    """Copies stay a tenth below the threshold, the nearest different digits a tenth above."""
    for name, change in COPIES.items():
        worst = max(
            pixel_distance(digit.astype(np.float32), change(digit).astype(np.float32)) for digit in digits[:150]
        )
        assert worst < 0.9 * COPY, name
    assert COPY * 1.1 < 0.086


def test_only_what_must_not_meet_is_a_leak(digits: list[np.ndarray], tmp_path: Path) -> None:
    same = digits[0]
    rows = pd.DataFrame(
        {
            "fold": [0, 0, 1, TEST, TEST, -1, -1],
            "source": ["competition"] * 5 + ["web", "pseudo"],
            "only_fold": [np.nan] * 6 + [1],
        }
    )
    pairs = report(tmp_path, rows, [same] * 7).pairs
    assert set(pairs["kind"]) == {"identical"}
    found = {frozenset(pair) for pair in zip(pairs["id_a"], pairs["id_b"], strict=True)}
    assert frozenset(("i0", "i1")) not in found and frozenset(("i3", "i4")) not in found  # the same fold, both test
    assert frozenset(("i0", "i6")) not in found  # it trains in the run of fold 1 alone, which validates fold 1
    assert set.union(*map(set, found)) == {f"i{number}" for number in range(7)}
    assert "web (trains only)" in " ".join(pairs["where"])


def test_a_pseudo_label_of_a_test_image_is_no_leak(digits: list[np.ndarray], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), digits[0])
    rows = pd.DataFrame(
        {"id": ["t", "p"], "image": "a.png", "fold": [TEST, -1], "source": ["", "pseudo"], "only_fold": [np.nan, 0]}
    )
    looks = scan([tmp_path / "a.png"] * 2, image)
    assert find_leaks(rows, looks, tmp_path, image).pairs.empty


def test_groups_of_external_rows(digits: list[np.ndarray], tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "fold": [0, 0, 1, -1, -1, TEST],
            "source": ["competition"] * 3 + ["web"] * 2 + [""],
            "group": ["a", "a", "b", "b", "c", "a"],
        }
    )
    pairs = report(tmp_path, rows, digits[:6]).pairs
    assert pairs[["kind", "id_a", "id_b"]].to_numpy().tolist() == [["group", "i2", "i3"]]


def test_unreadable_and_blank_images_are_left_out(tmp_path: Path) -> None:
    blank = np.full((30, 30), 7, np.uint8)
    names = ["a.png", "b.png", "c.png"]
    cv2.imwrite(str(tmp_path / "a.png"), blank)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.resize(blank, (40, 40)))
    rows = pd.DataFrame({"id": names, "image": names, "fold": [0, 1, 2]})
    looks = scan([tmp_path / name for name in names], image)
    assert [bool(seen.fault) for seen in looks] == [False, False, True]
    assert find_leaks(rows, looks, tmp_path, image).pairs.empty


def test_a_reader_that_fails_is_reported_not_raised(tmp_path: Path) -> None:
    def reader(path: Path, size: tuple[int, int] | None) -> np.ndarray:
        raise ZeroDivisionError("oh")

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9), np.uint8))
    assert "ZeroDivisionError: oh" in scan([tmp_path / "a.png"], reader)[0].fault


def noisy(pixels: np.ndarray, noise: float, generator: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(pixels + generator.normal(0, noise, pixels.shape)), 0, 255).astype(np.uint8)


def half_ellipse(generator: np.random.Generator, noise: float = 8) -> np.ndarray:
    """One bright half-ellipse on dark, as a medical set has in all its images."""
    down, right = np.mgrid[:128, :128] / 128
    x, y = 0.5 + generator.normal(0, 0.02, 2)
    a, b = generator.normal((0.3, 0.38), 0.02)
    inside = (((right - x) / a) ** 2 + ((down - y) / b) ** 2 < 1) & (down < y + 0.1)
    return noisy(20 + 150 * inside * generator.normal(1, 0.05), noise, generator)


def form(generator: np.random.Generator) -> np.ndarray:
    """The same printed form, filled in differently."""
    page = np.full((240, 200), 245, np.uint8)
    for line in range(7):
        cv2.rectangle(page, (10, 10 + line * 31), (190, 34 + line * 31), 110, 1)
        cv2.putText(page, "Field", (14, 28 + line * 31), 0, 0.4, 60, 1, cv2.LINE_AA)
        text = "".join(generator.choice(list("0123456789ABCDEF"), 9))
        cv2.putText(page, text, (70, 28 + line * 31), 0, 0.45, 20, 1, cv2.LINE_AA)
    return page


def cells(generator: np.random.Generator) -> np.ndarray:
    """A few blobs on dark."""
    field = np.full((128, 128), 30, np.float32)
    for x, y in generator.integers(15, 113, (int(generator.integers(3, 7)), 2)).tolist():
        cv2.circle(field, (x, y), int(generator.integers(6, 10)), 150, -1, cv2.LINE_AA)
    return noisy(cv2.GaussianBlur(field, (0, 0), 1.5), 5, generator)


def scene(generator: np.random.Generator) -> np.ndarray:
    """Overlapping discs of many sizes and colours."""
    height, width = generator.integers(160, 260, 2).tolist()
    pixels = np.zeros((height, width, 3), np.float32) + generator.random(3) * 255
    for _ in range(80):
        x, y = (generator.random(2) * (width, height)).astype(int).tolist()
        cv2.circle(
            pixels, (x, y), int(3 + min(60, generator.pareto(1.3) * 5)), (generator.random(3) * 255).tolist(), -1
        )
    return noisy(cv2.GaussianBlur(pixels, (0, 0), 1), 2, generator)


ALIKE: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "half-ellipses": half_ellipse,
    "half-ellipses without noise": lambda generator: half_ellipse(generator, 0),
    "forms": form,
    "cells": cells,
}
FLIPS: dict[str, Change] = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "turned": np.rot90,
    "mirrored, jpeg": lambda pixels: jpeg(np.ascontiguousarray(pixels[:, ::-1])),
}


def crop(share: float, top: float, left: float) -> Change:
    """A part of `share` of both sides, with `top` and `left` of what is cut off above and left of it."""

    def cut(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        tall, wide = round(height * share), round(width * share)
        y, x = round((height - tall) * top), round((width - wide) * left)
        return pixels[y : y + tall, x : x + wide]

    return cut


CROPS: dict[str, Change] = {
    "0.95": crop(0.95, 0, 1),
    "0.9": crop(0.9, 0.5, 0.3),
    "0.8": crop(0.8, 1, 0.5),
    "0.9, jpeg": lambda pixels: jpeg(np.ascontiguousarray(crop(0.9, 1, 1)(pixels))),
    "0.9, mirrored": lambda pixels: crop(0.9, 0.2, 0.8)(pixels)[:, ::-1],
}


def caption(pixels: np.ndarray) -> np.ndarray:
    return cv2.putText(pixels.copy(), "(c) photo", (10, len(pixels) - 15), 0, 0.5, (255,) * 3, 1, cv2.LINE_AA)


@pytest.mark.parametrize("name", list(ALIKE))
def test_structure_alike_is_no_copy(name: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [ALIKE[name](generator) for _ in range(60)]
    assert report(tmp_path, pd.DataFrame({"fold": range(60)}), pictures).pairs.empty


@pytest.mark.parametrize("name", list(ALIKE))
def test_copies_among_images_that_are_alike(name: str, tmp_path: Path) -> None:
    """Those that show the whole image; a form of another size is too much like the others."""
    generator = np.random.default_rng(0)
    pictures = [ALIKE[name](generator) for _ in range(60)]
    changes = {"jpeg": jpeg, "paler": COPIES["paler"]}
    changes |= {name: FLIPS[name] for name in ("mirrored", "upside down")}
    changes |= {} if name == "forms" else {"0.7": COPIES["0.7"], "double": COPIES["double"]}
    planted = [change(pictures[7 * place]) for place, change in enumerate(changes.values())]
    pairs = report(tmp_path, pd.DataFrame({"fold": range(60 + len(planted))}), [*pictures, *planted]).pairs
    found = set(zip(pairs["id_a"], pairs["id_b"], strict=True))
    assert found == {(f"i{7 * place}", f"i{60 + place}") for place in range(len(planted))}


def test_flips_crops_and_captions_of_scenes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [scene(generator) for _ in range(40)]
    changes = {**COPIES, **FLIPS, **CROPS, "caption": caption}
    planted = [change(pictures[place]) for place, change in enumerate(changes.values())]
    pairs = report(tmp_path, pd.DataFrame({"fold": range(40 + len(planted))}), [*pictures, *planted]).pairs
    found = set(zip(pairs["id_a"], pairs["id_b"], strict=True))
    assert found == {(f"i{place}", f"i{40 + place}") for place in range(len(planted))}


def said(found: LeakReport, capsys: pytest.CaptureFixture[str]) -> str:
    print_leaks(found)
    return " ".join(capsys.readouterr().out.split())


def test_no_leaks_is_said_of_what_was_compared(
    digits: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = said(report(tmp_path, pd.DataFrame({"fold": [0, 1, 2, TEST], "group": list("abcd")}), digits[:4]), capsys)
    assert "no leaks among 4 rows" in folds
    for compared in ("groups across folds", "copies of them across folds", "copies of them across train and test"):
        assert compared in folds
    assert "not compared" not in folds
    unfolded = said(report(tmp_path, pd.DataFrame({"fold": [0, 0, TEST]}), digits[:3]), capsys)
    assert "no leaks among 3 rows" in unfolded and "across folds" not in unfolded
    assert "not compared: folds (none yet), groups (no group column)" in unfolded
    nothing = said(report(tmp_path, pd.DataFrame({"fold": [0, 0]}), digits[:2]), capsys)
    assert "no leaks" not in nothing and "nothing could be compared" in nothing
    assert "train and test (no test rows)" in nothing


def test_no_leaks_is_not_said_of_unreadable_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.png", "b.png"]
    rows = pd.DataFrame({"id": names, "image": names, "fold": [0, 1]})
    looks = scan([tmp_path / name for name in names], image)
    text = said(find_leaks(rows, looks, tmp_path, image), capsys)
    assert "no leaks" not in text and "2 images (unreadable)" in text


def test_before_there_are_folds_a_training_row_is_in_none(
    digits: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = report(tmp_path, pd.DataFrame({"fold": [0, TEST]}), [digits[0], digits[0]]).pairs
    assert pairs["where"].tolist() == ["train and test"]


def test_blocks_find_what_one_block_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    few = np.random.default_rng(0).normal(size=(500, 6))
    vectors = (few @ np.random.default_rng(1).normal(size=(6, 256))).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def everything(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.ones(len(a), bool)

    monkeypatch.setitem(near_pairs.__globals__, "LIKELY", 0.9)
    whole, incomplete = near_pairs(vectors, everything, block=1000)
    blocks, _ = near_pairs(vectors, everything, block=64)
    assert whole and not incomplete
    assert {(pair.first, pair.second) for pair in whole} == {(pair.first, pair.second) for pair in blocks}
    monkeypatch.setitem(near_pairs.__globals__, "MOST_PAIRS", 10)
    likeliest, incomplete = near_pairs(vectors, everything, block=64)
    assert incomplete and likeliest == whole[:10]


def test_the_report_is_a_file_only_if_there_is_something_to_say(digits: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "folds.leaks.csv"
    rows = pd.DataFrame({"fold": [0, 1]})
    assert write_leaks(report(tmp_path, rows, [digits[0], digits[0]]), path)
    assert pd.read_csv(path).loc[0, ["kind", "id_a", "id_b"]].tolist() == ["identical", "i0", "i1"]
    assert not write_leaks(report(tmp_path, rows, digits[:2]), path)
    assert not path.exists()


def test_of_many_images_crops_and_turns_are_not_looked_for_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CROPPED", 10)
    monkeypatch.setattr(module, "MOST_TURNED", 20)
    by_count = {count: module.views_for(count) for count in (10, 11, 21)}
    assert [len({turn for turn, _ in views}) for views in by_count.values()] == [8, 8, 2]
    assert [all(window == (0, 0, 1, 1) for _, window in views) for views in by_count.values()] == [False, True, True]
    assert [len(module.not_looked_for(count)) for count in by_count] == [0, 1, 2]
