"""Weights that a fold has beside those it kept: what they predict for the rows it held out, and what they score."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.data.cache import open_cache
from pipeline.data.folds import split
from pipeline.inference.predict import TrainedRun, predict_rows, read_predictions, write_predictions
from pipeline.inference.snapshot import FINISHED
from pipeline.inference.weights import BEST
from pipeline.project import Project
from pipeline.trackers.local import METRICS_FILE
from toolkit.errors import UserError
from toolkit.files import atomic, read_json
from toolkit.terminal import table


def oof_name(weights: str) -> str:
    """The file of a fold's out-of-fold predictions by the weights of that name."""
    return "oof.parquet" if weights == "best" else f"oof.{weights}.parquet"


def predict_held_out(project: Project, run: TrainedRun, rows: pd.DataFrame, folds: Sequence[str], weights: str) -> None:
    """Predict what each of `folds` held out by its weights of that name, unless that is done or they are those it kept;
    `rows` have their `fold`. A `UserError` where a fold has none of that name."""
    files, task, config = {fold: run.files(fold, weights) for fold in folds}, run.task, run.experiment
    for fold, of_seeds in files.items():
        folder = run.folder / f"fold_{fold}"
        path, kept, finished = folder / oof_name(weights), folder / oof_name("best"), folder / FINISHED
        if kept.is_file() and read_predictions(kept).columns.empty:
            raise UserError(f"'{run.folder.name}' keeps no out-of-fold predictions (task.params.store: none)")
        if path.is_file() and path.stat().st_mtime >= finished.stat().st_mtime:
            continue
        if all(file.name == BEST for file in of_seeds):
            with atomic(path) as temporary:
                shutil.copyfile(kept, temporary)
            continue
        trains, held_out = split(rows, fold)
        reader, gallery = open_cache(project, config, run.names, held_out), task.predictions.gallery(trains, held_out)
        label, models = f"fold {fold} by {weights}", run.load(fold, weights)
        predictions = predict_rows(
            task, models, held_out, project.data, config, run.names, "valid", label, reader, gallery
        )
        write_predictions(path, task.stored(predictions, config, run.names), int(fold))


def print_weights(run: TrainedRun, folds: Sequence[str], weights: str) -> None:
    """Print what all candidates for a fold's weights scored on the rows it held out, mean over the folds, where there
    are several; `*` marks those of the name that is evaluated."""
    parts = [file.parent for fold in folds for file in run.files(fold, "best")]
    rows = [{"weights": name, **scores} for part in parts for name, scores in _measured(part)]
    by_name = pd.DataFrame(rows, columns=None if rows else ["weights"]).groupby("weights", sort=False)
    scores = by_name.mean()[by_name.size() == len(parts)].dropna(axis=1)
    lines = [("*" if name == weights else "", name, *map(float, values)) for name, *values in scores.itertuples()]
    if len(lines) > 2:  # one of them is `best`
        table("weights, as each fold ended (best: the choice of each)", ("", "weights", *scores), lines)


def _measured(part: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """The scores of a fold's candidates by name, and of `best`: by its end, or else by its best epoch, as logged."""
    record = read_json(part / FINISHED)
    for name, one in record.get("candidates", {}).items():
        scores = one.get("metrics", {})
        if not scores and (part / METRICS_FILE).is_file():
            logged, prefix = pd.read_csv(part / METRICS_FILE), "valid_raw/" if name == "raw" else "valid/"
            ends = logged[logged["epoch"] == record["best_epoch"]].iloc[-1:].dropna(axis=1)
            scores = {each: value for each in record["metrics"] for value in ends.get(prefix + each, ())}
        yield from [(each, scores) for each in ([name, "best"] if one["file"] == BEST else [name])]
