"""Rows of a competition whose folders are its labels: no table, but `train/cat/1.jpg` and `train/dog/2.jpg`."""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.data.tables import FIELD, RESERVED, image_rows, is_image, pattern_column, require_columns
from pipeline.keys import ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_PREDICTION
from pipeline.rows import with_text
from pipeline.settings import Settings
from toolkit.archives import files_below, shown
from toolkit.errors import UserError, listed

WILD = re.compile(r"\*\*/|\*")


def rows_from_folders(data: Path, pattern: str, ids: Literal["stem", "path"] = "stem") -> pd.DataFrame:
    """One row for each image below `data` whose path fits the pattern, in the order of the paths.

    A name in braces becomes a column, `*` stands for any text in a name, `**/` for any folders: `train/{label}/*.jpg`,
    `train/{label}/{group}_*`, `images/**/{label}-*.png`. A pattern whose last name holds no dot fits images of all
    kinds, but for their extension. A part of a name, such as `{image_id[0]}`, stands for any text in a name.

    Args:
        ids: what the id is where the pattern has no `{id}`: the name without extension, or the path below the first
            part of the pattern that is fixed.

    Returns:
        `id` and `image` (str), and a column (str) for each name in braces.

    Raises:
        UserError: nothing fits, two images have one id, or a name in braces that means something else to the pipeline.
    """
    names = [name for name in dict.fromkeys(FIELD.findall(pattern)) if pattern_column(name) == name]
    reserved = [name for name in names if name in RESERVED and name not in (ROW_ID, ROW_GROUP, ROW_PREDICTION)]
    if reserved:
        raise UserError(f"the pattern '{pattern}' names a column '{reserved[0]}', which the pipeline fills itself")
    fixed = re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]
    start = f"{fixed}/" if fixed else ""
    fits, any_image = _expression(pattern.removeprefix(start)), "." not in pattern.rpartition("/")[2]
    found = []
    for path in sorted(files_below(data / fixed)):
        if any_image and not is_image(path):
            continue
        match = fits.fullmatch(path.rpartition(".")[0] if any_image else path)
        if match:
            own = path if ids == "path" else path.rpartition("/")[2].rpartition(".")[0]
            found.append({ROW_ID: own, ROW_IMAGE: start + path, **dict(zip(names, match.groups(), strict=True))})
    if not found:
        raise UserError(
            f"no image fits the pattern '{pattern}' in {shown(data)}; correct it in src/competition/tables.py"
        )
    rows = pd.DataFrame(found, dtype="str")
    twice = rows[rows[ROW_ID].duplicated(keep=False)]
    if len(twice):
        same = twice[ROW_IMAGE][twice[ROW_ID] == twice[ROW_ID].iloc[0]]
        raise UserError(
            f"{twice[ROW_ID].nunique()} ids name several images of '{pattern}' ('{twice[ROW_ID].iloc[0]}': "
            f'{listed(same)}); use rows_from_folders(..., ids="path")'
        )
    return rows


def rows_of_all_images(table: pd.DataFrame, settings: Settings, pattern: str, data: Path) -> pd.DataFrame:
    """Rows for a table that has one line for several images: each image that fits the pattern becomes a row.

    `train/{patient_id}/*.png` finds the images of every patient in the table. The id of a row is its path below the
    fixed part of the pattern, and its prediction id is the id column's cell. What else a row has, see `image_rows`.

    Raises:
        UserError: what `image_rows` and `rows_from_folders` say, or ids of the table without any image.
    """
    names = [name for name in dict.fromkeys(FIELD.findall(pattern)) if name in table]
    table = with_text(table, names)
    require_columns(table, [settings.id_column, *(names or FIELD.findall(pattern))], "the table")
    found = rows_from_folders(data, pattern, ids="path")[[ROW_ID, ROW_IMAGE, *names]]
    lines = image_rows(table, settings, settings.id_column, data).drop(columns=ROW_IMAGE)
    rows = lines.rename(columns={ROW_ID: ROW_PREDICTION}).merge(found, on=names, how="left")
    lost = rows[ROW_PREDICTION][rows[ROW_IMAGE].isna()]
    if len(lost):
        raise UserError(
            f"{len(lost)} ids of the table have no image that fits '{pattern}' ({listed(lost)}); "
            "correct the pattern in src/competition/tables.py, or drop them there"
        )
    return rows


def _expression(pattern: str) -> re.Pattern[str]:
    """What paths fit; each name in braces is a group, and stands for the same text wherever it stands."""
    numbers: dict[str, int] = {}
    parts = []
    for position, part in enumerate(FIELD.split(pattern)):
        if position % 2 == 0:
            texts = WILD.split(part)
            wild = ["(?:[^/]+/)*" if found == "**/" else "[^/]*" for found in WILD.findall(part)]
            parts += [re.escape(texts[0]), *(way + re.escape(text) for way, text in zip(wild, texts[1:], strict=True))]
        elif pattern_column(part) != part:
            parts.append("[^/]+")
        elif part in numbers:
            parts.append(rf"(?:\{numbers[part]})")
        else:
            numbers[part] = len(numbers) + 1
            parts.append("([^/]+)")
    return re.compile("".join(parts))
