"""What may stand in the columns of a submission. Everything is judged as text, as the grader will read it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.errors import UserError, listed, nearest
from pipeline.rules import Problem, sample_id_column
from pipeline.tasks.image_level.submission import SUM_TO_ONE, Column, recognise

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "nat"})
BOOLEAN = frozenset({"true", "false"})
INTEGER = re.compile(r"[+-]?\d+")
TOLERANCE = 1e-5  # what graders allow a row of probabilities to miss 1 by


def submission_rules(sample: pd.DataFrame, heads: Sequence[Head], metric: Metric, id_column: str) -> "SubmissionRules":
    """The rules for this sample. With no heads, or columns of an unknown kind, they follow the sample's own values."""
    id_column = sample_id_column(list(sample.columns), id_column)
    names = [name for name in sample.columns if name != id_column]
    try:
        columns = recognise(names, heads, metric)
    except UserError:  # a format of the user's own
        columns = ()
    numeric = tuple(name for name in names if len(sample) and not _numbers(sample[name]).isna().any())
    return SubmissionRules(id_column, columns, metric, numeric)


@dataclass(frozen=True)
class SubmissionRules:
    """The rules of one competition's submission.

    Attributes:
        id_column: the sample's id column; ids are not judged here.
        columns: what each column holds; empty when that is not known.
        metric: graders of different metrics refuse different things.
        numeric: columns that hold numbers in the sample; they stand in where `columns` is empty.
    """

    id_column: str
    columns: tuple[Column, ...]
    metric: Metric
    numeric: tuple[str, ...] = ()

    def described(self) -> list[str]:
        """What each column holds."""
        return [f"{column.name}: {column}" for column in self.columns]

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the values of `table` (all text; columns may be missing)."""
        found: list[Problem] = []
        for name in [name for name in table.columns if name != self.id_column]:
            found += self._column_problems(name, table[name])
        for names in self._distributions():
            if not found and set(names) <= set(table.columns):
                found += sum_problems(table[names])
        return found

    def _column_problems(self, name: str, values: pd.Series) -> list[Problem]:
        known = {column.name: column for column in self.columns}
        if name in known and known[name].of is None:
            return label_problems(name, values, known[name].head.classes)
        probability = name in known or (not self.columns and self.metric.needs == "probabilities")
        if name in known or name in self.numeric:
            whole = not probability and self.metric.name == "quadratic_weighted_kappa"
            return number_problems(name, values, probability, whole)
        blank = values[_lower(values).isin(BLANK)]
        return [_blank(name, blank, len(values))] if len(blank) else []

    def _distributions(self) -> list[list[str]]:
        """Groups of columns whose rows must sum to 1."""
        if self.metric.name not in SUM_TO_ONE:
            return []
        groups: dict[str, list[str]] = {}
        for column in self.columns:
            if column.of is not None:
                groups.setdefault(column.head.name, []).append(column.name)
        return [names for names in groups.values() or [list(self.numeric)] if len(names) > 1]


def label_problems(name: str, values: pd.Series, classes: Sequence[str]) -> list[Problem]:
    """Values that are not exactly the name of a class, sorted by what seems to have happened to them."""
    rest = values[~values.isin(list(classes))]  # a class may well be called "none"
    blank = _lower(rest).isin(BLANK)
    found = [_blank(name, rest[blank], len(values))] if blank.any() else []
    rest = rest[~blank]

    def take(mask: pd.Series, kind: str, what: str, remedy: str) -> None:
        nonlocal rest
        hit, rest = rest[mask], rest[~mask]
        if len(hit):
            found.append(Problem(kind, _text(name, hit, len(values), what, hit.unique(), remedy)))

    folded = {text.strip().lower() for text in classes}
    whole = all(INTEGER.fullmatch(text) for text in classes)
    shown = f"write {classes[0]}, not {classes[0]}.0" if whole else "write the class names"
    integral = rest.str.fullmatch(r"[+-]?\d+\.0*") & rest.str.replace(r"\.0*$", "", regex=True).isin(list(classes))
    take(integral, "dtype", "are whole numbers written as floats", f"{shown}: .astype(int) before to_csv")
    take(_lower(rest).isin(BOOLEAN), "dtype", "are booleans", f"write the class names ({listed(classes)})")
    take(_lower(rest).isin(folded), "label", "differ from a class by case or spaces", "write the name exactly")
    if whole:
        decimal = _numbers(rest).notna() & ~rest.str.fullmatch(INTEGER.pattern)
        take(decimal, "dtype", "are not whole numbers", "decide on a class; kappa's and other graders refuse decimals")
    if len(rest):
        hint = nearest(str(rest.iloc[0]), classes) if len(classes) <= 20 else f"classes: {listed(classes)}"
        take(rest.notna(), "label", "are none of the classes", hint)
    return found


def number_problems(name: str, values: pd.Series, probability: bool, whole: bool = False) -> list[Problem]:
    """Values that are not finite numbers, not in [0, 1] where they are probabilities, not whole where they must be."""
    numbers, lower = _numbers(values), _lower(values)
    blank, boolean = lower.isin(BLANK), lower.isin(BOOLEAN)
    infinite = pd.Series(np.isinf(numbers.to_numpy(float)), index=values.index)
    text = numbers.isna() & ~blank & ~boolean
    found = [_blank(name, values[blank], len(values))] if blank.any() else []

    def add(mask: pd.Series, kind: str, what: str, remedy: str) -> None:
        if mask.any():
            hit = values[mask]
            found.append(Problem(kind, _text(name, hit, len(values), what, hit.unique(), remedy)))

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


def sum_problems(table: pd.DataFrame) -> list[Problem]:
    """Rows of probabilities that do not sum to 1; told apart: decimals that were lost, and values that never did."""
    numbers = table.apply(_numbers)
    off = (numbers.sum(axis=1) - 1).abs()
    wrong = off[off > TOLERANCE]
    if not len(wrong):
        return []
    decimals = max(_decimals(table[name]) for name in table)
    rounding = len(table.columns) * 0.5 * 10.0**-decimals + 1e-12
    if decimals < 9 and wrong.max() <= rounding:
        remedy = f"only {decimals} decimals were written, write more: to_csv(float_format='%.9g')"
    else:
        remedy = "divide each row by its sum before writing"
    count = f"{len(wrong)} of {len(table)} rows of probabilities"
    return [Problem("sum", f"{count} miss 1 by up to {wrong.max():.2g} (id {listed(wrong.index)}); {remedy}")]


def _decimals(values: pd.Series) -> int:
    """The most decimals in a column; scientific notation counts its exponent in."""
    parts = values.str.strip().str.extract(r"(?i)^[+-]?\d*\.?(\d*)(?:e([+-]?\d+))?$")
    exponents = pd.to_numeric(parts[1], errors="coerce").fillna(0)
    return int((parts[0].fillna("").str.len() - exponents).max())


def _numbers(values: pd.Series) -> pd.Series:
    """Text as float64; NaN where it is no number."""
    numbers: pd.Series = pd.to_numeric(values.where(~_lower(values).isin(BOOLEAN)), errors="coerce").astype(float)
    return numbers


def _lower(values: pd.Series) -> pd.Series:
    return values.str.strip().str.lower()


def _blank(name: str, hit: pd.Series, rows: int) -> Problem:
    return Problem("blank", _text(name, hit, rows, "are blank or NaN", hit.index, "fill every row"))


def _text(name: str, hit: pd.Series, rows: int, what: str, examples: Iterable[object], remedy: str) -> str:
    return f"{len(hit)} of {rows} values of column '{name}' {what} ({listed(examples)}); {remedy}"
