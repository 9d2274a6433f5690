"""The check of a submission: the file, its columns, its ids and their order; the task's rules judge the values.

What is refused here is what graders refuse, or score as zero without a word. What they take and is only unusual is a
warning.
"""

import codecs
import io
from pathlib import Path

import pandas as pd

from pipeline.submission.build import as_text, compare_ids
from pipeline.submission_schema import Keys, Problem, Rules
from toolkit.errors import UserError, listed, nearest

UNREADABLE = "unreadable"  # the kind of problem after which nothing else can be checked
OTHERS = {  # how files begin that are no text
    b"PK": "a zip archive or a workbook; check the csv in it, or save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed by gzip; check the csv in it: gunzip",
    b"PAR1": "a table in parquet; write it with to_csv",
    b"\xd0\xcf\x11\xe0": "an old workbook; save the sheet as CSV UTF-8",
}


def check(source: Path | pd.DataFrame, expected: pd.DataFrame, rules: Rules) -> list[Problem]:
    """Everything that is wrong with a submission: a csv file, or the table that is about to be written.

    `expected` is what `expected_rows` gives, all text; with no rows, the columns alone are compared.
    """
    problems: list[Problem] = []
    table = read_submission(source, expected, problems) if isinstance(source, Path) else as_text(source)
    if table is None:
        return problems
    problems += column_problems(list(table.columns), list(expected.columns))
    table = table.loc[:, ~table.columns.duplicated()]
    if len(expected) and table.empty:
        return [*problems, Problem("ids", f"there is a header and no row; {len(expected)} rows are expected")]
    if rules.id_column in table:
        table = table.set_index(rules.id_column, drop=False)
        problems += key_problems(table, expected, rules.keys)
    return problems + rules.problems(table[[name for name in table.columns if name in expected.columns]])


def read_submission(path: Path, expected: pd.DataFrame, found: list[Problem]) -> pd.DataFrame | None:
    """The file as a table of text; what is wrong with the file itself is added to `found`. None when it is no table."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of the csv to check")
    raw = path.read_bytes()
    if other := next((what for start, what in OTHERS.items() if raw.startswith(start)), ""):
        found.append(Problem(UNREADABLE, f"it is {other}"))
        return None
    if raw.startswith(codecs.BOM_UTF8):
        what = "it starts with a byte order mark, which most graders skip; write it with encoding='utf-8'"
        found.append(Problem("file", what, warning=True))
    try:
        text = raw.decode("utf-8-sig")
        line = text.strip().partition("\n")[0]
        separator = "," if "," in line else next((mark for mark in ";\t|" if mark in line), ",")
        # Without `header`, because pandas would rename a column that stands twice and make an index of a spare one.
        cells = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False)
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        fault = f"line {number} is not text in UTF-8; write it with encoding='utf-8'"
    except pd.errors.EmptyDataError:
        fault = f"it is empty; {len(expected) + 1} lines are expected"
    except pd.errors.ParserError as error:
        what = str(error).rpartition("C error: ")[2].strip()
        fault = f"the rows have different numbers of cells ({what}); quote commas"
        fault = f"a quotation mark is not closed ({what}); close it" if "EOF inside string" in what else fault
    else:
        if separator != ",":
            mark = "a tab" if separator == "\t" else f"'{separator}'"
            found.append(Problem("file", f"cells are separated by {mark}; write commas: to_csv(sep=',')"))
        header = pd.Series(cells.iloc[0], dtype=str)
        is_known = header.str.strip().str.lower().isin(expected.columns.str.strip().str.lower()).any()
        if is_known or not (
            expected.isin(list(header)).to_numpy().any() or pd.to_numeric(header, errors="coerce").notna().any()
        ):
            return cells.iloc[1:].reset_index(drop=True).set_axis(list(header), axis=1)
        fault = f"the header is missing: the first line is '{listed(header)}'; it should be '{listed(expected)}'"
    found.append(Problem(UNREADABLE, fault))
    return None


def column_problems(found: list[str], expected: list[str]) -> list[Problem]:
    """Columns that are missing, too many, twice, or in another order than in the sample."""
    texts = []
    if found and found[0] in ("", "Unnamed: 0") and found[0] not in expected:
        what = f"'{found[0]}'" if found[0] else "without a name"
        texts.append(f"the first column {what} is the DataFrame's index; write index=False")
        found = found[1:]
    twice = sorted({name for name in found if found.count(name) > 1})
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if twice:
        texts.append(f"{len(twice)} twice ({listed(twice)}); keep one of each")
    if missing:
        hint = f"'{missing[0]}': {nearest(missing[0], extra)}" if extra else f"the sample has {listed(expected, 5)}"
        texts.append(f"{len(missing)} missing ({listed(map(repr, missing))}); {hint}")
    if extra:
        texts.append(f"{len(extra)} not in the sample ({listed(map(repr, extra))}); leave them out")
    if not texts and found != expected:
        order = f"their order is {listed(found, 5)}; the sample's is {listed(expected, 5)}"
        return [Problem("columns", f"{order}; most graders go by their names: reorder them", warning=True)]
    return [Problem("columns", text) for text in texts]


def key_problems(found: pd.DataFrame, expected: pd.DataFrame, keys: Keys) -> list[Problem]:
    """What is wrong with what names the rows. Where that takes more than an id, the ids come first."""
    if not set(keys.columns) <= set(found.columns):
        return []
    if keys.repeats or len(keys.columns) > 1:
        problems = id_problems(*(table[keys.columns[0]].drop_duplicates() for table in (found, expected)))
        if keys.repeats or any(not problem.warning for problem in problems):
            return problems
    return id_problems(keys.texts(found), keys.texts(expected))


def id_problems(found: pd.Series, expected: pd.Series) -> list[Problem]:
    """Ids that are misspelt, missing, too many, twice or blank; a warning when only their order differs. With nothing
    expected (no local test rows), only blank ones and duplicates are found."""
    blank, twice = found.str.strip() == "", found[found.duplicated()].unique()
    texts = [f"{blank.sum()} blank; every row needs one"] if blank.any() else []
    if len(twice):
        texts.append(f"{len(twice)} more than once ({listed(twice)}); write one row per id")
    if len(expected):
        misspelt, missing, extra = compare_ids(found[~blank], expected)
        if misspelt:
            texts.append(misspelt)
        if missing:
            what = f"{len(missing)} of {len(expected)} missing ({listed(missing)})"
            texts.append(f"{what}; every id of the sample needs a row")
        if extra:
            texts.append(f"{len(extra)} not in the sample ({listed(extra)}); leave these rows out")
        if not texts and (other := found.to_numpy() != expected.to_numpy()).any():
            text = f"the rows differ from the sample's order from row {other.argmax() + 1} on"
            return [Problem("order", f"{text}; some graders align by position: sort them", warning=True)]
    return [Problem("ids", text) for text in texts]
