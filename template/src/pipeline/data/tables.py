"""Helpers for `src/competition/tables.py`: Kaggle's csv files become rows, and every cell stays exact text."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_ONLY_FOLD, ROW_PREDICTION, ROW_SOURCE, ROW_WEIGHT
from pipeline.rows import with_text
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.errors import UserError, listed, nearest
from toolkit.files import ZIP, shown

RESERVED = (ROW_ID, ROW_IMAGE, ROW_PREDICTION, ROW_GROUP, ROW_SOURCE, ROW_WEIGHT, ROW_ONLY_FOLD, ROW_FOLD)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".npy", ".dcm", ".dicom")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
FIELD = re.compile(r"\{([^{}]+)\}")
PART = re.compile(r"^(.+)\[(-?\d+|(?:-?\d+)?:(?:-?\d+)?)\]$")  # `image_id[0]`, `image_id[:2]`
Listing = Callable[[str], dict[str, list[str]]]  # folder -> its files by name, and those that are images by stem


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a csv with every cell as text: `00012`, `1.0`, `NA` and `None` stay what they are; an empty cell is missing.

    Raises:
        UserError: no such file, a file that is not csv, or one of `columns` is not there (the nearest one is named).
    """
    try:
        separator = separator_of(path)
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except FileNotFoundError as error:
        archives = sorted(path.parent.glob(f"*{ZIP}"), key=lambda found: (found.name != path.name + ZIP, found.name))
        remedy = "put the competition's files there, or correct the name in competition.yaml"
        remedy = f"unpack {archives[0].name}: scripts/check_data.py --unpack" if archives else remedy
        raise UserError(f"there is no {path.name} in {shown(path.parent)}; {remedy}") from error
    except (OSError, ValueError) as error:  # of pandas, which finds no table, and of bytes that are no UTF-8
        reason = str(error).strip().splitlines()[-1]
        remedy = "download it again, save it as CSV UTF-8, or close a quotation mark"
        raise UserError(f"{shown(path)} is not a csv file in UTF-8 ({reason}); {remedy}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{shown(path)}: its rows have more cells than its first line names; mend the first line")
    require_columns(table, columns, path.name)
    return table


def separator_of(path: Path) -> str:
    """What divides the cells of a csv: a comma, or the `;` or tab of a first line without one."""
    if path.suffix.lower() not in TEXT_SUFFIXES:  # it may be compressed
        return ","
    with path.open("rb") as file:
        first = file.readline()
    return next((mark for mark in (",", ";", "\t") if mark.encode() in first), ",")


