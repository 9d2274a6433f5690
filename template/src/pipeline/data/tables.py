"""Helpers for `src/competition/tables.py`: Kaggle's csv files become rows, and every cell stays exact text."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_ONLY_FOLD, ROW_PREDICTION, ROW_SOURCE, ROW_WEIGHT
from pipeline.rows import with_text
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.archives import ZIP, names_in, shown
from toolkit.errors import UserError, listed, nearest

RESERVED = (ROW_ID, ROW_IMAGE, ROW_PREDICTION, ROW_GROUP, ROW_SOURCE, ROW_WEIGHT, ROW_ONLY_FOLD, ROW_FOLD)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".npy", ".dcm", ".dicom")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
FIELD = re.compile(r"\{([^{}]+)\}")
PART = re.compile(r"(.+)\[(?:(-?\d+)|(-?\d*):(-?\d*))\]")  # `image_id[0]`, `image_id[:2]`
Listing = Callable[[str], tuple[set[str], dict[str, list[str]]]]  # folder -> its files; those that are images by stem


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a csv with every cell as text: `00012`, `1.0`, `NA` and `None` stay what they are; an empty cell is missing.

    Where the first line has no comma, `;` or tabs may divide cells.

    Args:
        columns: what must be among its columns.

    Raises:
        UserError: no such file, a file that is not csv, or a column that is not there (the nearest one is named).
    """
    try:
        separator = separator_of(path)
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no {path.name} in {shown(path.parent)}; {_remedy(path)}") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{shown(path)} is empty; download it again") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reason, remedy = str(error).strip().splitlines()[-1], "download it again or convert it"
        if "EOF inside string" in reason:
            remedy = "a quotation mark is not closed: close or remove the last '\"' that stands alone"
        elif path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff"):
            remedy = "it is UTF-16: save it as CSV UTF-8"
        raise UserError(f"{shown(path)} is not a csv file in UTF-8 ({reason}); {remedy}") from error
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from error
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


def _remedy(path: Path) -> str:
    archives = sorted(found.name for found in path.parent.glob(f"*{ZIP}"))
    if archives:
        own = path.name + ZIP
        return f"unpack {own if own in archives else listed(archives)}: scripts/check_data.py --unpack"
    return "put the competition's files there, or correct the name in competition.yaml"


def require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise a `UserError` with the nearest column for the first of `columns` that the table lacks."""
    for column in columns:
        if column not in table:
            raise UserError(
                f"{name} has no column '{column}'; {nearest(column, map(str, table.columns))} "
                "(columns are named in competition.yaml)"
            )


def require_cells(table: pd.DataFrame, column: str) -> None:
    """Raise a `UserError` that names the lines of the csv where `column` is empty."""
    empty = table.index[table[column].isna()]
    if len(empty):
        lines = listed(int(position) + 2 for position in empty)
        raise UserError(
            f"column '{column}' is empty in {len(empty)} rows (line {lines}); fill or drop them in tables.py"
        )


def sample_ids(path: Path, id_column: str) -> pd.DataFrame:
    """The ids of a sample submission as a table with the one column `id_column`; its other columns hold no truth."""
    sample = read_table(path)
    return sample[[sample_id_column(list(map(str, sample.columns)), id_column)]].set_axis([id_column], axis=1)


def image_rows(table: pd.DataFrame, settings: Settings, pattern: str | Sequence[str], data: Path) -> pd.DataFrame:
    """Rows as the pipeline wants them, from a table of `read_table`.

    Returns:
        `id` (str), `image` (str, path below `data`), `prediction_id` where competition.yaml names its column, `group`
        where the table has the group column, and every column of the table under its own name. A column whose name
        means something to the pipeline (`weight`, `source`, ...) is left out, since in Kaggle's table it means
        something else.

    Raises:
        UserError: no id column, an empty id, an image pattern that does not fit, or a target or side
            column with a reserved name.
    """
    require_columns(table, [settings.id_column], "the table")
    table = with_text(table, [settings.id_column, settings.group_column, settings.prediction_column])
    require_cells(table, settings.id_column)
    read = (*settings.target_columns, *settings.side_columns)
    reserved = [column for column in read if column in RESERVED and column in table]
    if reserved:
        raise UserError(
            f"the column '{reserved[0]}' has a name that the pipeline uses itself ({', '.join(RESERVED)}); "
            "rename it after reading in tables.py, and in competition.yaml"
        )
    rows = pd.DataFrame({ROW_ID: table[settings.id_column], ROW_IMAGE: image_paths(table, pattern, data)})
    if settings.group_column and settings.group_column in table:
        rows[ROW_GROUP] = table[settings.group_column]
    if settings.prediction_column:
        if settings.prediction_column not in table:  # Kaggle often has it in the test table only
            hint = nearest(settings.prediction_column, map(str, table.columns))
            raise UserError(
                f"the table has no column '{settings.prediction_column}', the prediction_column of competition.yaml; "
                f"{hint} (or build it in src/competition/tables.py before image_rows is called)"
            )
        require_cells(table, settings.prediction_column)
        rows[ROW_PREDICTION] = table[settings.prediction_column]
    return pd.concat([rows, table[[column for column in table if column not in RESERVED]]], axis=1)


def image_paths(table: pd.DataFrame, pattern: str | Sequence[str], data: Path) -> pd.Series:
    """The path below `data` of every row's image.

    The pattern holds columns in braces: `train/{patient}/{image_id}.png`, or parts of their text, counted as Python
    does: `train/{image_id[0]}/{image_id[:2]}/{image_id}.png`. A value that brings the extension along does
    not double it. Where the pattern has no extension (`train/{image_id}`) and the value neither, the file of that stem
    is looked up in its folder. Of several patterns, the first one whose file exists is taken, or else the first one:
    that files exist is not checked here.

    Raises:
        UserError: an unknown column in braces (the nearest one is named), an empty cell, one that is too short for the
            part that is asked for, or two files of one stem.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    listing = functools.cache(lambda folder: _listing(data / folder))
    first, *others = (_filled(table, one, listing) for one in patterns)
    for paths in others:
        first = first.where(_are_there(first, listing) | ~_are_there(paths, listing), paths)
    return first


