"""Predictions for rows: each image is decoded once, whatever the number of models."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.competition import Competition
from pipeline.config import Experiment, parse_experiment
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.folds import is_scored
from pipeline.data.loader import EpochBatches, RowBatches, make_loader
from pipeline.inference.device import Halves, autocast, choose_device, choose_precision, deterministic
from pipeline.inference.snapshot import CLASSES, CODE, FINISHED, finished_folds
from pipeline.inference.weights import BEST, load_weights
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.project import Project
from pipeline.registry import Registry
from pipeline.tasks import Decoder, Task, task_for
from pipeline.types import Batch, Precision, SampleDataset
from toolkit.errors import UserError, listed
from toolkit.files import atomic, read_json, read_yaml
from toolkit.images.readers import Reader
from toolkit.terminal import progress

HELD_OUT, TEST = "oof.parquet", "test.parquet"  # in a run's folder
REMEDY = {HELD_OUT: "scripts/evaluate.py", TEST: "scripts/predict.py"}
FOLDS = "folds"  # of a table of predictions: an attribute


@dataclass(frozen=True)
class TrainedRun:
    """A run as prediction needs it."""

    folder: Path
    experiment: Experiment
    task: Task
    names: Registry

    @classmethod
    def open(cls, folder: Path, competition: Competition, overrides: dict[str, object] | None = None) -> "TrainedRun":
        """Read a run's folder; `competition` is what `run_competition` gives."""
        values = read_yaml(folder / "config.yaml")
        values["machine"] = {**values.get("machine", {}), **(overrides or {})}
        experiment = parse_experiment(values, f"{folder.name}/config.yaml")
        competition = competition.stage(experiment.stage)
        task = task_for(competition, competition.heads(read_json(folder / CODE / CLASSES)))
        return cls(folder, experiment, task, Registry(DATA_NAMES, task.NAMES, competition.all_names()))

    def choose_folds(self, asked: str | None, held_out: bool = False) -> list[str]:
        """The folds to go by: those that are asked for (`0`, `0,2`, `all`, `full`), else all that are trained to the
        end, else the model that was trained on everything, unless what they `held_out` is needed. A line says which are
        missing, a `UserError` where all are, or one that is asked for."""
        run, expected, finished = self.folder.name, expected_folds(self.folder), finished_folds(self.folder)
        known = expected if held_out else [*expected, "full"]
        folds = expected if asked in (None, "all") else fold_names(str(asked))
        unknown = next((name for name in folds if name not in known), None)
        if unknown is not None:
            why = "; what was trained on everything holds nothing out" if unknown == "full" else ""
            raise UserError(f"'{run}' has no fold '{unknown}'; choose of {', '.join(known)}, several as 0,1{why}")
        there, missing = [f for f in folds if f in finished], [f for f in folds if f not in finished]
        train = f"run scripts/train.py {run} --fold {','.join(missing)}"
        if asked is None and not there and "full" in finished and not held_out:
            return ["full"]
        if missing and (asked is not None or not there):
            raise UserError(f"fold {', '.join(missing)} of '{run}' is not trained to the end; {train}")
        if missing and "full" in finished and not held_out:
            either = f"--fold {','.join(there)}, or --fold full"
            raise UserError(f"'{run}' has some of its folds, and a model trained on everything; say which: {either}")
        if missing:
            print(f"note: {len(there)} of {len(expected)} folds of '{run}' are trained; for the others {train}")
        return there

    def load(self, fold: str) -> list[nn.Module]:
        """The model of a fold, or those of all its seeds."""
        folder, config = self.folder / f"fold_{fold}", self.experiment
        models: list[nn.Module] = []
        for seed in range(config.seed, config.seed + config.seeds):
            model = self.task.model(config, self.names, pretrained=False)
            load_weights(model, (folder if config.seeds == 1 else seed_folder(folder, seed)) / BEST)
            models.append(model)
        return models


def expected_folds(run: Path) -> list[str]:
    """Every fold of the fold file that the run was trained with."""
    return [str(fold) for fold in range(read_json(run / "run.json")["n_folds"])]


def fold_names(asked: str) -> list[str]:
    """`0,2` as the names of folds, each of them once."""
    return list(dict.fromkeys(name.strip() for name in asked.split(",")))


def seed_folder(fold: Path, seed: int) -> Path:
    """Where the run of one seed lies, when a fold trains several."""
    return fold / f"seed_{seed}"


