"""The check of a submission: the file, its columns, its ids and their order; the task's rules judge the values.

What is refused here is what graders refuse, or score as zero without a word. What they take and is only unusual is a
warning.
"""

import codecs
import io
from pathlib import Path

import pandas as pd

from pipeline.submission.build import as_text
from pipeline.submission.ids import compare_ids
from pipeline.submission_schema import Keys, Problem, Rules
from toolkit.errors import UserError, listed, nearest

UNREADABLE = "unreadable"  # the kind of problem after which nothing else can be checked
STRAY_INDEX = ("", "Unnamed: 0")  # what a DataFrame's index is called when it was written along


def check(source: Path | pd.DataFrame, sample: pd.DataFrame, rules: Rules) -> list[Problem]:
    """Everything that is wrong with a submission, made here or elsewhere.

    Args:
        source: a csv file, or the table that is about to be written.
        sample: the sample with the rows that are expected (`pipeline.submission.build.expected_rows`), all text. With
            no rows, the columns alone are compared.
        rules: which column is the id, and what may stand in the others.

    Raises:
        UserError: there is no such file.
    """
    if isinstance(source, Path):
        table, problems = read_submission(source, sample)
        if table is None:
            return problems
    else:
        table, problems = as_text(source), []
    problems += column_problems(list(table.columns), list(sample.columns))
    table = table.loc[:, ~table.columns.duplicated()]
    if len(sample) and not len(table):
        return [*problems, Problem("ids", f"there is a header and no row; {len(sample)} rows are expected")]
    if rules.id_column in table:
        table = table.set_index(rules.id_column, drop=False)
        problems += key_problems(table, sample, rules.keys)
    return problems + rules.problems(table[[name for name in table.columns if name in sample.columns]])


def read_submission(path: Path, sample: pd.DataFrame) -> tuple[pd.DataFrame | None, list[Problem]]:
    """The file as a table of text, and what is wrong with the file itself. No table when it cannot be read as one."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of the csv to check")
    raw = path.read_bytes()
    found: list[Problem] = []
    if raw.startswith(codecs.BOM_UTF8):
        what = "it starts with a byte order mark, which most graders skip; write it with encoding='utf-8'"
        found.append(Problem("file", what, warning=True))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return None, [Problem(UNREADABLE, f"line {line} is not text in UTF-8; write it with encoding='utf-8'")]
    if not text.strip():
        return None, [*found, Problem(UNREADABLE, f"it is empty; {len(sample) + 1} lines are expected")]
    separator = _separator(text.splitlines()[0])
    if separator != ",":
        shown = "a tab" if separator == "\t" else f"'{separator}'"
        found.append(Problem("file", f"cells are separated by {shown}; write commas: to_csv(sep=',')"))
    try:
        # Without `header`, because pandas would rename a column that stands twice and make an index of a spare one.
        cells = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False)
    except pd.errors.ParserError as error:
        what = str(error).partition("C error: ")[2].strip() or str(error).strip()
        return None, [*found, Problem(UNREADABLE, f"the rows have different numbers of cells ({what}); quote commas")]
    header = [str(name) for name in cells.iloc[0]]
    if _is_data(header, sample):
        what = f"the header is missing: the first line is '{listed(header)}'; it should be '{listed(sample)}'"
        return None, [*found, Problem(UNREADABLE, what)]
    table = cells.iloc[1:].fillna("").reset_index(drop=True)
    table.columns = pd.Index(header)
    return table, found


def _separator(line: str) -> str:
    """The comma, unless the header has none and another usual separator."""
    return "," if "," in line else next((mark for mark in ";\t|" if mark in line), ",")


def _is_data(header: list[str], sample: pd.DataFrame) -> bool:
    """Whether the first line is a row: it names no column of the sample, and holds an id or a number."""
    folded = {name.strip().lower() for name in sample.columns}
    if folded & {cell.strip().lower() for cell in header}:
        return False
    ids = set(sample.to_numpy(str).ravel().tolist()) if len(sample) else set()
    return any(cell in ids for cell in header) or bool(pd.to_numeric(pd.Series(header), errors="coerce").notna().any())


def column_problems(found: list[str], expected: list[str]) -> list[Problem]:
    """Columns that are missing, too many, twice, or in another order than in the sample."""
    problems = []
    if found and found[0] in STRAY_INDEX and found[0] not in expected:
        shown = f"'{found[0]}'" if found[0] else "without a name"
        problems.append(Problem("columns", f"the first column {shown} is the DataFrame's index; write index=False"))
        found = found[1:]
    twice = sorted({name for name in found if found.count(name) > 1})
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if twice:
        problems.append(Problem("columns", f"{len(twice)} twice ({listed(twice)}); keep one of each"))
    if missing:
        hint = f"{nearest(missing[0], extra)}" if extra else "add them"
        hint = f"'{missing[0]}': {hint}" if hint.startswith("did you") else "the sample has " + listed(expected, 5)
        problems.append(Problem("columns", f"{len(missing)} missing ({listed(map(repr, missing))}); {hint}"))
    if extra:
        problems.append(
            Problem("columns", f"{len(extra)} not in the sample ({listed(map(repr, extra))}); leave them out")
        )
    if not problems and found != expected:
        order = f"their order is {listed(found, 5)}; the sample's is {listed(expected, 5)}"
        problems.append(Problem("columns", f"{order}; most graders go by their names: reorder them", warning=True))
    return problems


def key_problems(found: pd.DataFrame, expected: pd.DataFrame, keys: Keys) -> list[Problem]:
    """What is wrong with what names the rows. Where that takes more than an id, the ids come first."""
    if not set(keys.columns) <= set(found.columns):
        return []
    names, wanted = (list(table[keys.columns[0]]) for table in (found, expected))
    if keys.repeats:
        return id_problems(list(dict.fromkeys(names)), list(dict.fromkeys(wanted)))
    if len(keys.columns) > 1:
        problems = id_problems(list(dict.fromkeys(names)), list(dict.fromkeys(wanted)))
        if any(not problem.warning for problem in problems):
            return problems
    return id_problems(keys.texts(found).tolist(), keys.texts(expected).tolist())


def id_problems(found: list[str], expected: list[str]) -> list[Problem]:
    """Ids that are damaged, missing, too many, twice or blank; a warning when only their order differs.

    With nothing expected (no local test rows), only blank ones and duplicates are found.
    """
    problems = []
    blank = sum(not text.strip() for text in found)
    if blank:
        problems.append(Problem("ids", f"{blank} blank; every row needs one"))
    seen: set[str] = set()
    twice = list(dict.fromkeys(text for text in found if text in seen or seen.add(text)))  # type: ignore[func-returns-value]
    if twice:
        problems.append(Problem("ids", f"{len(twice)} more than once ({listed(twice)}); write one row per id"))
    if not expected:
        return problems
    difference = compare_ids((text for text in found if text.strip()), expected)
    problems += [Problem("ids", text) for text in difference.damage_texts()]
    if difference.missing:
        what = f"{len(difference.missing)} of {len(expected)} missing ({listed(difference.missing)})"
        problems.append(Problem("ids", f"{what}; every id of the sample needs a row"))
    if difference.extra:
        what = f"{len(difference.extra)} not in the sample ({listed(difference.extra)})"
        problems.append(Problem("ids", f"{what}; leave these rows out"))
    if not problems and found != expected:
        first = next(row for row, (one, other) in enumerate(zip(found, expected, strict=True), 1) if one != other)
        text = f"the rows differ from the sample's order from row {first} on; some graders align by position: sort them"
        problems.append(Problem("order", text, warning=True))
    return problems
