"""The submission table: the sample's columns, filled by id, written whole."""

from pathlib import Path

import pandas as pd

from pipeline.data.tables import read_table
from pipeline.errors import UserError, listed
from pipeline.files import atomic
from pipeline.kaggle.ids import compare_ids
from pipeline.keys import ROW_ID
from pipeline.project import Project
from pipeline.rules import sample_id_column
from pipeline.settings import Settings

SUBMITTED = "submission.json"  # in a run's folder: the file that was made from it
PLACEHOLDERS = 10  # a code competition's sample has at most so many rows, with ids that no test row has


def read_sample(settings: Settings, data: Path) -> pd.DataFrame:
    """The sample submission, every cell as text, exactly as it stands in the file.

    Raises:
        UserError: it is missing, empty, not a csv file in UTF-8, has one column only, or an id twice.
    """
    path = data / settings.sample_submission
    sample = read_table(path).fillna("")
    if len(sample.columns) < 2:
        raise UserError(
            f"{path.name} has the single column '{sample.columns[0]}'; an id and at least one more are needed"
        )
    ids = sample[sample_id_column(list(sample.columns), settings.id_column)]
    twice = ids[ids.duplicated()].unique()
    if len(twice):
        raise UserError(
            f"{path.name}: {len(twice)} ids of column '{ids.name}' stand more than once ({listed(twice)}); "
            "correct id_column in competition.yaml"
        )
    return sample


def expected_rows(sample: pd.DataFrame, test_rows: pd.DataFrame, id_column: str) -> pd.DataFrame:
    """The sample with the rows that a submission must have.

    That is the sample itself. Where it holds but a few placeholders that are no test ids (a code competition), the
    test rows take their place, with empty cells. Where there are no test rows at all, none are left: the sample gives
    the columns only.
    """
    id_column = sample_id_column(list(sample.columns), id_column)
    ids = test_rows[ROW_ID].astype(str)
    if ids.empty:
        return sample.iloc[:0]
    if len(sample) > min(PLACEHOLDERS, len(ids)) or sample[id_column].isin(ids).any():
        return sample
    if compare_ids(ids, sample[id_column]).damaged:  # the same rows after all, so let it be said what happened to them
        return sample
    rows = pd.DataFrame({name: ids if name == id_column else "" for name in sample.columns})
    return rows.reset_index(drop=True)


def fill(sample: pd.DataFrame, table: pd.DataFrame, test_rows: pd.DataFrame, id_column: str) -> pd.DataFrame:
    """Put the rows of `table` into the sample's order of rows and columns, by id and never by position.

    Rows that the sample does not ask for are left out. For which rows it asks: `expected_rows`.

    Raises:
        UserError: a column is missing or too many, an id stands twice, or one that is asked for is not there.
    """
    id_column = sample_id_column(list(sample.columns), id_column)
    if set(table.columns) != set(sample.columns):
        raise UserError(
            f"src/competition/submission.py returns the columns {listed(table.columns, 5)}; "
            f"the sample submission has {listed(sample.columns, 5)}"
        )
    by_id = table.set_index(table[id_column].astype(str))
    if not by_id.index.is_unique:
        twice = by_id.index[by_id.index.duplicated()].unique()
        raise UserError(
            f"the submission has {len(twice)} ids more than once ({listed(twice)}); "
            "return one row per id in src/competition/submission.py"
        )
    if test_rows.empty:  # the predicted rows are all the test rows there are
        test_rows = pd.DataFrame({ROW_ID: by_id.index})
    wanted = expected_rows(sample, test_rows, id_column)[id_column]
    difference = compare_ids(by_id.index, wanted)
    if difference.damaged:
        raise UserError(
            f"the ids of the predictions are not those of the sample submission: {difference.damage_texts()[0]}"
        )
    if difference.missing:
        raise UserError(
            f"{len(difference.missing)} of the {len(wanted)} ids of the sample submission have no prediction "
            f"({listed(difference.missing)}); predict again, or correct test_rows in src/competition/tables.py"
        )
    filled = by_id.loc[wanted, list(sample.columns)].reset_index(drop=True)
    filled[id_column] = wanted.to_numpy()
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
