"""Suspected label errors of a run: rows whose label its out-of-fold predictions speak against."""

from pathlib import Path

import pandas as pd

from pipeline.inference.predict import TrainedRun
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.rows import by_prediction
from toolkit.files import atomic
from toolkit.plots.figures import save_figure
from toolkit.plots.images import RowImages

SUSPECTS = "suspects.csv"
SUSPECT_COLUMNS = [ROW_ID, "head", "given", "suggested", "score", "fold", "probability"]
DRAWN = 16  # suspects in the picture


def write_suspects(
    run: TrainedRun, rows: pd.DataFrame, truth: pd.DataFrame, predictions: pd.DataFrame, data: Path
) -> str:
    """Write the suspected label errors into `suspects.csv` and `figures/suspects.png` of the run's folder; returns a
    line for the terminal. `rows` are labelled and have their `fold`; `truth` and `predictions` are by id."""
    rows = by_prediction(rows).set_index(ROW_ID, drop=False)
    finite = predictions.select_dtypes("number").notna().all(axis=1)
    suspects = run.task.figures.label_errors(truth[finite], predictions[finite])
    suspects["fold"] = rows[ROW_FOLD].loc[suspects[ROW_ID]].to_numpy()
    with atomic(run.folder / SUSPECTS) as path:
        suspects[SUSPECT_COLUMNS].to_csv(path, index=False, float_format="%.6g")
    picture = run.folder / "figures" / "suspects.png"
    if suspects.empty:
        picture.unlink(missing_ok=True)
        return "suspected label errors: none"
    worst, ids, names = suspects[:DRAWN], list(suspects[ROW_ID][:DRAWN]), list(suspects[ROW_ID].unique())
    dataset = run.task.dataset(rows.loc[ids].reset_index(drop=True), data, run.experiment, run.names, "valid")
    images = RowImages(dataset, range(len(ids)))
    save_figure(run.task.figures.label_errors_figure(worst, images, truth.loc[ids], predictions.loc[ids]), picture)
    labels = f"{len(suspects):,} labels in " if len(suspects) > len(names) else ""  # a row may have several
    count = f"{labels}{len(names):,} of {len(truth):,} rows"
    return f"suspected label errors, the worst first: {', '.join(names[:5])}; {count}"
