"""Cells of a submission, judged as text: blanks, booleans, numbers."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from pipeline.errors import listed
from pipeline.rules import Problem

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "nat"})
BOOLEAN = frozenset({"true", "false"})
INTEGER = re.compile(r"[+-]?\d+")


def number_problems(name: str, values: pd.Series, probability: bool, whole: bool = False) -> list[Problem]:
    """Values that are not finite numbers, not in [0, 1] where they are probabilities, not whole where they must be."""
    numbers, lower = as_numbers(values), lower_case(values)
    blank, boolean = lower.isin(BLANK), lower.isin(BOOLEAN)
    infinite = pd.Series(np.isinf(numbers.to_numpy(float)), index=values.index)
    text = numbers.isna() & ~blank & ~boolean
    found = blank_problems(name, values)

    def add(mask: pd.Series, kind: str, what: str, remedy: str) -> None:
        if mask.any():
            hit = values[mask]
            found.append(Problem(kind, cell_text(name, hit, len(values), what, hit.unique(), remedy)))

    add(boolean, "dtype", "are booleans", "write numbers: .astype(float) before to_csv")
    comma = text & values.str.fullmatch(r"[+-]?\d+,\d+")
    add(comma, "dtype", "have a decimal comma", "write a decimal point")
    add(text & ~comma, "dtype", "are text where a number is expected", "write numbers")
    add(infinite, "finite", "are infinite", "look for a division by zero or an overflow in the predictions")
    if probability:
        outside = ((numbers < 0) | (numbers > 1)) & ~infinite
        add(outside, "range", "are outside [0, 1]", "write probabilities: softmax of the logits, not percentages")
    if whole:
        decimal = (numbers.notna() & ~infinite) & ~values.str.strip().str.fullmatch(INTEGER.pattern)
        add(decimal, "dtype", "are not whole numbers", "round to a grade and write it as an integer")
    return found


def as_numbers(values: pd.Series) -> pd.Series:
    """Text as float64; NaN where it is no number."""
    numbers: pd.Series = pd.to_numeric(values.where(~lower_case(values).isin(BOOLEAN)), errors="coerce").astype(float)
    return numbers


def lower_case(values: pd.Series) -> pd.Series:
    """Text without spaces around it, in lower case."""
    return values.str.strip().str.lower()


def blank_problems(name: str, values: pd.Series, rows: int | None = None) -> list[Problem]:
    """Values that are blank, or text for a missing value."""
    hit = values[lower_case(values).isin(BLANK)]
    if hit.empty:
        return []
    text = cell_text(name, hit, len(values) if rows is None else rows, "are blank or NaN", hit.index, "fill every row")
    return [Problem("blank", text)]


def cell_text(name: str, hit: pd.Series, rows: int, what: str, examples: Iterable[object], remedy: str) -> str:
    """One line about the values of a column that are hit, out of so many rows."""
    return f"{len(hit)} of {rows} values of column '{name}' {what} ({listed(examples)}); {remedy}"
