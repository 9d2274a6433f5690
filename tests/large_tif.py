"""A competition laid out like slides of kidneys: few huge tifs, one class of blobs, RLE down the columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile

from projects import Renders

ANSWERS = {
    "competition": "slides",
    "task": "segmentation",
    "trackers": [],
    "metric": "dice",
    "id_column": "id",
    "train_csv": "train.csv",
    "target_columns": "mask",
    "train_images": "train/{id}.tiff",
    "test_images": "test/{id}.tiff",
}
TRUTH = 'TRUTH = RunLengths("rle", classes="class")  # a row per image and class'
EDITS = {
    'CLASSES = ("light", "dark")': 'CLASSES = ("glomerulus",)',
    TRUTH: 'TRUTH = RunLengths("encoding")',
}


def slide_project(renders: Renders, target: Path, size: tuple[int, int], train: int = 4, test: int = 2) -> Path:
    """A project as its user would write it, with its data; `answers` gives the truth of the test slides."""
    project = renders.copy(target, ANSWERS)
    path = project / "src/competition/targets.py"
    text = path.read_text()
    for old, new in EDITS.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    write_slides(project / "data/raw", size, train, test)
    return project


def write_slides(data: Path, size: tuple[int, int], train: int = 4, test: int = 2, blob: int = 90) -> None:
    """Tables and tifs; every other one in strips.

    Args:
        size: height and width, of which slides differ by up to a tenth.
        blob: largest radius of a blob, in pixels.
    """
    random = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for part, count in (("train", train), ("test", test)):
        (data / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"{part[:2]}{number:02d}a{random.integers(1000, 9999)}"
            shape = (int(size[0] * (1 + 0.1 * random.random())), int(size[1] * (1 + 0.1 * random.random())))
            pixels, mask = slide(random, shape, blob)
            layout: dict[str, Any] = {"rowsperstrip": 16} if number % 2 else {"tile": (256, 256)}
            tifffile.imwrite(
                data / part / f"{name}.tiff", pixels, photometric="rgb", compression="zlib", predictor=True, **layout
            )
            lines.append({"part": part, "id": name, "encoding": encoded(mask), "height": shape[0], "width": shape[1]})
    table = pd.DataFrame(lines)
    told = table[table["part"] == "train"]
    told[["id", "encoding"]].to_csv(data / "train.csv", index=False)
    asked = table[table["part"] == "test"]
    asked.drop(columns="part").to_csv(data / ".hidden.csv", index=False)
    asked[["id"]].assign(predicted="").to_csv(data / "sample_submission.csv", index=False)


def slide(random: np.random.Generator, shape: tuple[int, int], blob: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) and bool (H, W): tissue with dark discs that count, and as dark rings that do not."""
    mask, rings = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for number in range(max(4, shape[0] * shape[1] // (40 * blob**2))):
        centre = (int(random.integers(shape[1])), int(random.integers(shape[0])))
        axes = (int(random.integers(blob // 2, blob)), int(random.integers(blob // 2, blob)))
        drawn, thick = (rings, max(2, blob // 8)) if number % 3 == 0 else (mask, -1)
        cv2.ellipse(drawn, centre, axes, int(random.integers(180)), 0, 360, 1, thick)
    rings[mask > 0] = 0
    noise = np.tile(
        random.integers(0, 40, (512, 512, 3), dtype=np.uint8), (-(-shape[0] // 512), -(-shape[1] // 512), 1)
    )
    pixels = noise[: shape[0], : shape[1]] + np.array([200, 160, 190], np.uint8)
    dark = (mask | rings).astype(bool)
    pixels[dark] -= np.array([60, 80, 40], np.uint8)
    return pixels, mask.astype(bool)


def encoded(mask: np.ndarray) -> str:
    """RLE from top to bottom, then left to right; the first pixel is number 1."""
    flat = np.concatenate([[0], mask.ravel(order="F"), [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return " ".join(f"{start} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))


def decoded(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The way back from `encoded`, as the grader does it."""
    flat = np.zeros(shape[0] * shape[1], bool)
    numbers = [int(number) for number in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape, order="F")


def graded(submission: Path, data: Path) -> Mapping[str, float]:
    """Dice of each test slide."""
    given = pd.read_csv(submission, dtype=str, keep_default_na=False)
    assert list(given.columns) == ["id", "predicted"]
    told = pd.read_csv(data / ".hidden.csv").set_index("id")
    assert set(given["id"]) == set(told.index) and len(given) == len(told)
    scores = {}
    for name, text in zip(given["id"], given["predicted"], strict=True):
        shape = (int(told["height"][name]), int(told["width"][name]))
        said, true = decoded(text, shape), decoded(told["encoding"][name], shape)
        scores[name] = 2 * np.count_nonzero(said & true) / (np.count_nonzero(said) + np.count_nonzero(true))
    return scores
