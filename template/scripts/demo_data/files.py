"""The files of a demo competition: where they go, how they are written, and that nobody else's are touched."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.marker import DEMO_MARKER, demo_files, is_unchanged
from pipeline.data.tables import FIELD, image_paths, pattern_column
from pipeline.settings import Settings
from toolkit.errors import UserError
from toolkit.files import digest, write_text

ANSWERS = ".answers.csv"  # the truth of the test rows, in the form of the training table
PARTS = 4  # invented folders, for columns of an image pattern that the competition does not describe


def write_files(data: Path, tables: Mapping[str, bytes], images: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a demo into `data`, by paths below it; an older demo there is replaced.

    Raises:
        UserError: `data` holds files that are not the demo's, two files have one path, or an image cannot be written.
    """
    contents = dict(tables)
    for path, pixels in images:
        if path in contents:
            raise UserError(
                "train_images and test_images in competition.yaml give several rows the same path; "
                "name the id column in both patterns, so that the demo can write one image per row"
            )
        contents[path] = encoded(pixels, path)
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


def with_pattern_columns(table: pd.DataFrame, pattern: str, settings: Settings) -> pd.DataFrame:
    """The table with a column for each name in braces that it lacks; it tells rows apart where the id does not."""
    columns = [pattern_column(field) for field in FIELD.findall(pattern)]
    if any(column in settings.target_columns and column not in table for column in columns):
        raise UserError(
            f"test_images ('{pattern}') names a target column, which no test table has; correct the pattern"
        )
    parts = [f"part_{row % PARTS}" for row in range(len(table))]
    invented = table[settings.id_column] if settings.id_column not in columns else parts
    return table.assign(**{column: invented for column in columns if column not in table})


def image_files(table: pd.DataFrame, pattern: str) -> Sequence[str]:
    """Where each image goes below the data folder; as PNG where the pattern leaves the extension open."""
    nowhere = Path("there is no such folder")  # what lies in the data folder now must not choose the extension
    return [path if "." in path.rpartition("/")[2] else f"{path}.png" for path in image_paths(table, pattern, nowhere)]


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
