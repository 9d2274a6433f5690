"""The demo competition: 1,797 real handwritten digits, arranged as a download from Kaggle.

They come with scikit-learn (`load_digits`: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998), 8 x 8 pixels each, and are enlarged smoothly to images of mixed sizes. Columns and
paths follow `competition.yaml`, so that any answers have a demo that works.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.marker import DEMO_ANSWERS
from pipeline.settings import Settings
from pipeline.tasks.image_level import questions
from pipeline.tasks.image_level.digits import SEED, TEST_ROWS, digits, order
from pipeline.tasks.shared.demo_files import image_files, with_pattern_columns, write_files

SIZES = (40, 72)  # smallest and largest height and width
WRITERS = 60  # invented groups


def write_demo(settings: Settings, data: Path) -> str:
    """Write the demo competition into `data`; an older demo there is replaced. Returns what was written, in words.

    Raises:
        UserError: `data` holds files that are not the demo's, or a demo image cannot be written to an image pattern.
    """
    tables, images = demo_tables(settings)
    contents = {path: table.to_csv(index=False, lineterminator="\n").encode() for path, table in tables.items()}
    write_files(data, contents, zip(images, _images(), strict=True))
    return f"the demo competition: {len(images) - TEST_ROWS} digits to train on, {TEST_ROWS} to predict"


def _images() -> Iterator[np.ndarray]:
    """The images, changed where the questions say how: uint8 (H, W) or (H, W, 3)."""
    paint = getattr(questions, "painted", None)
    return demo_images() if paint is None else paint(demo_images(), order())


def demo_tables(settings: Settings) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables by path, and the path of every image; training rows come first."""
    targets = list(settings.target_columns)
    table = questions.truth(settings).iloc[order()].reset_index(drop=True)
    table.insert(0, settings.id_column, [f"{number:05d}" for number in order()])
    first = len(table) - TEST_ROWS
    if settings.group_column:
        # Train and test have different writers, as competitions with groups do.
        generator, of_test = np.random.default_rng(SEED), WRITERS * TEST_ROWS // len(table)
        writers = [*generator.integers(of_test, WRITERS, first), *generator.integers(0, of_test, TEST_ROWS)]
        table[settings.group_column] = [f"writer_{writer:02d}" for writer in writers]
    train, test = table.iloc[:first], table.iloc[first:].reset_index(drop=True)
    answers = test[[settings.id_column, *targets]]
    train = with_pattern_columns(train, settings.train_images, settings)
    test = with_pattern_columns(test.drop(columns=targets), settings.test_images, settings)
    images = [*image_files(train, settings.train_images), *image_files(test, settings.test_images)]
    tables = {
        settings.train_csv: train,
        settings.test_csv: test,
        settings.sample_submission: answers[[settings.id_column]].join(questions.sample(answers, settings)),
        DEMO_ANSWERS: answers,
    }
    return tables, images


def demo_images() -> Iterator[np.ndarray]:
    """uint8 images (H, W), light on dark, of mixed sizes, in the order of the tables."""
    generator = np.random.default_rng(SEED)
    for number in order():
        height, width = generator.integers(SIZES[0], SIZES[1], 2, endpoint=True)
        strokes = digits().images[number].astype(np.float32) * (255 / 16)
        smooth = cv2.resize(strokes, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        yield np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