def predict_rows(
    task: Task,
    models: Iterable[nn.Module],
    rows: pd.DataFrame,
    root: Path,
    experiment: Experiment,
    names: Registry,
    stage: str,
    label: str,
    reader: Reader | None = None,
    gallery: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Mean prediction of the models for every row, indexed by id (of what is predicted) in the order of `rows`.

    Args:
        models: asked for once images are being read; `TrainedRun.load` may take its time then.
        reader: what `open_cache` gave; none: every image is decoded.
        gallery: what `Predictions.gallery` says for these rows.
    """
    decoders: list[Decoder] = []

    def made() -> Iterator[nn.Module]:
        for model in models:
            decoders.append(task.decoder(experiment, names))
            yield task.predictor(model, experiment, names)

    predictors, of_gallery = itertools.tee(made())
    finish = task.finisher(experiment, names)
    if gallery is not None and len(rows):
        images = task.dataset(gallery, root, experiment, names, "test", reader)
        passes = model_outputs(task, of_gallery, images, experiment, f"{label}, gallery")
        decoders = task.predictions.decoders(gallery, (outputs for _, outputs in passes), gallery is rows)
    parts = []
    dataset = task.dataset(rows, root, experiment, names, stage, reader)
    for batch, outputs in model_outputs(task, predictors, dataset, experiment, label):
        found = [decode(batch, each) for decode, each in zip(decoders, outputs, strict=True)]
        if len(found[0]):
            parts.append(task.predictions.average(found))
    return finish(rows, pd.concat(parts) if parts else task.predictions.empty())


def model_outputs(
    task: Task, models: Iterable[nn.Module], dataset: SampleDataset, experiment: Experiment, label: str
) -> Iterator[tuple[Batch, list[dict[str, Tensor]]]]:
    """The batches of the dataset's samples, or `Halves` of them, each with the outputs of each model."""
    device = choose_device(experiment.machine.device)
    precision: Precision = choose_precision(experiment.training.precision, device)
    batches = RowBatches(len(dataset), experiment.machine.valid_batch_size or experiment.training.batch_size)
    loader = make_loader(dataset, batches, task.collate, experiment.machine.workers, device)

    def run(batch: Batch) -> list[dict[str, Tensor]]:
        with torch.inference_mode(), autocast(device, precision):
            return [model(batch) for model in models]

    halves = Halves()
    with EpochBatches(loader, device) as epoch:
        epoch.start()
        models = [model.to(device).eval() for model in models]
        for batch in progress(epoch, label):
            yield from halves(run, batch)


def write_predictions(
    path: Path, predictions: pd.DataFrame, fold: int | None = None, folds: Sequence[str] = ()
) -> None:
    """Write predictions by id as parquet; out-of-fold ones with the `fold` that held the rows out, those of test rows
    with the `folds` whose models predicted, as an attribute of the table."""
    frame = (predictions if fold is None else predictions.assign(**{ROW_FOLD: fold})).rename_axis(ROW_ID).reset_index()
    frame.attrs = {FOLDS: list(folds)} if folds else {}
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    """Predictions by id, which is a column or the index of the table; without the fold."""
    table = pd.read_parquet(path)
    return (table.set_index(ROW_ID) if ROW_ID in table else table).drop(columns=ROW_FOLD, errors="ignore")


def with_earlier(project: Project, inputs: Mapping[str, str], rows: pd.DataFrame, file: str) -> pd.DataFrame:
    """The rows with a column `STAGE:COLUMN` for each that an experiment of an earlier stage predicts: out of fold for
    training rows (`HELD_OUT`), by all folds for test rows (`TEST`). Rows that are not scored have none.

    Raises:
        UserError: an experiment is not that far, did not predict all rows, or has a single fold.
    """
    for stage, name in inputs.items():
        folder, run = project.require_run(name), f"run {REMEDY[file]} {name}"
        folds = expected_folds(folder) if file == HELD_OUT else []
        if len(folds) == 1:
            remedy = "train both stages on folds: scripts/make_folds.py --name OTHER, and `folds: OTHER`"
            raise UserError(f"stage '{stage}': '{name}' has one validation split only: its rows would leak; {remedy}")
        if not (folder / file).is_file():
            raise UserError(f"stage '{stage}': '{name}' has no {file} yet; {run}")
        found = read_predictions(folder / file)
        missing = rows[ROW_ID][~rows[ROW_ID].isin(found.index) & is_scored(rows)]
        if len(missing):
            if untrained := [k for k in folds if not (folder / f"fold_{k}" / FINISHED).is_file()]:
                run = f"run scripts/train.py {name} --fold {','.join(untrained)}, and then {REMEDY[file]} {name}"
            what = f"{len(missing)} rows (id {listed(missing)}) have no prediction of '{name}'"
            raise UserError(f"stage '{stage}': {what}; {run}")
        rows = rows.join(found.reindex(rows[ROW_ID]).add_prefix(f"{stage}:").set_axis(rows.index, axis=0))
    return rows


def require_same_folds(project: Project, inputs: Mapping[str, str], folds: str) -> None:
    """Raise a `UserError` where an earlier stage was trained with other folds: its predictions would leak."""
    for stage, name in inputs.items():
        if read_json(project.require_run(name) / "run.json")["folds"] != folds:
            remedy = f"train it on the same ones (scripts/train.py {name} folds=FILE --as OTHER), and name OTHER"
            raise UserError(f"stage '{stage}': '{name}' was trained with other folds, so it would leak; {remedy}")


def predict_run(
    project: Project, competition: Competition, folder: Path, data: Path, fold: str | None, machine: dict[str, object]
) -> None:
    """Predict the test rows with a run's folds (`TrainedRun.choose_folds`); writes `test.parquet` into its folder."""
    run = TrainedRun.open(folder, competition, machine)
    folds = run.choose_folds(fold)
    competition, experiment = run.task.competition, run.experiment
    rows = with_earlier(project, experiment.inputs, competition.test_rows(data), TEST)
    if rows.empty:
        print("note: there are no test rows here; the table will hold the columns only")
    models = (model for name in folds for model in run.load(name))
    # What needs no training rows predicts where there are none.
    looked_up = run.task.predictions.has_gallery and not rows.empty
    gallery = run.task.predictions.gallery(competition.train_rows(data)) if looked_up else None
    label = f"{folder.name}: {len(folds) * experiment.seeds} models"
    with deterministic(experiment.machine.deterministic):
        predictions = predict_rows(run.task, models, rows, data, experiment, run.names, "test", label, gallery=gallery)
        write_predictions(folder / TEST, predictions, folds=folds)
    seeds = f", {experiment.seeds} seeds each" if experiment.seeds > 1 else ""
    print(f"{len(predictions)} rows with folds {', '.join(folds)}{seeds}: {project.shown(folder / TEST)}")
