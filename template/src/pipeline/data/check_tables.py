"""Faults of the csv files and of the sample submission: swallowed rows, strange ids, columns that are no targets."""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, loose, loose_id
from pipeline.data.tables import read_table, separator_of
from pipeline.keys import ROW_ID, ROW_PREDICTION
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.errors import UserError, listed, nearest

LIMIT = 2**31 - 1  # characters of a cell, since RLE can be long
Record = tuple[int, int, list[str]]  # the first and the last line of a record, counted from 1, and its cells


def csv_faults(path: Path, keys: Collection[str]) -> Iterator[Fault]:
    """Faults of one file; nothing where there is none or where it cannot be read, which others tell.

    Args:
        keys: columns whose cells name something (ids, labels, groups): none of them holds a line break.
    """
    try:
        separator = separator_of(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError):
        return
    nul = next((number for number, line in enumerate(lines, 1) if "\0" in line), 0)
    if nul:
        detail = f"line {nul} holds a NUL byte, which no text has; download the file again, or save it as UTF-8"
        yield Fault("table", path.name, detail)
        return
    if separator != ",":
        detail = f"its cells are divided by {separator!r}, and are read so; the submission is written with commas"
        yield Fault("table", path.name, detail, fatal=False)
    (_, _, names), *records = _records(lines, separator) or [(1, 1, [])]
    yield from _line_breaks(path.name, names, records, separator, keys)
    whole = [(first, cells) for first, last, cells in records if not _is_broken(first, last, cells)]
    short = [f"{first}: {len(cells)}" for first, cells in whole if len(cells) < len(names)]
    if short:
        detail = (
            f"{len(short)} of {len(records)} rows have fewer cells than the {len(names)} columns (line "
            f"{listed(short)}); what is missing is empty: complete these lines, or drop the rows in "
            "src/competition/tables.py"
        )
        yield Fault("table", path.name, detail, fatal=False)
    lone = [
        f"line {first}, '{column}': {cell!r}"
        for first, cells in whole
        for column, cell in zip(names, cells, strict=False)
        if column in keys and cell.count('"') % 2
    ]
    if lone:
        detail = f"{len(lone)} cells hold a single quotation mark ({listed(lone)}); mend it where it is a slip"
        yield Fault("table", path.name, detail, fatal=False)


def _records(lines: Iterable[str], separator: str) -> list[Record]:
    """The records of a csv but for blank lines, up to one that cannot be read, which pandas says."""
    records: list[Record] = []
    before, last = csv.field_size_limit(LIMIT), 0
    try:
        reader = csv.reader(lines, delimiter=separator)
        for cells in reader:
            records.append((last + 1, reader.line_num, cells))
            last = reader.line_num
    except csv.Error:
        pass
    finally:
        csv.field_size_limit(before)
    return [record for record in records if record[2]]


def _is_broken(first: int, last: int, cells: Iterable[str]) -> bool:
    """Whether a record goes over several lines, by line breaks in its cells."""
    return last > first and any("\n" in cell or "\r" in cell for cell in cells)


def _line_breaks(
    name: str, names: Sequence[str], records: Sequence[Record], separator: str, keys: Collection[str]
) -> Iterator[Fault]:
    """Line breaks in cells: a fault in what names something, and where the lines of a cell look like rows."""
    broken = [record for record in records if _is_broken(*record)]
    if not broken:
        return
    usual = Counter(_shape(record[2][0]) for record in records if not _is_broken(*record)).most_common(1)
    swallowed, texts = [], []
    for first, last, cells in broken:
        columns = [
            column
            for column, cell in zip(names, cells, strict=False)
            if column in keys and len(cell.strip().splitlines()) > 1
        ]
        parts = [line.split(separator) for cell in cells for line in cell.splitlines()[1:]]
        like_rows = [part for part in parts if len(part) == len(names) > 1 and usual and _shape(part[0]) == usual[0][0]]
        if columns or like_rows:
            swallowed.append((first, last, columns))
        else:
            texts.append(f"{first} to {last}")
    if swallowed:
        first, last, columns = swallowed[0]
        where = f"column '{columns[0]}' " if columns else "a cell "
        lost = sum(last - first for first, last, _ in swallowed)
        detail = (
            f"{where}of line {first} goes on to line {last}: a quotation mark that is not closed swallows rows "
            f"({lost} lines in {len(swallowed)} rows); close or remove the '\"' of line {first}"
        )
        yield Fault("swallowed rows", name, detail)
    if texts:
        detail = (
            f"{len(texts)} of {len(records)} rows hold line breaks in a cell (lines {listed(texts)}), as texts of "
            "several lines do; where it is none, a quotation mark is not closed there"
        )
        yield Fault("line breaks", name, detail, fatal=False)


