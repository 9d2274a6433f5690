"""Faults of the csv files and of the sample submission: swallowed rows, strange ids, columns that are no targets."""

import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.data.faults import Fault, each
from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, counterparts, loose, loose_id
from pipeline.data.tables import read_table, separator_of
from pipeline.keys import ROW_ID, ROW_PREDICTION
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.errors import UserError, listed, nearest

LIMIT = 2**31 - 1  # characters of a cell, since RLE can be long
IN_TABLES = "in src/competition/tables.py"


def csv_faults(path: Path, keys: Collection[str]) -> Iterator[Fault]:
    """Faults of one file; nothing where there is none or where it cannot be read, which others tell.

    Args:
        keys: columns whose cells name something (ids, labels, groups): none of them holds a line break.
    """
    try:
        separator, text = separator_of(path), path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        yield Fault("table", path.name, f"line {line} holds a NUL byte; download the file again, or save it as UTF-8")
        return
    (_, _, names), *records = _records(text, separator) or [(1, 1, [])]
    whole = [record for record in records if record[1] == record[0]]
    usual = Counter(_shape(cells[0]) for _, _, cells in whole).most_common(1)
    breaks = []
    for first, last, cells in [record for record in records if record[1] > record[0]]:  # by line breaks in its cells
        several = [column for column, cell in zip(names, cells, strict=False) if len(cell.strip().splitlines()) > 1]
        parts = [line.split(separator) for cell in cells for line in cell.splitlines()[1:]]
        like_rows = any(len(part) == len(names) > 1 and usual and _shape(part[0]) == usual[0][0] for part in parts)
        where = next((f"column '{column}'" for column in several if column in keys), "a cell" if like_rows else "")
        if where:  # it names something, or its lines look like rows
            quote = "a quotation mark that is not closed swallows rows; close or remove it"
            yield Fault("swallowed rows", path.name, f"{where} of line {first} goes on to line {last}: {quote}")
        else:
            breaks.append(f"{first} to {last}")
    note = partial(Fault, row=path.name, fatal=False)
    if separator != ",":
        yield note("table", detail=f"its cells are divided by {separator!r}, and are read so")
    if breaks:
        what = f"{len(breaks)} of {len(records)} rows hold line breaks in a cell (lines {listed(breaks)})"
        yield note("line breaks", detail=f"{what}; where it is no text of several lines, close a quotation mark there")
    if short := [f"{first}: {len(cells)}" for first, _, cells in whole if len(cells) < len(names)]:
        what = f"{len(short)} of {len(records)} rows have fewer cells than the {len(names)} columns"
        yield note("table", detail=f"{what} (line {listed(short)}); complete these lines, or drop the rows {IN_TABLES}")
    named = [position for position, column in enumerate(names) if column in keys]
    cells_of = ((first, at, cells[at]) for first, _, cells in whole for at in named if at < len(cells))
    if lone := [f"line {first}, '{names[at]}': {cell!r}" for first, at, cell in cells_of if cell.count('"') % 2]:
        yield note("table", detail=f"{len(lone)} cells hold a single quotation mark ({listed(lone)}); mend slips")


def _records(text: str, separator: str) -> list[tuple[int, int, list[str]]]:
    """First and last line, from 1, and cells of the records but blank ones, up to one that pandas does not read."""
    csv.field_size_limit(LIMIT)
    records, last = [], 0
    with contextlib.suppress(csv.Error):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        for cells in reader:
            records.append((last + 1, reader.line_num, cells))
            last = reader.line_num
    return [record for record in records if record[2]]


