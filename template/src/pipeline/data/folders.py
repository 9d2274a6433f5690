"""Rows of a competition whose folders are its labels: no table, but `train/cat/1.jpg` and `train/dog/2.jpg`."""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.data.tables import FIELD, RESERVED, image_rows, is_image, pattern_column, require_columns
from pipeline.keys import ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_PREDICTION
from pipeline.rows import with_text
from pipeline.settings import Settings
from toolkit.errors import UserError, listed
from toolkit.files import files_below, shown

VARIABLE = re.compile(r"(\{[^{}]+\}|\*\*/|\*)")
WILD = {"**/": "(?:[^/]+/)*", "*": "[^/]*"}


def rows_from_folders(data: Path, pattern: str, ids: Literal["stem", "path"] = "stem") -> pd.DataFrame:
    """One row for each image below `data` whose path fits the pattern, in the order of the paths.

    A name in braces becomes a column, `*` stands for any text in a name, `**/` for any folders: `train/{label}/*.jpg`,
    `images/**/{label}-*.png`. A pattern whose last name holds no dot fits images of all kinds.

    Args:
        ids: what the id is where the pattern has no `{id}`: the name without extension, or the path below the first
            part of the pattern that is fixed.

    Returns:
        `id` and `image` (str), and a column (str) for each name in braces.

    Raises:
        UserError: nothing fits, two images have one id, or a name in braces that means something else to the pipeline.
    """
    names = [name for name in dict.fromkeys(FIELD.findall(pattern)) if pattern_column(name) == name]
    reserved = {*names} & {*RESERVED} - {ROW_ID, ROW_GROUP, ROW_PREDICTION}
    if reserved:
        raise UserError(f"the pattern '{pattern}' names a column '{min(reserved)}', which the pipeline fills itself")
    fixed = re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]
    start = f"{fixed}/" if fixed else ""
    fits, any_image = _expression(pattern.removeprefix(start)), "." not in pattern.rpartition("/")[2]
    found = []
    for path in sorted(files_below(data / fixed)):
        stem = path.rpartition(".")[0]
        match = fits.fullmatch(stem if any_image else path)
        if match and (is_image(path) or not any_image):
            own = path if ids == "path" else stem.rpartition("/")[2]
            found.append({ROW_ID: own, ROW_IMAGE: start + path, **dict(zip(names, match.groups(), strict=True))})
    if not found:
        raise UserError(f"no image fits '{pattern}' in {shown(data)}; correct it in src/competition/tables.py")
    rows = pd.DataFrame(found, dtype="str")
    twice = rows[rows[ROW_ID].duplicated(keep=False)].sort_values(ROW_ID, kind="stable")
    if len(twice):
        which = f"{twice[ROW_ID].nunique()} ids name several images ({listed(twice[ROW_IMAGE])})"
        raise UserError(f'{which}; use rows_from_folders(..., ids="path")')
    return rows


def rows_of_all_images(table: pd.DataFrame, settings: Settings, pattern: str, data: Path) -> pd.DataFrame:
    """Rows for a table that has one line for several images: each image that fits the pattern becomes a row.

    `train/{patient_id}/*.png` finds the images of every patient in the table. The id of a row is its path below the
    fixed part of the pattern, its prediction id is the id column's cell, and the rest is as `image_rows` has it.

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
        which = f"{len(lost)} ids of the table have no image that fits '{pattern}' ({listed(lost)})"
        raise UserError(f"{which}; correct the pattern in src/competition/tables.py, or drop them there")
    return rows


def _expression(pattern: str) -> re.Pattern[str]:
    """What paths fit; each name in braces is a named group, and stands for the same text wherever it stands."""
    names: list[str] = []
    text = ""
    for position, part in enumerate(VARIABLE.split(pattern)):
        name = part.strip("{}")
        if position % 2 == 0 or part in WILD:
            text += WILD.get(part) or re.escape(part)
        elif pattern_column(name) != name:
            text += "[^/]+"
        elif name in names:
            text += rf"(?:\{names.index(name) + 1})"
        else:
            names.append(name)
            text += "([^/]+)"
    return re.compile(text)