def _shape(cell: str) -> str:
    """`a0.a` for `image12.png`: which sorts of characters come in which order."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", cell.strip().strip('"')))


def sample_faults(settings: Settings, data: Path, test: pd.DataFrame, labels: Labels) -> Iterator[Fault]:
    """A sample submission that is missing, names an id twice, or asks for other ids than the test rows are."""
    name = settings.sample_submission
    try:
        sample = read_table(data / name)
    except UserError as error:
        yield Fault("sample submission", name, str(error))
        return
    if len(sample.columns) < 2:
        yield Fault("sample submission", name, f"it has one column only ({sample.columns[0]}); download it again")
        return
    yield from asked_columns(settings, list(map(str, sample.columns)))
    id_column = sample_id_column(list(map(str, sample.columns)), settings.id_column)
    ids = labels.asked(sample[id_column])
    for repeated in ids[ids.duplicated()].unique():
        yield Fault("sample submission", str(repeated), "this id stands more than once in it", fatal=False)
    ids = _without_heads(ids, settings.target_columns)
    renamed = renamed_ids(ids, test[ROW_ID])
    if renamed:
        pairs = listed(f"{theirs!r} for the test row {ours!r}" for theirs, ours in renamed.items())
        detail = f"{len(renamed)} of its ids are spelled otherwise ({pairs}); spell the ids of test_rows as it does"
        yield Fault("sample submission", name, f"{detail}, in src/competition/tables.py")
        ids = ids.replace(renamed)
    asked = ids.isin(test[ROW_ID])
    if len(test) and not asked.any():
        detail = f"none of its ids ({listed(ids)}) is a test row ({listed(test[ROW_ID])})"
        if id_column != settings.id_column and not settings.prediction_column:
            detail += (
                f"; where '{id_column}' stands for several images, name it as prediction_column in competition.yaml"
            )
        yield Fault("sample submission", name, detail, fatal=False)
    elif len(test):
        for extra in ids[~asked].unique():
            yield Fault("sample submission", str(extra), "it asks for this id, and there is no such test row")
        for left in test[ROW_ID][~test[ROW_ID].isin(ids)]:
            yield Fault("sample submission", str(left), "a test row that it does not ask for", fatal=False)


def asked_columns(settings: Settings, columns: Sequence[str]) -> Iterator[Fault]:
    """Target columns that a sample with some of them leaves out, and columns that it adds to them."""
    targets, own = settings.target_columns, sample_id_column(columns, settings.id_column)
    left_out = [name for name in targets if name not in columns]
    strange = [name for name in columns if name not in (*targets, own)]
    if len(left_out) == len(targets):  # it has another form: a column of labels, or one for each class
        return
    for name in strange:
        detail = f"'{name}' is no target column; {nearest(name, targets)} (or fill it in src/competition/submission.py)"
        yield Fault("sample submission", settings.sample_submission, detail, fatal=False)
    if left_out and not strange:
        detail = (
            f"it does not ask for {len(left_out)} of the {len(targets)} target columns ({listed(left_out)}), which the "
            "metric counts as well; for a score without them write one in src/competition/metric.py"
        )
        yield Fault("sample submission", settings.sample_submission, detail, fatal=False)


def _without_heads(ids: pd.Series, targets: Sequence[str]) -> pd.Series:
    """The ids of images, where a sample has a row for each image and target column (`Test_0_vowel`)."""
    names = "|".join(re.escape(name) for name in sorted(targets, key=len, reverse=True))
    ends = rf"[^0-9A-Za-z](?:{names})$"
    by_head = len(targets) > 1 and ids.str.contains(ends).all()
    return ids.str.replace(ends, "", regex=True) if by_head else ids


def renamed_ids(asked: pd.Series, test: pd.Series) -> dict[str, str]:
    """Ids that the sample asks for and no test row has, with those test ids that must be meant by them."""
    known = set(test)
    left = {loose_id(name): name for name in test if name not in set(asked)}
    lost = [name for name in asked.unique() if name not in known]
    return {name: left[loose_id(name)] for name in lost if loose_id(name) in left}


def id_spellings(rows: pd.DataFrame, what: str) -> Iterator[Fault]:
    """Ids, and ids of predictions, that are one in several spellings."""
    for column in [column for column in (ROW_ID, ROW_PREDICTION) if column in rows]:
        found = alike(rows[column].dropna().unique(), lambda text: loose(text) if not text.isdigit() else text)
        if found:
            examples = listed((" and ".join(map(repr, same)) for same in found), 3)
            detail = f"{len(found)} of them stand in several spellings ({examples}): where they are one image, drop one"
            yield Fault(f"{column} spellings", what, f"{detail} in src/competition/tables.py", fatal=False)


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
    known = [*settings.target_columns, *(name for names in classes.values() for name in names)]
    yield from _otherwise(settings.sample_submission, columns, known, "column")
    if not decides:
        return
    single = {columns[0]: named[0]} if len(columns) == len(named) == 1 else {}
    for name in columns:
        column = single.get(name, name)
        if column in classes:
            cells = labels.cells(pd.DataFrame({column: sample[name], ROW_ID: sample[own]}), column).dropna()
            yield from _otherwise(settings.sample_submission, cells.unique(), classes[column], f"'{name}' cell")


def _otherwise(sample: str, found: Iterable[str], known: Sequence[str], what: str) -> Iterator[Fault]:
    """A note for what is not known and alike to something that is."""
    exact, by_key = set(known), {loose(name): name for name in reversed(known)}
    pairs = [(name, by_key[loose(name)]) for name in found if name not in exact and loose(name) in by_key]
    if pairs:
        shown = listed((f"{theirs!r} in the sample, {ours!r} in training" for theirs, ours in pairs), 3)
        remedy = "spell the training rows as the sample does, in src/competition/tables.py"
        if what == "column":
            remedy = "the submission keeps the sample's"
        yield Fault(
            "sample submission", sample, f"{len(pairs)} {what}s are spelled otherwise ({shown}); {remedy}", False
        )
