"""The demo competition: 1,797 real handwritten digits, arranged as a download from Kaggle.

They come with scikit-learn (`load_digits`: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998), 8 x 8 pixels each, and are enlarged smoothly to images of mixed sizes. Columns and
paths follow `competition.yaml`, so that any answers have a demo that works.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.marker import DEMO_ANSWERS, DEMO_MARKER, demo_files, digest, is_unchanged
from pipeline.data.tables import FIELD, image_paths
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.settings import Settings
from pipeline.tasks.image_level import questions
from pipeline.tasks.image_level.digits import SEED, TEST_ROWS, digits, order

SIZES = (40, 72)  # smallest and largest height and width
WRITERS = 60  # invented groups
PARTS = 4  # invented folders, for columns of an image pattern that the competition does not describe


def write_demo(settings: Settings, data: Path) -> str:
    """Write the demo competition into `data`; an older demo there is replaced. Returns what was written, in words.

    Raises:
        UserError: `data` holds files that are not the demo's, or a demo image cannot be written to an image pattern.
    """
    tables, images = demo_tables(settings)
    contents = {path: table.to_csv(index=False, lineterminator="\n").encode() for path, table in tables.items()}
    if len(set(images) | set(contents)) < len(images) + len(contents):
        raise UserError(
            "train_images and test_images in competition.yaml give several rows the same path; "
            "name the id column in both patterns, so that the demo can write one image per row"
        )
    contents |= {path: encoded(pixels, path) for path, pixels in zip(images, _images(), strict=True)}
    foreign = next(_foreign_files(data), None)
    if foreign is not None:
        raise UserError(
            f"{data} holds files that are not the demo's ({foreign}), and they are never overwritten; "
            "move them away, or write the demo elsewhere with --data DIR"
        )
    remove_demo(data)
    # The marker is written first: what an interrupted write leaves behind is still known as the demo's.
    fingerprints = {path: digest(content) for path, content in contents.items()}
    write_text(data / DEMO_MARKER, json.dumps({"files": fingerprints}, indent=0) + "\n")
    for folder in {(data / path).parent for path in contents}:
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        (data / path).write_bytes(content)
    return f"the demo competition: {len(images) - TEST_ROWS} digits to train on, {TEST_ROWS} to predict"


def remove_demo(data: Path) -> None:
    """Remove what the demo generator wrote and nobody changed since, and the folders that become empty."""
    known = demo_files(data)
    for path, fingerprint in known.items():
        if is_unchanged(data / path, fingerprint):
            (data / path).unlink()
    for folder in sorted({parent for path in known for parent in Path(path).parents[:-1]}, reverse=True):
        if (data / folder).is_dir() and not any((data / folder).iterdir()):
            (data / folder).rmdir()
    (data / DEMO_MARKER).unlink(missing_ok=True)


def _foreign_files(data: Path) -> Iterator[str]:
    """Files below `data` that the demo generator did not write, or that were changed since; hidden ones aside."""
    known = demo_files(data)
    for folder, _, names in os.walk(data):
        for name in names:
            path = (Path(folder) / name).relative_to(data).as_posix()
            if not name.startswith(".") and not (path in known and is_unchanged(data / path, known[path])):
                yield path


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
    train = _with_pattern_columns(train, settings.train_images, settings)
    test = _with_pattern_columns(test.drop(columns=targets), settings.test_images, settings)
    images = [*_image_files(train, settings.train_images), *_image_files(test, settings.test_images)]
    tables = {
        settings.train_csv: train,
        settings.test_csv: test,
        settings.sample_submission: answers[[settings.id_column]].join(questions.sample(answers, settings)),
        DEMO_ANSWERS: answers,
    }
    return tables, images


def _with_pattern_columns(table: pd.DataFrame, pattern: str, settings: Settings) -> pd.DataFrame:
    """The table with a column for each name in braces that it lacks; it tells rows apart where the id does not."""
    columns = FIELD.findall(pattern)
    if any(column in settings.target_columns and column not in table for column in columns):
        raise UserError(
            f"test_images ('{pattern}') names a target column, which no test table has; correct the pattern"
        )
    parts = [f"part_{row % PARTS}" for row in range(len(table))]
    invented = table[settings.id_column] if settings.id_column not in columns else parts
    return table.assign(**{column: invented for column in columns if column not in table})


def _image_files(table: pd.DataFrame, pattern: str) -> Sequence[str]:
    """Where each image goes below the data folder; as PNG where the pattern leaves the extension open."""
    nowhere = Path("there is no such folder")  # what lies in the data folder now must not choose the extension
    return [path if "." in path.rpartition("/")[2] else f"{path}.png" for path in image_paths(table, pattern, nowhere)]


def demo_images() -> Iterator[np.ndarray]:
    """uint8 images (H, W), light on dark, of mixed sizes, in the order of the tables."""
    generator = np.random.default_rng(SEED)
    for number in order():
        height, width = generator.integers(SIZES[0], SIZES[1], 2, endpoint=True)
        strokes = digits().images[number].astype(np.float32) * (255 / 16)
        smooth = cv2.resize(strokes, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        yield np.clip(np.rint(smooth), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, path: str) -> bytes:
    """An image as the content of a file whose format the extension of `path` says."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        return buffer.getvalue()
    try:
        written, content = cv2.imencode(suffix, pixels)
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"the demo cannot write images as '{suffix}' ({path}); try .png or .jpg in the image patterns")
    return content.tobytes()
