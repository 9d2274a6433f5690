"""Predictions for the test rows of a run."""

from pathlib import Path

from pipeline.competition import Competition
from pipeline.inference.earlier import TEST, with_earlier
from pipeline.inference.predict import TrainedRun, predict_rows, write_predictions
from pipeline.paths import Project


def predict_run(
    project: Project,
    competition: Competition,
    folder: Path,
    data: Path,
    fold: str | None,
    machine: dict[str, object],
) -> None:
    """Predict the test rows with a run's folds and write `test.parquet` into its folder.

    Args:
        fold: as in `TrainedRun.choose_folds`.
    """
    run = TrainedRun.open(folder, competition, machine)
    folds = run.choose_folds(fold)
    competition = run.task.competition
    rows = with_earlier(project, run.experiment.inputs, competition.test_rows(data), TEST)
    if rows.empty:
        print("note: there are no test rows here; the table will hold the columns only")
    models = [model for name in folds for model in run.load(name)]
    label = f"{folder.name}: {len(models)} models"
    looked_up = (
        run.task.predictions.has_gallery and not rows.empty
    )  # what needs no training rows predicts where there are none
    gallery = run.task.predictions.gallery(competition.train_rows(data)) if looked_up else None
    predictions = predict_rows(run.task, models, rows, data, run.experiment, run.names, "test", label, gallery=gallery)
    write_predictions(folder / TEST, predictions, folds=folds)
    seeds = f", {run.experiment.seeds} seeds each" if run.experiment.seeds > 1 else ""
    print(f"{len(predictions)} rows with folds {', '.join(folds)}{seeds}: {project.shown(folder / 'test.parquet')}")
