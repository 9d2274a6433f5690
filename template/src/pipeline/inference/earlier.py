"""What earlier stages of a competition predict, as columns of a later stage's rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.folds import is_scored
from pipeline.inference.predict import FINISHED, read_predictions
from pipeline.keys import ROW_ID
from pipeline.project import Project
from toolkit.errors import UserError, listed
from toolkit.files import read_json

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT, TEST = "oof.parquet", "test.parquet"
REMEDY = {HELD_OUT: "scripts/evaluate.py", TEST: "scripts/predict.py"}


def with_earlier(project: Project, inputs: Mapping[str, str], rows: "pd.DataFrame", file: str) -> "pd.DataFrame":
    """The rows with a column `STAGE:COLUMN` for each that an experiment of an earlier stage predicts.

    Training rows get out-of-fold predictions (`HELD_OUT`), test rows those of all folds (`TEST`). Rows that are not
    scored have none.

    Raises:
        UserError: an experiment is not that far, did not predict all rows, or has a single fold, which predicts none of
            its training rows out of fold.
    """
    for stage, name in inputs.items():
        path = project.require_run(name) / file
        if file == HELD_OUT and read_json(path.with_name("run.json")).get("n_folds") == 1:
            raise UserError(
                f"stage '{stage}': '{name}' has one validation split only, so what it predicts for its training rows "
                "would leak; train both stages on folds: scripts/make_folds.py --name OTHER, and `folds: OTHER`"
            )
        if not path.is_file():
            raise UserError(f"stage '{stage}': '{name}' has no {file} yet; run {REMEDY[file]} {name}")
        found = read_predictions(path)
        missing = rows[ROW_ID][~rows[ROW_ID].isin(found.index) & is_scored(rows)]
        if len(missing):
            raise UserError(
                f"stage '{stage}': {len(missing)} rows (id {listed(missing)}) have no prediction of '{name}'; "
                f"run {_trains_more(path.parent, file)}{REMEDY[file]} {name}"
            )
        columns = found.reindex(rows[ROW_ID]).add_prefix(f"{stage}:").set_axis(rows.index, axis=0)
        rows = rows.join(columns)
    return rows


def _trains_more(run: Path, file: str) -> str:
    """The command for the folds that are missing, where it needs one before out-of-fold predictions are whole."""
    if file == TEST:
        return ""
    count = read_json(run / "run.json")["n_folds"]
    missing = [str(fold) for fold in range(count) if not (run / f"fold_{fold}" / FINISHED).is_file()]
    return f"scripts/train.py {run.name} --fold {','.join(missing)}, and then " if missing else ""


def require_same_folds(project: Project, inputs: Mapping[str, str], folds: str) -> None:
    """Raise a `UserError` where an earlier stage was trained with other folds: its predictions would leak."""
    for stage, name in inputs.items():
        if read_json(project.require_run(name) / "run.json")["folds"] != folds:
            raise UserError(
                f"stage '{stage}': '{name}' was trained with other folds, so its predictions know rows that are held "
                f"out here; train it on the same ones (scripts/train.py {name} folds=FILE --as OTHER), and name OTHER"
            )
