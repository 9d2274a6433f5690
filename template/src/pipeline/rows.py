"""What `tables.py` returned, as the pipeline reads it: its columns are there, and names and truth are text."""

from typing import Any

import pandas as pd

from pipeline.cells import plain_rows
from pipeline.keys import ROW_GROUP, ROW_ID, ROW_IMAGE
from pipeline.settings import Settings
from toolkit.errors import UserError, listed


def received(rows: Any, table: str, settings: Settings) -> pd.DataFrame:
    """Rows of a table with their names and truth as text.

    Raises:
        UserError: it is no table, lacks a column, or holds cells that name nothing; see `cells.plain_rows`.
    """
    if not isinstance(rows, pd.DataFrame):
        raise UserError(
            f"tables.py returned {type(rows).__name__} for the rows of {table}; return a DataFrame (is there a return?)"
        )
    _require_columns(rows, table, settings)
    return plain_rows(rows.reset_index(drop=True), table, [*settings.target_columns, *settings.side_columns])


def checked(rows: Any, table: str, settings: Settings) -> pd.DataFrame:
    """The same, each with an id of its own.

    Raises:
        UserError: an id stands twice, or see `received`.
    """
    rows = received(rows, table, settings)
    twice = rows[ROW_ID][rows[ROW_ID].duplicated()]
    if len(twice):
        raise UserError(
            f"{table}: {twice.nunique()} ids stand more than once ({listed(twice.unique())}); "
            "an id must name one row: choose another id_column in competition.yaml, or drop the copies in tables.py"
        )
    return rows


def require_groups(rows: pd.DataFrame, settings: Settings) -> None:
    """Raise a `UserError` where training rows lack the groups that competition.yaml names: folds would leak."""
    if settings.group_column and ROW_GROUP not in rows:
        raise UserError(
            f"the rows of {settings.train_csv} have no column '{ROW_GROUP}', and competition.yaml names "
            f"'{settings.group_column}' as group_column; make that column in src/competition/tables.py before its "
            "rows are made, or empty group_column"
        )


def _require_columns(rows: pd.DataFrame, table: str, settings: Settings) -> None:
    for column in (ROW_ID, ROW_IMAGE):
        if column not in rows:
            raise UserError(f"tables.py returned rows of {table} without the column '{column}'; add it")
    for column in settings.side_columns:
        if column not in rows:
            raise UserError(
                f"the rows of {table} have no side column '{column}'; add it in src/competition/tables.py, "
                "or take it out of side_columns in competition.yaml"
            )
