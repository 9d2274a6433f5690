"""Cells of a submission, judged as text: names of classes, numbers, blanks."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

import pandas as pd

from pipeline.competition import Head
from pipeline.submission_schema import Problem, is_blank
from toolkit.errors import UserError, listed, nearest

BOOLEAN = frozenset({"true", "false"})
BOUNDED = frozenset({"roc_auc", "log_loss", "kl_divergence", "probabilistic_f1"})  # their graders refuse 1.1 and -0.1
INTEGER = r"[+-]?\d+"


# (kind, which cells, bool (N,), what they are, and the remedy, which may be a function of the first of them)
Check = tuple[str, pd.Series, str, str | Callable[[str], str]]


def judge(name: str, values: pd.Series, *checks: Check, warning: str = "") -> list[Problem]:
    """The problem of each check that finds cells among the values (text, (N,)); a cell counts for the first check, and
    problems of the kind `warning` are no more than that."""
    found, rest = [], pd.Series(True, index=values.index)
    for kind, mask, what, remedy in checks:
        hit, rest = values[mask.astype(bool) & rest], rest & ~mask.astype(bool)
        if len(hit):
            remedy = remedy if isinstance(remedy, str) else remedy(str(hit.iloc[0]))
            text = cell_text(name, hit, len(values), what, hit.index if kind == "blank" else hit.unique(), remedy)
            found.append(Problem(kind, text, warning=kind == warning))
    return found


def blank(values: pd.Series, labels: Collection[str] = ()) -> Check:
    """Finds values that are blank, or text for a missing value, and no labels."""
    mask = is_blank(values) & ~values.isin(list(labels))  # a class may well be called "none"
    return "blank", mask, "are blank or NaN", "fill every row"


def label_problems(name: str, values: pd.Series, classes: Sequence[str]) -> list[Problem]:
    """Values that are not exactly the name of a class, sorted by what seems to have happened to them."""
    known, lower = values.isin(list(classes)), lower_case(values)
    whole = all(re.fullmatch(INTEGER, text) for text in classes)
    exact = f"write {classes[0]}, not {classes[0]}.0" if whole else "write the class names"
    point = values.str.fullmatch(INTEGER + r"\.0*") & values.str.replace(r"\.0*$", "", regex=True).isin(list(classes))
    folded = lower.isin({text.strip().lower() for text in classes})
    decimal = as_numbers(values).notna() & ~values.str.fullmatch(INTEGER) & whole
    return judge(
        name,
        values,
        blank(values, classes),
        ("dtype", point & ~known, "are whole numbers written as floats", f"{exact}: .astype(int) before to_csv"),
        ("dtype", lower.isin(BOOLEAN) & ~known, "are booleans", f"write the class names ({listed(classes)})"),
        ("label", folded & ~known, "differ from a class by case or spaces", "write the name exactly"),
        ("dtype", decimal & ~known, "are not whole numbers", "decide on a class; kappa's and others refuse decimals"),
        ("label", ~known, "are none of the classes", lambda first: nearest(first, classes)),
    )


def number_problems(name: str, values: pd.Series, probability: bool, metric: str = "") -> list[Problem]:
    """Values that are not finite numbers, or not in [0, 1] where they are probabilities; `metric` is the grader's, and
    most take any number that ranks rows."""
    numbers, lower = as_numbers(values), lower_case(values)
    infinite, comma = numbers.abs() == float("inf"), values.str.fullmatch(r"[+-]?\d+,\d+")
    outside = ~numbers.between(0, 1) & probability
    return judge(
        name,
        values,
        blank(values),
        ("dtype", lower.isin(BOOLEAN), "are booleans", "write numbers: .astype(float) before to_csv"),
        ("dtype", comma, "have a decimal comma", "write a decimal point"),
        ("dtype", numbers.isna(), "are text where a number is expected", "write numbers"),
        ("finite", infinite, "are infinite", "look for a division by zero or an overflow in the predictions"),
        ("range", outside, "are outside [0, 1]", "write probabilities, not logits or percentages"),
        warning="" if metric in BOUNDED else "range",
    )


def list_problems(
    name: str,
    values: pd.Series,
    labels: Collection[str],
    most: int | None = None,
    divided: Callable[[str], list[str]] = str.split,
    form: str = "divided by spaces",
) -> list[Problem]:
    """Cells that list no label, one that is none of `labels`, one twice, or more than `most`; `divided` reads a cell,
    and `form` says how it is to be written."""
    words, known = values.map(divided), frozenset(labels)  # there may be thousands
    strange = words.map(lambda row: next((word for word in row if word not in known), "")).astype("str")
    twice = words.map(lambda row: len(set(row)) < len(row))
    too_many = words.map(lambda row: most is not None and len(row) > most)
    exact = f"write labels exactly, {form}; "
    return judge(
        name,
        values.where(strange == "", strange),
        blank(values, labels),
        ("label", strange != "", "hold what is no label", lambda it: exact + nearest(it, labels)),
        ("label", twice, "name a label twice", "name it once"),
        ("label", too_many, f"hold more than {most} labels", "write the best ones, best first"),
    )


def listable(head: Head) -> None:
    """Raise a `UserError` where a class cannot stand in a list that spaces divide."""
    spaced = next((name for name in head.classes if name.split() != [name]), None)
    if spaced is not None:
        raise UserError(
            f"the label '{spaced}' of '{head.name}' holds a space, and a cell lists labels by spaces; "
            "build the column in src/competition/submission.py"
        )


def as_numbers(values: pd.Series) -> pd.Series:
    """Text as float64; NaN where it is no number."""
    numbers: pd.Series = pd.to_numeric(values.where(~lower_case(values).isin(BOOLEAN)), errors="coerce").astype(float)
    return numbers


def lower_case(values: pd.Series) -> pd.Series:
    """Text without spaces around it, in lower case."""
    return values.str.strip().str.lower()


def cell_text(name: str, hit: pd.Series, rows: int, what: str, examples: Iterable[object], remedy: str) -> str:
    """One line about the values of a column that are hit, out of so many rows."""
    return f"{len(hit)} of {rows} values of column '{name}' {what} ({listed(examples)}); {remedy}"
