"""The demo competition: 1,797 real handwritten digits, arranged as a download from Kaggle.

Columns and paths follow `competition.yaml`, so that any answers have a demo that works.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from demo_data import questions
from demo_data.digits import SEED, TEST_ROWS, demo_images, order
from demo_data.files import ANSWERS, image_files, with_pattern_columns, write_files
from pipeline.settings import Settings
from toolkit.errors import UserError

WRITERS = 60  # invented groups


def write_demo(settings: Settings, data: Path) -> str:
    """Write the demo competition into `data`; an older demo there is replaced. Returns what was written, in words.

    Raises:
        UserError: the answers are not the demo's, `data` holds files that are not, or an image cannot be written.
    """
    if settings.task != questions.TASK:
        raise UserError(f"the demo is one of {questions.TASK}, and task in competition.yaml is '{settings.task}'")
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
    answers = with_pattern_columns(test, settings.test_images, settings)
    train = with_pattern_columns(train, settings.train_images, settings)
    test = with_pattern_columns(test.drop(columns=targets), settings.test_images, settings)
    images = [*image_files(train, settings.train_images), *image_files(test, settings.test_images)]
    tables = {
        settings.train_csv: train,
        settings.test_csv: test,
        settings.sample_submission: answers[[settings.id_column]].join(questions.sample(answers, settings)),
        ANSWERS: answers,
    }
    return tables, images