def _are_there(paths: pd.Series, listing: Listing) -> np.ndarray:
    """bool (N,): whether the files exist."""
    return np.array([name in listing(folder)[0] for folder, _, name in (path.rpartition("/") for path in paths)], bool)


def _filled(table: pd.DataFrame, pattern: str, listing: Listing) -> pd.Series:
    parts = FIELD.split(pattern)  # text, column, text, ..., column, text
    columns = [field if field in table else pattern_column(field) for field in parts[1::2]]
    require_columns(table, columns, f"the table of the image pattern '{pattern}'")
    table = with_text(table, columns)
    paths = pd.Series("", index=table.index, dtype="str")
    for text, field, column in zip(parts[:-1:2], parts[1::2], columns, strict=True):
        require_cells(table, column)
        paths = paths + text + (table[column] if field == column else _part(table[column], field))
    end = parts[-1]
    paths = paths.where(paths.str.lower().str.endswith(end.lower()), paths + end).str.lstrip("/")
    if "." not in end.rpartition("/")[2]:
        paths = pd.Series([_with_extension(path, listing) for path in paths], index=table.index, dtype="str")
    return paths


def pattern_column(field: str) -> str:
    """The column that a name in braces takes its text from: `image_id` for `image_id[0]`."""
    part = PART.fullmatch(field)
    return field if part is None else part[1]


def _part(cells: pd.Series, field: str) -> pd.Series:
    """What a part like `image_id[0]` is of each cell."""
    found = PART.fullmatch(field)
    assert found is not None
    _, index, start, stop = found.groups()
    parts = cells.str[int(index) if index else slice(int(start) if start else None, int(stop) if stop else None)]
    short = cells[parts.isna() | (parts == "")]
    if len(short):
        raise UserError(
            f"{len(short)} cells of '{found[1]}' ({listed(map(repr, short))}) are too short for '{{{field}}}' in the "
            "image pattern; correct it in competition.yaml"
        )
    return parts


def _with_extension(path: str, listing: Listing) -> str:
    folder, slash, name = path.rpartition("/")
    names, stems = listing(folder)
    same = [name] if name in names else stems.get(name, [])
    if len(same) > 1:
        raise UserError(
            f"{folder or 'the data folder'} holds {listed(sorted(same))}; "
            "add the extension to train_images or test_images in competition.yaml"
        )
    return folder + slash + (same[0] if same else name)


def _listing(folder: Path) -> tuple[set[str], dict[str, list[str]]]:
    """The files of a folder, and those that are images by their stem. An id may hold dots, so only known endings go."""
    stems: dict[str, list[str]] = {}
    names = names_in(folder)
    for name in names:
        if is_image(name):
            stems.setdefault(name.rpartition(".")[0], []).append(name)
    return names, stems


def is_image(name: str) -> bool:
    """Whether the name of a file has the ending of an image."""
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in SUFFIXES
