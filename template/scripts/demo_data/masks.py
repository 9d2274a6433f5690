"""The demo competition: handwritten digits painted lighter or darker on photographs, laid out as by Kaggle.

Digits (`load_digits`) and photographs (`load_sample_images`) come with scikit-learn. Where are the light digits, and
where the dark ones? There is a row of RLE per image and class; about a fifth of the images have none of a class. One
image to train on and one to predict are far larger than the others.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, load_sample_images

from demo_data.files import ANSWERS, image_files, with_pattern_columns, write_files
from pipeline.settings import Settings
from toolkit.errors import UserError
from toolkit.masks import rle

TASK = "segmentation"
CLASSES = ("light", "dark")
TRAIN_ROWS, TEST_ROWS = 240, 60
SIZES = (96, 224)  # smallest and largest height and width
LARGE = (640, 896)  # the first image to train on, and the first one to predict
DIGITS = (20, 40)  # smallest and largest height and width of a digit
AREA = 64 * 64  # pixels of image for each digit, on average
EMPTY = 0.2  # how often a class is left out of an image
STEPS = (70, 100)  # how much lighter or darker than the ground
SEED = 1998
WRITERS = 20  # invented groups


@dataclass(frozen=True)
class Picture:
    """uint8 (H, W, 3), and the mask of each class, bool (2, H, W)."""

    pixels: np.ndarray
    masks: np.ndarray


def write_demo(settings: Settings, data: Path) -> str:
    """Write the demo competition into `data`; an older demo there is replaced. Returns what was written, in words.

    Raises:
        UserError: the answers are not the demo's, `data` holds files that are not, or an image cannot be written.
    """
    if settings.task != TASK:
        raise UserError(f"the demo is one of {TASK}, and task in competition.yaml is '{settings.task}'")
    pictures = list(demo_pictures())
    tables, paths = demo_tables(settings, pictures)
    contents = {path: table.to_csv(index=False, lineterminator="\n").encode() for path, table in tables.items()}
    write_files(data, contents, zip(paths, (picture.pixels[:, :, ::-1] for picture in pictures), strict=True))
    return f"the demo competition: {TRAIN_ROWS} pictures of digits to train on, {TEST_ROWS} to predict"


def demo_tables(settings: Settings, pictures: Sequence[Picture]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables by path, and the path of every image; training rows come first."""
    own = settings.id_column
    images = pd.DataFrame({own: [f"{number:04d}" for number in range(len(pictures))]})
    if settings.group_column:
        # Train and test have different writers, as competitions with groups do.
        generator, of_test = np.random.default_rng(SEED), WRITERS * TEST_ROWS // len(pictures)
        writers = [*generator.integers(of_test, WRITERS, TRAIN_ROWS), *generator.integers(0, of_test, TEST_ROWS)]
        images[settings.group_column] = [f"writer_{writer:02d}" for writer in writers]
    train, test = images.iloc[:TRAIN_ROWS], images.iloc[TRAIN_ROWS:].reset_index(drop=True)
    train = with_pattern_columns(train, settings.train_images, settings)
    test = with_pattern_columns(test, settings.test_images, settings)
    paths = [*image_files(train, settings.train_images), *image_files(test, settings.test_images)]
    answers = _with_masks(test, pictures[TRAIN_ROWS:])
    tables = {
        settings.train_csv: _with_masks(train, pictures[:TRAIN_ROWS]),
        settings.test_csv: test,
        settings.sample_submission: answers[[own, "class"]].assign(rle=""),
        ANSWERS: answers,
    }
    return tables, paths


def _with_masks(table: pd.DataFrame, pictures: Sequence[Picture]) -> pd.DataFrame:
    """A row per image and class, with the columns `class` and `rle`."""
    rows = table.loc[table.index.repeat(len(CLASSES))].reset_index(drop=True)
    texts = [rle.encode(mask) for picture in pictures for mask in picture.masks]
    return rows.assign(**{"class": list(CLASSES) * len(pictures), "rle": texts})


def demo_pictures() -> Iterator[Picture]:
    """The pictures in the order of the tables."""
    generator = np.random.default_rng(SEED)
    for number in range(TRAIN_ROWS + TEST_ROWS):
        large = number in (0, TRAIN_ROWS)
        height, width = LARGE if large else generator.integers(SIZES[0], SIZES[1], 2, endpoint=True)
        yield _picture(int(height), int(width), generator, whole=large)


def _picture(height: int, width: int, generator: np.random.Generator, whole: bool) -> Picture:
    ground = _ground(height, width, generator).astype(np.float32)
    masks = np.zeros((len(CLASSES), height, width), bool)
    chosen = np.flatnonzero(generator.random(len(CLASSES)) >= (0 if whole else EMPTY))
    for _ in range(max(2, height * width // AREA) if len(chosen) else 0):
        stroke = _digit(generator)
        top, left = (int(generator.integers(0, most + 1)) for most in (height - len(stroke), width - len(stroke[0])))
        place = (slice(top, top + len(stroke)), slice(left, left + len(stroke[0])))
        if masks[:, place[0], place[1]].any():  # digits do not touch
            continue
        of_class = int(generator.choice(chosen))
        masks[of_class][place] = stroke
        step = generator.uniform(*STEPS) * (1 if CLASSES[of_class] == "light" else -1)
        ground[place][stroke] += step
    return Picture(np.clip(ground, 0, 255).astype(np.uint8) & 0xFC, masks)  # fewer values make smaller files


def _ground(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """A part of a photograph at a random scale, uint8 (height, width, 3), in the middle of the range of brightness."""
    photograph = _photographs()[generator.integers(len(_photographs()))]
    least = max(height / photograph.shape[0], width / photograph.shape[1])
    scale = max(least, generator.uniform(0.5, 1.0))
    size = (max(width, round(photograph.shape[1] * scale)), max(height, round(photograph.shape[0] * scale)))
    scaled = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    top, left = (int(generator.integers(0, most + 1)) for most in (size[1] - height, size[0] - width))
    part = scaled[top : top + height, left : left + width].astype(np.float32)
    return np.rint(64 + part / 2).astype(np.uint8)


def _digit(generator: np.random.Generator) -> np.ndarray:
    """The strokes of a digit, bool (H, W)."""
    digits = _digits()
    height, width = generator.integers(DIGITS[0], DIGITS[1], 2, endpoint=True)
    strokes = digits[generator.integers(len(digits))].astype(np.float32)
    smooth = cv2.resize(strokes, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    drawn: np.ndarray = smooth > 6
    return drawn


@functools.cache
def _digits() -> np.ndarray:
    """1,797 digits, float64 (N, 8, 8) of 0 to 16."""
    images: np.ndarray = load_digits().images
    return images


@functools.cache
def _photographs() -> list[np.ndarray]:
    """Two of them, uint8 (427, 640, 3)."""
    return list(load_sample_images().images)
