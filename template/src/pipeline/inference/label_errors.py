"""Suspected label errors: what out-of-fold predictions speak against, as a table and a picture."""

from pathlib import Path

import pandas as pd

from pipeline.inference.predict import TrainedRun
from pipeline.keys import ROW_ID
from pipeline.prediction_ids import by_prediction
from toolkit.files import atomic
from toolkit.plots.figures import save_figure
from toolkit.plots.images import RowImages

FILE = "suspects.csv"
COLUMNS = [ROW_ID, "head", "given", "suggested", "score", "fold", "probability"]
DRAWN, FIRST = 16, 5


def write_suspects(
    run: TrainedRun, rows: pd.DataFrame, truth: pd.DataFrame, predictions: pd.DataFrame, data: Path
) -> str:
    """Write `suspects.csv` and `figures/suspects.png` into the run's folder; returns a line for the terminal.

    Args:
        rows: labelled rows with their `fold`.
        truth, predictions: out of fold, indexed by id, in the same order.
    """
    rows = by_prediction(rows).set_index(ROW_ID, drop=False)
    finite = predictions.select_dtypes("number").notna().all(axis=1)
    found = run.task.figures.label_errors(truth[finite], predictions[finite])
    found["fold"] = rows["fold"].loc[found[ROW_ID]].to_numpy()
    with atomic(run.folder / FILE) as path:
        found[COLUMNS].to_csv(path, index=False, float_format="%.6g")
    picture = run.folder / "figures" / "suspects.png"
    if found.empty:
        picture.unlink(missing_ok=True)
        return "suspected label errors: none"
    worst, suspected = found[:DRAWN], list(dict.fromkeys(found[ROW_ID]))
    ids = list(worst[ROW_ID])
    dataset = run.task.dataset(rows.loc[ids].reset_index(drop=True), data, run.experiment, run.names, "valid")
    images = RowImages(dataset, range(len(ids)))
    save_figure(run.task.figures.label_errors_figure(worst, images, truth.loc[ids], predictions.loc[ids]), picture)
    labels = f"{len(found):,} labels in " if len(found) > len(suspected) else ""  # a row may have several
    count = f"{labels}{len(suspected):,} of {len(truth):,} rows"
    return f"suspected label errors, the worst first: {', '.join(suspected[:FIRST])}; {count}"
