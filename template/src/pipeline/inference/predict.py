"""Predictions for rows: each image is decoded once, whatever the number of models."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from pipeline.competition import Competition
from pipeline.config import Experiment, parse_experiment
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.folds import is_scored
from pipeline.data.loader import EpochBatches, RowBatches, make_loader, to_device
from pipeline.inference.device import Halves, autocast, choose_device, choose_precision, fit_together
from pipeline.inference.snapshot import CLASSES, CODE, FINISHED, finished_folds
from pipeline.inference.tta import TTAModel
from pipeline.inference.weights import load_weights, weights_file
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.project import Project
from pipeline.registry import Registry
from pipeline.tasks import Decoder, Task, task_for
from pipeline.tasks.components import Outputs
from pipeline.types import Batch, PreparedModel, SampleDataset
from toolkit.errors import UserError, listed
from toolkit.files import atomic, read_json, read_yaml
from toolkit.images.readers import Reader
from toolkit.terminal import progress

HELD_OUT, TEST = "oof.parquet", "test.parquet"  # in a run's folder
Which = tuple[int, int]  # which model, and which view of its images; the first one is the image itself
Tables = dict[Which, pd.DataFrame]
Passes = Iterator[tuple[Which, Batch, Outputs]]  # what a model says of a batch
TURN = 16  # batches that wait in memory while models take turns on a device
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
    def open(
        cls,
        folder: Path,
        competition: Competition,
        overrides: dict[str, object] | None = None,
        tta: Sequence[object] | None = None,
    ) -> "TrainedRun":
        """Read a run's folder; `competition` is what `run_competition` gives, `overrides` are of `machine`."""
        values = read_yaml(folder / "config.yaml")
        values["machine"] = {**values.get("machine", {}), **(overrides or {})}
        values |= {} if tta is None else {"tta": list(tta)}
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

    def load(self, fold: str, weights: str = "best") -> list[PreparedModel]:
        """The model of a fold, or those of all its seeds, with the weights of that name (`weights_file`)."""
        models: list[PreparedModel] = []
        for path in self.files(fold, weights):
            models.append(self.task.model(self.experiment, self.names, pretrained=False))
            load_weights(models[-1], path)
        return models

    def files(self, fold: str, weights: str) -> list[Path]:
        """The weights of a fold by name, of each seed; a `UserError` where there are none of that name."""
        folder, first, count = self.folder / f"fold_{fold}", self.experiment.seed, self.experiment.seeds
        parts = [seed_folder(folder, seed) for seed in range(first, first + count)] if count > 1 else [folder]
        return [weights_file(part, weights) for part in parts]


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
    """Mean prediction of the models and views for every row, indexed by id (of what is predicted) in the order of
    `rows`; the arguments are those of `predict_each`."""
    passes = predict_each(task, models, rows, root, experiment, names, stage, label, reader, gallery)
    parts = [task.predictions.average(list(found.values())) for found in passes]
    return task.aggregator(experiment, names)(rows, pd.concat(parts) if parts else task.predictions.empty())


def predict_each(
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
    each: bool = False,
) -> Iterator[Tables]:
    """Predictions of each model and view, for some rows after the other, indexed by the id of the row.

    Args:
        models: asked for once images are being read; `TrainedRun.load` may take its time then.
        reader: what `open_cache` gave; none: every image is decoded.
        gallery: what `Predictions.gallery` says for these rows.
        each: every view is decoded by itself, also where the task can average what the model says of them.
    """
    decoders: dict[Which, Decoder] = {}

    def made() -> Iterator[nn.Module]:
        for number, model in enumerate(models):
            for view in range(1 + len(experiment.tta)):
                decoders[number, view] = task.decoder(experiment, names)
            yield TTAModel(model, task, experiment, names, each) if experiment.tta else model

    predictors, of_gallery = itertools.tee(made())
    if gallery is not None and len(rows):
        images = task.dataset(gallery, root, experiment, names, "test", reader)
        chunks = model_outputs(task, of_gallery, images, experiment, f"{label}, gallery")
        found = ((which, outputs) for passes in chunks for which, _, outputs in passes)
        decoders = task.predictions.decoders(gallery, found, gallery is rows)
    dataset = task.dataset(rows, root, experiment, names, stage, reader)
    for passes in model_outputs(task, predictors, dataset, experiment, label):
        parts = defaultdict[Which, list[pd.DataFrame]](list)
        for which, batch, outputs in passes:
            parts[which].append(decoders[which](batch, outputs))
        tables = {which: pd.concat(part) if len(part) > 1 else part[0] for which, part in parts.items()}
        if len(tables[0, 0]):
            yield tables


def model_outputs(
    task: Task, models: Iterable[nn.Module], dataset: SampleDataset, experiment: Experiment, label: str
) -> Iterator[Passes]:
    """For one batch of samples after the other, or `Halves` of it, what each of the models says. Those that do not fit
    into the memory of the device together take turns there, each with the next `TURN` batches."""
    device = choose_device(experiment.machine.device)
    precision, halves = choose_precision(experiment.training.precision, device), Halves()
    batches = RowBatches(len(dataset), experiment.machine.valid_batch_size or experiment.training.batch_size)
    loader = make_loader(dataset, batches, task.collate, experiment.machine.workers, device)

    def run(model: nn.Module, batch: Batch) -> Sequence[Outputs]:
        with torch.inference_mode(), autocast(device, precision):
            found = model(to_device(batch, device))
        return [found] if isinstance(found, dict) else found

    def passes(chunk: Sequence[Batch]) -> Passes:
        for number, model in enumerate(models):
            if turns:
                model.to(device)
            for batch in chunk:
                for part, found in halves(partial(run, model), batch):
                    yield from (((number, view), part, outputs) for view, outputs in enumerate(found))
            if turns:
                model.cpu()

    with EpochBatches(loader, device) as epoch:
        epoch.start()
        models = [model.eval() for model in models]
        turns = len(models) > 1 and not fit_together(models, device)
        models = models if turns else [model.to(device) for model in models]
        ahead = progress(epoch, label)
        while chunk := list(itertools.islice(ahead, TURN if turns else 1)):
            yield passes([to_device(batch, torch.device("cpu")) for batch in chunk] if turns else chunk)


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
    training rows (`HELD_OUT`), by all folds for test rows (`TEST`). Rows that are not scored have none. A `UserError`
    where an experiment is not that far, did not predict all rows, or has a single fold."""
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
