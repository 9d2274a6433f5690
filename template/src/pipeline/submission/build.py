"""The submission table: the sample's columns, filled by id, written whole."""

from pathlib import Path

import pandas as pd

from pipeline.data.tables import read_table
from pipeline.keys import ROW_ID
from pipeline.project import Project
from pipeline.settings import Settings
from pipeline.submission.ids import compare_ids
from pipeline.submission_schema import Keys
from toolkit.errors import UserError, listed
from toolkit.files import atomic

SUBMITTED = "submission.json"  # in a run's folder: the file that was made from it
PLACEHOLDERS = 10  # a code competition's sample has at most so many rows, with ids that no test row has


def read_sample(settings: Settings, data: Path) -> pd.DataFrame:
    """The sample submission, every cell as text, exactly as it stands in the file.

    Raises:
        UserError: it is missing, empty, not a csv file in UTF-8, or has one column only.
    """
    path = data / settings.sample_submission
    sample = read_table(path).fillna("")
    if len(sample.columns) < 2:
        raise UserError(
            f"{path.name} has the single column '{sample.columns[0]}'; an id and at least one more are needed"
        )
    return sample


def require_keys(sample: pd.DataFrame, keys: Keys, name: str) -> None:
    """Raise a `UserError` where two rows of the sample have the same key."""
    texts = keys.texts(sample)
    twice = texts[texts.duplicated()].unique()
    if len(twice) and not keys.repeats:
        raise UserError(
            f"{name}: {len(twice)} ids of column '{' / '.join(keys.columns)}' stand more than once ({listed(twice)}); "
            "correct id_column in competition.yaml"
        )


def expected_rows(sample: pd.DataFrame, test_rows: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """The sample with the rows that a submission must have.

    That is the sample itself. Where it holds but a few placeholders that are no test ids (a code competition), the
    test rows take their place, with empty cells. Where there are no test rows at all, none are left: the sample gives
    the columns only.
    """
    return _asked(sample, keys.expected(test_rows[ROW_ID].astype(str), list(sample.columns)), keys)


def _asked(sample: pd.DataFrame, rows: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """The sample, or these rows where it holds but placeholders."""
    if rows.empty:
        return sample.iloc[:0]
    wanted, sampled = keys.texts(rows), keys.texts(sample)
    if len(sample) > min(PLACEHOLDERS, len(rows)) or sampled.isin(wanted).any():
        return sample
    if compare_ids(wanted, sampled).damaged:  # the same rows after all, so let it be said what happened to them
        return sample
    return rows


def fill(sample: pd.DataFrame, table: pd.DataFrame, test_rows: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """Put the rows of `table` into the sample's order of rows and columns, by key and never by position.

    Rows that the sample does not ask for are left out. For which rows it asks: `expected_rows`.

    Raises:
        UserError: a column is missing or too many, a key stands twice, or one that is asked for is not there.
    """
    if set(table.columns) != set(sample.columns):
        raise UserError(
            f"src/competition/submission.py returns the columns {listed(table.columns, 5)}; "
            f"the sample submission has {listed(sample.columns, 5)}"
        )
    by_key = table.set_index(keys.texts(table))
    if not by_key.index.is_unique and not keys.repeats:
        twice = by_key.index[by_key.index.duplicated()].unique()
        raise UserError(
            f"the submission has {len(twice)} ids more than once ({listed(twice)}); "
            "return one row per id in src/competition/submission.py"
        )
    if test_rows.empty:  # the predicted rows are all the test rows there are
        rows = table[list(keys.columns)].astype(str).reindex(columns=list(sample.columns), fill_value="")
    else:
        rows = keys.expected(test_rows[ROW_ID].astype(str), list(sample.columns))
    asked = _asked(sample, rows, keys)
    wanted = keys.texts(asked).drop_duplicates()
    difference = compare_ids(by_key.index, wanted)
    if difference.damaged:
        raise UserError(
            f"the ids of the predictions are not those of the sample submission: {difference.damage_texts()[0]}"
        )
    if difference.missing:
        raise UserError(
            f"{len(difference.missing)} of the {len(wanted)} ids of the sample submission have no prediction "
            f"({listed(difference.missing)}); predict again, or correct test_rows in src/competition/tables.py"
        )
    filled = by_key.loc[wanted, list(sample.columns)].reset_index(drop=True)
    if not keys.repeats:
        filled[list(keys.columns)] = asked.loc[wanted.index, list(keys.columns)].to_numpy()
    return filled


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as it will stand in the file. Floats keep nine significant digits: enough to read a float32 back
    exactly, and for a row of probabilities to sum to 1 as closely as before; NaN is an empty cell."""
    return table.apply(_column_text)


def _column_text(values: pd.Series) -> pd.Series:
    text = values.map("{:.9g}".format) if pd.api.types.is_float_dtype(values) else values.astype(str)
    return text.where(values.notna(), "").astype("str")


def write_submission(project: Project, name: str, table: pd.DataFrame) -> Path:
    """Write `submissions/<name>.csv` atomically, in UTF-8, with Unix line ends; returns its path."""
    path = project.submissions / f"{name}.csv"
    with atomic(path) as temporary:
        as_text(table).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    return path
