"""What `scripts/predict.py` does, test rows by all models and views of a run, and what views gain out of fold."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Metric, metric_values
from pipeline.data.folds import split
from pipeline.inference.device import choose_device, choose_precision, deterministic
from pipeline.inference.evaluation import labelled_rows, over
from pipeline.inference.predict import (
    TEST,
    Tables,
    TrainedRun,
    Which,
    predict_each,
    read_predictions,
    with_earlier,
    write_predictions,
)
from pipeline.inference.thresholds import note_scored, task_of_run
from pipeline.inference.tta import views_of
from pipeline.inference.weights import stored_checksum
from pipeline.keys import ROW_ID
from pipeline.project import Project
from toolkit.distributed import ALONE, Processes
from toolkit.errors import Interrupted, UserError, listed
from toolkit.files import atomic, digest, read_json, read_yaml, remove_parts, write_json
from toolkit.signals import LeaveOnSignal
from toolkit.terminal import table

TEST_PARTS = "test_parts.parquet"  # in a run's folder
PREDICTING, MADE_BY = "predicting", "made_by.json"  # the folder there while test rows are predicted, and what is in it
MEAN: Which = (-1, -1)  # of all models and views
USUAL = ("hflip", "vflip", "rot90", "rot180", "rot270")


def predict_run(
    project: Project,
    competition: Competition,
    folder: Path,
    data: Path,
    fold: str | None,
    machine: Mapping[str, object],
    tta: Sequence[str] | None = None,
    each: bool = False,
    processes: Processes = ALONE,
    signals: LeaveOnSignal | None = None,
    weights: str = "best",
) -> None:
    """Predict the test rows with a run's folds (`TrainedRun.choose_folds`) and views; writes `test.parquet` into its
    folder, and with `each` what each fold, seed and view predicts into `test_parts.parquet`.

    Args:
        tta: views in place of the experiment's.
        processes: those that share the rows; the main one writes.
        signals: leaves, once what is predicted is saved, by `Interrupted`.
        weights: those of each fold by name (`weights_file`).
    """
    run, began = TrainedRun.open(folder, competition, dict(machine), tta), time.monotonic()
    folds, task, experiment, names = run.choose_folds(fold), run.task, run.experiment, run.names
    views, seeds, parts = (
        ["image", *views_of(experiment, names, task.predictions.logits())],
        experiment.seeds,
        folder / PREDICTING,
    )
    files = [file for name in folds for file in run.files(name, weights)]
    note_scored(folder, weights)
    with deterministic(experiment.machine.deterministic):
        rows, gallery = test_rows(project, run, data)
        done = processes.from_main(partial(open_parts, parts, basis(run, folds, files, each, rows, gallery)))
        if done:
            print(f"going on: {len(done)} of {len(rows)} rows of '{folder.name}' are predicted already")
        todo = rows[~rows[ROW_ID].isin(done)]
        mine = todo.iloc[list(processes.share(range(len(todo))))].reset_index(drop=True)
        label = f"{folder.name}: {len(folds) * seeds} models, {len(views)} views"
        models = (model for name in folds for model in run.load(name, weights))
        arguments = data, experiment, names, "test", label, None, gallery, each
        passes = iter(()) if mine.empty else predict_each(task, models, mine, *arguments)
        aggregate = task.aggregator(experiment, names)
        save_parts(parts, passes, task.predictions.average, len(mine), each, signals)
        if processes.size > 1:
            processes.gather(None)  # all are done
        if processes.rank:
            return
        tables = [read_predictions(path) for path in parts.glob("*.parquet")]
        by_model = pd.concat(tables).groupby(["model", "view"]) if tables else [(MEAN, task.predictions.empty())]
        own = {which: one.drop(columns=["model", "view"], errors="ignore") for which, one in by_model}
        found: dict[Any, pd.DataFrame] = {which: one[~one.index.duplicated()] for which, one in own.items()}
        if len(found[MEAN]) != len(rows):
            raise UserError(f"parts of {project.shown(parts)} are gone; does another predict.py run? Run this again")
        found = {which: aggregate(rows, table.loc[rows[ROW_ID]]) for which, table in found.items()}
        predictions = found.pop(MEAN)
        write_predictions(folder / TEST, predictions, folds=folds)
        (folder / TEST_PARTS).unlink(missing_ok=True)
        if found:
            named = [
                table.assign(fold=folds[model // seeds], seed=experiment.seed + model % seeds, view=views[view])
                for (model, view), table in found.items()
            ]
            write_predictions(folder / TEST_PARTS, pd.concat(named), folds=folds)
    shutil.rmtree(parts)
    said = f"{len(predictions)} rows with folds {', '.join(folds)}" + (f", {seeds} seeds each" if seeds > 1 else "")
    said += f", on {', '.join(views)}" if len(views) > 1 else ""
    print(f"{said}: {project.shown(folder / TEST)} ({time.monotonic() - began:.1f} s)")


def test_rows(project: Project, run: TrainedRun, data: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The test rows, and the rows among which their images are looked up, if any."""
    competition, predictions = run.task.competition, run.task.predictions
    rows = with_earlier(project, run.experiment.inputs, competition.test_rows(data), TEST)
    if rows.empty:
        print("note: there are no test rows here; the table will hold the columns only")
    # What needs no training rows predicts where there are none.
    looked_up = predictions.has_gallery and not rows.empty
    return rows, predictions.gallery(competition.train_rows(data)) if looked_up else None


