"""What is wrong with a csv file as such: quotes that swallow rows, rows of another length, bytes that are no text."""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.faults import Fault
from pipeline.data.tables import separator_of
from toolkit.errors import listed

LIMIT = 2**31 - 1  # characters of a cell, since RLE can be long


@dataclass
class _Found:
    """Records by what is remarkable about them; lines count from 1."""

    names: list[str] = field(default_factory=list)
    records: int = 0
    broken: list[tuple[int, int, list[str]]] = field(default_factory=list)  # first and last line, cells
    short: list[tuple[int, int]] = field(default_factory=list)  # line, number of cells
    lone: list[tuple[int, str, str]] = field(default_factory=list)  # line, column, cell
    nul: int = 0  # the first line with a NUL byte
    shapes: Counter[str] = field(default_factory=Counter)  # of first cells


def csv_faults(path: Path, keys: Collection[str]) -> Iterator[Fault]:
    """Faults of one file; nothing where there is none or where it cannot be read, which others tell.

    Args:
        keys: columns whose cells name something (ids, labels, groups): none of them holds a line break.
    """
    try:
        separator = separator_of(path)
        found = _read(path, separator, keys)
    except (OSError, UnicodeDecodeError):
        return
    if found.nul:
        detail = f"line {found.nul} holds a NUL byte, which no text has; download the file again, or save it as UTF-8"
        yield Fault("table", path.name, detail)
        return
    if separator != ",":
        detail = f"its cells are divided by {separator!r}, and are read so; the submission is written with commas"
        yield Fault("table", path.name, detail, fatal=False)
    yield from _line_breaks(path.name, found, separator, keys)
    if found.short:
        lines = listed(f"{line}: {cells}" for line, cells in found.short)
        detail = (
            f"{len(found.short)} of {found.records} rows have fewer cells than the {len(found.names)} columns (line "
            f"{lines}); what is missing is empty: complete these lines, or drop the rows in src/competition/tables.py"
        )
        yield Fault("table", path.name, detail, fatal=False)
    if found.lone:
        cells = listed(f"line {line}, '{column}': {cell!r}" for line, column, cell in found.lone)
        detail = f"{len(found.lone)} cells hold a single quotation mark ({cells}); mend it where it is a slip"
        yield Fault("table", path.name, detail, fatal=False)


def _read(path: Path, separator: str, keys: Collection[str]) -> _Found:
    before = csv.field_size_limit(LIMIT)
    found, last = _Found(), 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_noting_nul(file, found), delimiter=separator)
            for cells in reader:
                first, last = last + 1, reader.line_num
                _note(found, first, last, cells, keys)
    except csv.Error:  # pandas says it when the table is read
        pass
    finally:
        csv.field_size_limit(before)
    return found


def _noting_nul(lines: Iterable[str], found: _Found) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not found.nul and "\0" in line:
            found.nul = number
        yield line


def _note(found: _Found, first: int, last: int, cells: list[str], keys: Collection[str]) -> None:
    """Take down what is remarkable about a record that stands in these lines."""
    if not found.names:
        found.names = cells
        return
    if not cells:  # a blank line
        return
    found.records += 1
    if last > first and any("\n" in cell or "\r" in cell for cell in cells):
        found.broken.append((first, last, cells))
        return
    found.shapes[_shape(cells[0])] += 1
    if len(cells) < len(found.names):
        found.short.append((first, len(cells)))
    for column, cell in zip(found.names, cells, strict=False):
        if column in keys and cell.count('"') % 2:
            found.lone.append((first, column, cell))


def _line_breaks(name: str, found: _Found, separator: str, keys: Collection[str]) -> Iterator[Fault]:
    """Line breaks in cells: a fault in what names something, and where the lines of a cell look like rows."""
    swallowed: list[tuple[int, int, list[str], int]] = []  # first and last line, columns, lines like rows
    told: list[tuple[int, int, list[str], int]] = []
    for first, last, cells in found.broken:
        named = [
            column for column, cell in zip(found.names, cells, strict=False) if column in keys and _is_broken(cell)
        ]
        rows = sum(_row_like(line, found, separator) for cell in cells for line in cell.splitlines()[1:])
        (swallowed if named or rows else told).append((first, last, named, rows))
    if swallowed:
        first, last, named, rows = swallowed[0]
        where = f"column '{named[0]}' " if named else "a cell "
        lost = sum(last - first for first, last, _, _ in swallowed)
        detail = (
            f"{where}of line {first} goes on to line {last}: a quotation mark that is not closed swallows rows "
            f"({lost} lines in {len(swallowed)} rows); close or remove the '\"' of line {first}"
        )
        yield Fault("swallowed rows", name, detail)
    if told:
        lines = listed(f"{first} to {last}" for first, last, _, _ in told)
        detail = (
            f"{len(told)} of {found.records} rows hold line breaks in a cell (lines {lines}), as texts of several "
            "lines do; where it is none, a quotation mark is not closed there"
        )
        yield Fault("line breaks", name, detail, fatal=False)


def _is_broken(cell: str) -> bool:
    return "\n" in cell.strip() or "\r" in cell.strip()


def _row_like(line: str, found: _Found, separator: str) -> bool:
    """Whether a line within a cell has as many cells as the table, and begins like most of its rows."""
    cells = line.split(separator)
    usual = found.shapes.most_common(1)
    return len(cells) == len(found.names) > 1 and bool(usual) and _shape(cells[0]) == usual[0][0]


def _shape(cell: str) -> str:
    """`a0.a` for `image12.png`: which sorts of characters come in which order."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", cell.strip().strip('"')))
