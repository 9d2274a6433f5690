"""The submission table: the sample's columns, filled by id, written whole."""

from pathlib import Path

import pandas as pd

from pipeline.data.spellings import loose_id
from pipeline.data.tables import read_table
from pipeline.settings import Settings
from pipeline.submission_schema import Keys
from toolkit.errors import UserError, listed
from toolkit.files import atomic

SUBMITTED = "submission.json"  # in a run's folder: the file that was made from it
PLACEHOLDERS = 10  # a code competition's sample has at most so many rows, with ids that no test row has


def read_sample(settings: Settings, data: Path) -> pd.DataFrame:
    """The sample submission, every cell as text, exactly as it stands in the file; a `UserError` where it is missing,
    empty, not a csv file in UTF-8, or has one column only."""
    path = data / settings.sample_submission
    sample = read_table(path).fillna("")
    if len(sample.columns) < 2:
        raise UserError(f"{path.name} has the single column '{sample.columns[0]}'; an id and one more are needed")
    return sample


def expected_rows(sample: pd.DataFrame, ids: pd.Series, keys: Keys) -> pd.DataFrame:
    """The rows that a submission must have: the sample, or where that holds but a few placeholders (a code
    competition), the rows of the ids that are predicted, with empty cells; without ids none, the sample gives columns.

    A `UserError` where two rows of the sample have the same key.
    """
    sampled = keys.texts(sample)
    twice = sampled[sampled.duplicated()].unique()
    if len(twice) and not keys.repeats:
        what = f"{len(twice)} ids of column '{' / '.join(keys.columns)}' stand more than once ({listed(twice)})"
        raise UserError(f"the sample submission: {what}; correct id_column in competition.yaml")
    if ids.empty:
        return sample.iloc[:0]
    rows = keys.expected(ids.astype(str), list(sample.columns))
    wanted = keys.texts(rows)
    if len(sample) > min(PLACEHOLDERS, len(rows)) or sampled.isin(wanted).any():
        return sample
    misspelt, _, _ = compare_ids(wanted, sampled)  # the same rows after all, so let it be said what happened to them
    return sample if misspelt else rows


def fill(expected: pd.DataFrame, table: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """Put the rows of `table` into the order of rows and columns that is expected, by key and never by position; rows
    for which nobody asks are left out.

    Raises:
        UserError: a column is missing or too many, a key stands twice, or one is not there.
    """
    if set(table.columns) != set(expected.columns):
        what = f"src/competition/submission.py returns the columns {listed(table.columns, 5)}"
        raise UserError(f"{what}; the sample submission has {listed(expected.columns, 5)}")
    by_key = table.set_index(keys.texts(table))
    if not by_key.index.is_unique and not keys.repeats:
        twice = by_key.index[by_key.index.duplicated()].unique()
        what = f"the submission has {len(twice)} ids more than once ({listed(twice)})"
        raise UserError(f"{what}; return one row per id in src/competition/submission.py")
    wanted = keys.texts(expected).drop_duplicates()
    misspelt, missing, _ = compare_ids(by_key.index.to_series(), wanted)
    if misspelt:
        raise UserError(f"the ids of the predictions are not those of the sample submission: {misspelt}")
    if missing:
        what = f"{len(missing)} of the {len(wanted)} ids of the sample submission have no prediction"
        remedy = "predict again, or correct test_rows in src/competition/tables.py"
        raise UserError(f"{what} ({listed(missing)}); {remedy}")
    return by_key.loc[wanted, list(expected.columns)].reset_index(drop=True)


def compare_ids(found: pd.Series, expected: pd.Series) -> tuple[str, list[str], list[str]]:
    """A text about ids that differ in their spelling only, ids that are missing, and those that are too many."""
    missing = dict.fromkeys(expected[~expected.isin(found)])
    extra = dict.fromkeys(found[~found.isin(expected)])
    wanted, pairs = {_loose(text): text for text in missing}, []
    for text in list(extra):
        if (other := wanted.pop(_loose(text), None)) is not None:
            pairs.append(f"{text!r} for {other!r}")
            del extra[text], missing[other]
    remedy = "write them as the sample does, read as text: dtype=str"
    spelled = f"{len(pairs)} spelled otherwise ({listed(pairs)}); {remedy}" if pairs else ""
    return spelled, list(missing), list(extra)


def _loose(key: str) -> tuple[str, ...]:
    return tuple(map(loose_id, key.split(" / ")))  # each column by itself, see `Keys.texts`


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as it will stand in the file. Floats keep nine significant digits: enough to read a float32 back
    exactly, and for a row of probabilities to sum to 1 as closely as before; NaN is an empty cell."""
    found = table.copy()
    for name, values in table.items():
        text = values.map("{:.9g}".format) if pd.api.types.is_float_dtype(values) else values.astype(str)
        found[name] = text.where(values.notna(), "").astype("str")
    return found


def write_submission(path: Path, table: pd.DataFrame) -> None:
    """Write the csv atomically, in UTF-8, with Unix line ends."""
    with atomic(path) as temporary:
        as_text(table).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