def basis(
    run: TrainedRun,
    folds: Sequence[str],
    files: Sequence[Path],
    each: bool,
    rows: pd.DataFrame,
    gallery: pd.DataFrame | None,
) -> dict[str, Any]:
    """What predictions follow from, as JSON: they go on only where all of it is the same."""
    config = run.experiment
    tables = (table.astype(str) for table in (rows, gallery) if table is not None)
    hashes = (digest(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()) for table in tables)
    return {
        "views": config.model_dump(mode="json", include={"tta"}),
        "settings": [config.model_dump(mode="json", exclude={"tta", "machine"}), list(folds), each],
        "weights": {str(path.relative_to(run.folder)): stored_checksum(path) for path in files},
        "rows": [*rows, *hashes],
        "precision": choose_precision(config.training.precision, choose_device(config.machine.device)),
    }


def open_parts(folder: Path, made_by: dict[str, Any]) -> list[str]:
    """The ids of the rows that are there already. What follows from something else than `made_by` is removed, and a
    line says what that was."""
    path, changed = folder / MADE_BY, list(made_by)
    if path.is_file():
        before = read_json(path)
        changed = [name for name, value in made_by.items() if before.get(name) != value]
        if changed:
            print(f"note: a prediction that was cut off had other {listed(changed, 9)}; beginning anew")
    if changed:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, made_by)
    remove_parts(folder)
    files = folder.glob("*.parquet")
    return list(dict.fromkeys(name for file in files for name in pd.read_parquet(file, columns=[ROW_ID])[ROW_ID]))


def save_parts(
    folder: Path,
    passes: Iterator[Tables],
    average: Callable[[Sequence[pd.DataFrame]], pd.DataFrame],
    rows: int,
    each: bool,
    signals: LeaveOnSignal | None,
) -> None:
    """Save the means of what models and views predict for so many rows as they come, in several files, and with `each`
    their own; `Interrupted` by a signal, once all is saved."""
    waiting, count, began = list[pd.DataFrame](), 0, time.monotonic()
    saved = began
    for found in passes:
        mean, now = average(list(found.values())), time.monotonic()
        waiting.append(pd.concat({MEAN: mean, **(found if each else {})}, names=["model", "view"]))
        count += len(mean)
        leaving = signals is not None and signals.leaving and count < rows
        # About a hundred files in an hour, and at most a minute is lost.
        if leaving or count == rows or now - saved > min(60, max(1, (now - began) / 20)):
            with atomic(folder / f"{uuid4().hex}.parquet") as temporary:
                pd.concat(waiting).reset_index().to_parquet(temporary, index=False)
            waiting, saved = [], now
        if leaving:
            raise Interrupted(f"{count} of {rows} rows are predicted and saved; the same command goes on")


def score_views(
    project: Project, competition: Competition, folder: Path, data: Path, fold: str | None, views: Sequence[str]
) -> None:
    """Print what views (none: the experiment's, else flips and turns) gain on the rows that folds held out: one by one
    beside the image itself, and all together; decided by the run's thresholds. Nothing is written."""
    own = read_yaml(folder / "config.yaml").get("tta", [])
    run = TrainedRun.open(folder, competition, None, views or own or USUAL)
    rows, folds, task, names = labelled_rows(project, run, data), run.choose_folds(fold, True), run.task, run.names
    heads, metrics = task_of_run(folder, competition).heads, task.competition.metrics()
    aggregate = task.aggregator(run.experiment, names)
    labels = list(views_of(run.experiment, names, task.predictions.logits()))
    joined = {"the image itself": {0}, **{f"and {label}": {0, k} for k, label in enumerate(labels, 1)}}
    joined |= {"and all of them": set(range(len(labels) + 1))} if len(labels) > 1 else {}
    scores: dict[str, list[dict[str, float]]] = {label: [] for label in joined}
    for name in folds:
        trains, held_out = split(rows, name)
        gallery = task.predictions.gallery(trains, held_out)
        label = f"fold {name}: {1 + len(labels)} views"
        arguments = held_out, data, run.experiment, names, "valid", label, None, gallery, True
        passes = list(predict_each(task, run.load(name), *arguments))
        tables = {which: pd.concat([found[which] for found in passes]) for which in passes[0]}
        for label, which in joined.items():
            mean = task.predictions.average([table for (_, view), table in tables.items() if view in which])
            predictions = aggregate(held_out, mean)
            truth = task.predictions.truth(held_out).loc[predictions.index]
            scores[label].append(metric_values(metrics, truth, predictions, heads))
    print_gains(folder.name, metrics, scores)


def print_gains(run: str, metrics: Sequence[Metric], scores: dict[str, list[dict[str, float]]]) -> None:
    """Mean scores over the folds by views, and what those gain over the first ones, with its standard error."""
    metric, folds, gains = metrics[0], len(next(iter(scores.values()))), dict[str, tuple[float, float]]()
    of_folds = {view: np.array([each[metric.name] for each in values]) for view, values in scores.items()}
    for view, found in of_folds.items():
        more = (found - next(iter(of_folds.values()))) * (1 if metric.greater_is_better else -1)
        gains[view] = float(more.mean()), float(more.std(ddof=1) / math.sqrt(folds)) if folds > 1 else math.nan
    lines = [(view, *over(values).values(), *gains[view]) for view, values in scores.items()]
    columns = ("", *over(next(iter(scores.values()))), "gain", "standard error")
    table(f"{run}: views on held-out rows, mean of {folds} folds", columns, lines)
    best = max(list(gains)[1:], key=lambda view: gains[view][0])
    gain, error = gains[best]
    if gain <= 0:
        print(f"none of them gains anything in {metric.name}")
    else:
        is_luck = "" if gain > error else ", which is no more than luck"
        print(f"the best: the image {best} gains {gain:+.4f} in {metric.name}{is_luck}")