def _shape(cell: str) -> str:
    """`a0.a` for `image12.png`: which sorts of characters come in which order."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", cell.strip().strip('"')))


def sample_faults(settings: Settings, data: Path, test: pd.DataFrame, labels: Labels) -> Iterator[Fault]:
    """A sample submission that is missing, names an id twice, or asks for other ids than the test rows are."""
    name = settings.sample_submission
    fault = partial(Fault, "sample submission", name)
    try:
        sample = read_table(data / name)
    except UserError as error:
        yield fault(str(error))
        return
    columns = list(map(str, sample.columns))
    if len(columns) < 2:
        yield fault(f"it has one column only ({columns[0]}); download it again")
        return
    yield from requested_columns(settings, columns)
    id_column = sample_id_column(columns, settings.id_column)
    ids = labels.asked(sample[id_column])
    twice = ids[ids.duplicated()].unique()
    yield from each("sample submission", twice, "this id stands more than once in it", fatal=False)
    heads = "|".join(re.escape(target) for target in sorted(settings.target_columns, key=len, reverse=True))
    ends = rf"[^0-9A-Za-z](?:{heads})$"
    if len(settings.target_columns) > 1 and ids.str.contains(ends).all():  # a row for each image and target column
        ids = ids.str.replace(ends, "", regex=True)
    renamed = counterparts(ids[~ids.isin(test[ROW_ID])], test[ROW_ID][~test[ROW_ID].isin(ids)], loose_id)
    if renamed:
        yield fault(_spelled_otherwise("ids", renamed))
        ids = ids.replace(renamed)
    asked = ids.isin(test[ROW_ID])
    if len(test) and not asked.any():
        detail = f"none of its ids ({listed(ids)}) is a test row ({listed(test[ROW_ID])})"
        if id_column != settings.id_column and not settings.prediction_column:
            remedy = "stands for several images, name it as prediction_column in competition.yaml"
            detail += f"; where '{id_column}' {remedy}"
        yield fault(detail, fatal=False)
    elif len(test):
        left = test[ROW_ID][~test[ROW_ID].isin(ids)]
        yield from each("sample submission", ids[~asked].unique(), "it asks for this id, and there is no such test row")
        yield from each("sample submission", left, "a test row that it does not ask for", fatal=False)


def requested_columns(settings: Settings, columns: Sequence[str]) -> Iterator[Fault]:
    """Target columns that a sample with some of them leaves out, and columns that it adds to them."""
    note = partial(Fault, "sample submission", settings.sample_submission, fatal=False)
    targets, own = settings.target_columns, sample_id_column(columns, settings.id_column)
    left_out = [name for name in targets if name not in columns]
    if len(left_out) == len(targets):  # it has another form: a column of labels, or one for each class
        return
    strange = [name for name in columns if name not in (*targets, own)]
    for name in strange:
        yield note(f"'{name}' is no target column; {nearest(name, targets)} (or see src/competition/submission.py)")
    if left_out and not strange:
        what = f"it does not ask for {len(left_out)} of the {len(targets)} target columns ({listed(left_out)})"
        yield note(f"{what}; for a score without them write one in src/competition/metric.py")


def id_spellings(rows: pd.DataFrame, what: str) -> Iterator[Fault]:
    """Ids, and ids of predictions, that are one in several spellings."""
    for column in [column for column in (ROW_ID, ROW_PREDICTION) if column in rows]:
        found = alike(rows[column].dropna().unique(), lambda text: loose(text) if not text.isdigit() else text)
        if found:
            examples = listed((" and ".join(map(repr, same)) for same in found), 3)
            detail = f"{len(found)} of them stand in several spellings ({examples}): where they are one image, drop one"
            yield Fault(f"{column} spellings", what, f"{detail} {IN_TABLES}", fatal=False)


def sample_spellings(
    settings: Settings, sample: pd.DataFrame, train: pd.DataFrame, labels: Labels, decides: bool
) -> Iterator[Fault]:
    """Classes that the sample submission spells otherwise than the training rows, in its head or in its cells.

    Args:
        decides: whether cells hold what is decided; numbers are no classes.
    """
    own = sample_id_column(list(map(str, sample.columns)), settings.id_column)
    columns = [name for name in map(str, sample.columns) if name != own]
    named = [column for column in labels.named if column in train]
    classes = {column: list(labels.cells(train, column).dropna().astype(str).unique()) for column in named}
    found = {"columns": counterparts(columns, itertools.chain(settings.target_columns, *classes.values()))}
    single = {columns[0]: named[0]} if len(columns) == len(named) == 1 else {}
    for name in columns if decides else ():
        column = single.get(name, name)
        if column in classes:
            cells = labels.cells(pd.DataFrame({column: sample[name], ROW_ID: sample[own]}), column).dropna()
            found[f"'{name}' cells"] = counterparts(cells, classes[column])
    for what, pairs in found.items():
        if pairs:
            yield Fault("sample submission", settings.sample_submission, _spelled_otherwise(what, pairs), fatal=False)


def _spelled_otherwise(what: str, pairs: Mapping[str, str]) -> str:
    examples = listed(f"{theirs!r} for {ours!r}" for theirs, ours in pairs.items())
    return f"{len(pairs)} of its {what} are spelled otherwise ({examples}); spell the rows as it does, {IN_TABLES}"