def require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise a `UserError` with the nearest column for the first of `columns` that the table lacks."""
    for column in columns:
        if column not in table:
            remedy = "(columns are named in competition.yaml, or made in src/competition/tables.py before image_rows)"
            raise UserError(f"{name} has no column '{column}'; {nearest(column, map(str, table.columns))} {remedy}")


def require_cells(table: pd.DataFrame, column: str) -> None:
    """Raise a `UserError` that names the lines of the csv where `column` is empty."""
    empty = table.index[table[column].isna()]
    if len(empty):
        where = f"{len(empty)} rows (line {listed(int(position) + 2 for position in empty)})"
        raise UserError(f"column '{column}' is empty in {where}; fill or drop them in tables.py")


def sample_ids(path: Path, id_column: str) -> pd.DataFrame:
    """The ids of a sample submission as a table with the one column `id_column`; its other columns hold no truth."""
    sample = read_table(path)
    return sample[[sample_id_column(list(map(str, sample.columns)), id_column)]].set_axis([id_column], axis=1)


def image_rows(table: pd.DataFrame, settings: Settings, pattern: str | Sequence[str], data: Path) -> pd.DataFrame:
    """Rows as the pipeline wants them, from a table of `read_table`.

    Returns:
        `id` (str), `image` (str, path below `data`), `prediction_id` and `group` where competition.yaml names their
        columns, and every column of the table under its own name, but for names that mean something to the pipeline
        (`weight`, `source`, ...): in Kaggle's table they mean something else.

    Raises:
        UserError: a column or an id that is missing, a pattern that does not fit, a target with a reserved name.
    """
    names = [settings.id_column, *([settings.prediction_column] if settings.prediction_column else [])]
    require_columns(table, names, "the table")
    table = with_text(table, [*names, settings.group_column])
    for column in names:
        require_cells(table, column)
    for name in (*settings.target_columns, *settings.side_columns):
        if name in RESERVED and name in table:
            raise UserError(f"'{name}' is the pipeline's own name; rename the column in tables.py and competition.yaml")
    rows = pd.DataFrame({ROW_ID: table[settings.id_column], ROW_IMAGE: image_paths(table, pattern, data)})
    for name, column in ((ROW_GROUP, settings.group_column), (ROW_PREDICTION, settings.prediction_column)):
        if column and column in table:
            rows[name] = table[column]
    return pd.concat([rows, table[[column for column in table if column not in RESERVED]]], axis=1)


def image_paths(table: pd.DataFrame, pattern: str | Sequence[str], data: Path) -> pd.Series:
    """The path below `data` of every row's image.

    The pattern holds columns in braces, or parts of their text: `train/{image_id[:2]}/{image_id}.png`. A value that
    brings the extension along does not double it. Where neither has one, the file of that stem is looked up in its
    folder. Of several patterns, the first one whose file exists is taken, or else the first one.

    Raises:
        UserError: an unknown column in braces (the nearest one is named), an empty cell, one that is too short for the
            part that is asked for, or two files of one stem.
    """
    listing = functools.cache(lambda folder: _listing(data / folder))

    def exist(paths: pd.Series) -> np.ndarray:
        parts = (path.rpartition("/") for path in paths)
        return np.array([name in listing(folder).get(name, ()) for folder, _, name in parts], bool)

    first, *others = (_filled(table, one, listing) for one in ([pattern] if isinstance(pattern, str) else pattern))
    for paths in others:
        first = first.where(exist(first) | ~exist(paths), paths)
    return first


def _filled(table: pd.DataFrame, pattern: str, listing: Listing) -> pd.Series:
    *texts, end = FIELD.split(pattern)[::2]
    fields = FIELD.findall(pattern)
    columns = [field if field in table else pattern_column(field) for field in fields]
    require_columns(table, columns, f"the table of the image pattern '{pattern}'")
    table = with_text(table, columns)
    paths = pd.Series("", index=table.index, dtype="str")
    for text, field, column in zip(texts, fields, columns, strict=True):
        require_cells(table, column)
        paths = paths + text + (table[column] if field == column else _part(table[column], field))
    paths = paths.where(paths.str.lower().str.endswith(end.lower()), paths + end).str.lstrip("/")
    if "." not in end.rpartition("/")[2]:
        paths = pd.Series([_with_extension(path, listing) for path in paths], index=table.index, dtype="str")
    return paths


def pattern_column(field: str) -> str:
    """The column that a name in braces takes its text from: `image_id` for `image_id[0]`."""
    return PART.sub(r"\1", field)


def _part(cells: pd.Series, field: str) -> pd.Series:
    """What a part like `image_id[0]` is of each cell."""
    column, part = PART.findall(field)[0]
    start, colon, stop = part.partition(":")
    parts = cells.str[slice(int(start or 0), int(stop) if stop else None) if colon else int(start)]
    short = cells[parts.isna() | (parts == "")]
    if len(short):
        which = f"{len(short)} cells of '{column}' ({listed(map(repr, short))})"
        raise UserError(f"{which} are too short for '{{{field}}}' in the image pattern; correct it in competition.yaml")
    return parts


def _with_extension(path: str, listing: Listing) -> str:
    folder, slash, name = path.rpartition("/")
    found = listing(folder).get(name, [name])
    if name not in found and len(found) > 1:
        raise UserError(f"{folder} holds {listed(sorted(found))}; add the extension to the pattern in competition.yaml")
    return folder + slash + (name if name in found else found[0])


def _listing(folder: Path) -> dict[str, list[str]]:
    """See `Listing`; empty where there is no folder. An id may hold dots, so only known endings go."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in (entry.name for entry in entries if entry.is_file()):
            for key in {name, name.rpartition(".")[0] if is_image(name) else name}:
                found.setdefault(key, []).append(name)
    return found


def is_image(name: str) -> bool:
    """Whether the name of a file has the ending of an image."""
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in SUFFIXES
