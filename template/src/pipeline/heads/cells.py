"""Cells of a submission, judged as text: names of classes, numbers, blanks."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.submission_schema import Problem
from toolkit.errors import UserError, listed, nearest

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "nat"})
BOOLEAN = frozenset({"true", "false"})
BOUNDED = frozenset({"roc_auc", "log_loss", "kl_divergence", "probabilistic_f1"})  # their graders refuse 1.1 and -0.1
INTEGER = re.compile(r"[+-]?\d+")


def label_problems(name: str, values: pd.Series, classes: Sequence[str]) -> list[Problem]:
    """Values that are not exactly the name of a class, sorted by what seems to have happened to them."""
    rest = values[~values.isin(list(classes))]  # a class may well be called "none"
    found = blank_problems(name, rest, len(values))
    rest = rest[~lower_case(rest).isin(BLANK)]

    def take(mask: pd.Series, kind: str, what: str, remedy: str) -> None:
        nonlocal rest
        hit, rest = rest[mask], rest[~mask]
        if len(hit):
            found.append(Problem(kind, cell_text(name, hit, len(values), what, hit.unique(), remedy)))

    folded = {text.strip().lower() for text in classes}
    whole = all(INTEGER.fullmatch(text) for text in classes)
    shown = f"write {classes[0]}, not {classes[0]}.0" if whole else "write the class names"
    integral = rest.str.fullmatch(r"[+-]?\d+\.0*") & rest.str.replace(r"\.0*$", "", regex=True).isin(list(classes))
    take(integral, "dtype", "are whole numbers written as floats", f"{shown}: .astype(int) before to_csv")
    take(lower_case(rest).isin(BOOLEAN), "dtype", "are booleans", f"write the class names ({listed(classes)})")
    take(lower_case(rest).isin(folded), "label", "differ from a class by case or spaces", "write the name exactly")
    if whole:
        decimal = as_numbers(rest).notna() & ~rest.str.fullmatch(INTEGER.pattern)
        take(decimal, "dtype", "are not whole numbers", "decide on a class; kappa's and other graders refuse decimals")
    if len(rest):
        hint = nearest(str(rest.iloc[0]), classes) if len(classes) <= 20 else f"classes: {listed(classes)}"
        take(rest.notna(), "label", "are none of the classes", hint)
    return found


def number_problems(
    name: str, values: pd.Series, probability: bool, whole: bool = False, metric: str = ""
) -> list[Problem]:
    """Values that are not finite numbers, not in [0, 1] where they are probabilities, not whole where they must be.

    Args:
        metric: that of the grader, where it is known to read this column; most take any number that ranks rows.
    """
    numbers, lower = as_numbers(values), lower_case(values)
    blank, boolean = lower.isin(BLANK), lower.isin(BOOLEAN)
    infinite = pd.Series(np.isinf(numbers.to_numpy(float)), index=values.index)
    text = numbers.isna() & ~blank & ~boolean
    found = blank_problems(name, values)

    def add(mask: pd.Series, kind: str, what: str, remedy: str, warning: bool = False) -> None:
        if mask.any():
            hit = values[mask]
            found.append(Problem(kind, cell_text(name, hit, len(values), what, hit.unique(), remedy), warning))

    add(boolean, "dtype", "are booleans", "write numbers: .astype(float) before to_csv")
    comma = text & values.str.fullmatch(r"[+-]?\d+,\d+")
    add(comma, "dtype", "have a decimal comma", "write a decimal point")
    add(text & ~comma, "dtype", "are text where a number is expected", "write numbers")
    add(infinite, "finite", "are infinite", "look for a division by zero or an overflow in the predictions")
    if probability:
        outside = ((numbers < 0) | (numbers > 1)) & ~infinite
        remedy = "write probabilities, not logits or percentages"
        add(outside, "range", "are outside [0, 1]", remedy, warning=metric not in BOUNDED)
    if whole:
        decimal = (numbers.notna() & ~infinite) & ~values.str.strip().str.fullmatch(INTEGER.pattern)
        add(decimal, "dtype", "are not whole numbers", "round to a grade and write it as an integer")
    return found


def list_problems(
    name: str,
    values: pd.Series,
    labels: Collection[str],
    most: int | None = None,
    divided: Callable[[str], list[str]] = str.split,
    form: str = "divided by spaces",
) -> list[Problem]:
    """Cells that list no label, one that is none of `labels`, one twice, or more than `most`.

    Args:
        divided: reads the labels of a cell.
        form: how they are to be written, in words.
    """
    found = blank_problems(name, values)
    words = values[~lower_case(values).isin(BLANK - set(labels))].map(divided)

    def add(hit: pd.Series, what: str, remedy: str, examples: Iterable[object] | None = None) -> None:
        if len(hit):
            cells = values[hit.index]
            shown = cells if examples is None else examples
            found.append(Problem("label", cell_text(name, cells, len(values), what, shown, remedy)))

    unknown = words.map(lambda row: next((word for word in row if word not in labels), None)).dropna()
    if len(unknown):
        hint = nearest(str(unknown.iloc[0]), list(labels))
        add(
            unknown,
            "hold what is no label",
            f"write the labels exactly, {form}; {hint}",
            unknown.unique(),
        )
    add(words[words.map(lambda row: len(set(row)) < len(row))], "name a label twice", "name it once")
    if most is not None:
        add(words[words.map(len) > most], f"hold more than {most} labels", "write the best ones, best first")
    return found


def listable(head: Head) -> None:
    """Raise a `UserError` where a class cannot stand in a list that spaces divide."""
    spaced = next((name for name in head.classes if name.split() != [name]), None)
    if spaced is not None:
        raise UserError(
            f"the label '{spaced}' of '{head.name}' holds a space, and a cell lists labels by spaces; "
            "build the column in src/competition/submission.py"
        )


def most_listed(metric: Metric) -> int:
    """How many labels a cell may list for this metric: 5 for `map_at_5`, else one."""
    found = re.search(r"_at_(\d+)$", metric.name)
    return int(found.group(1)) if found else 1


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
