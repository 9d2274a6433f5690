"""Predictions for rows: each image is decoded once, whatever the number of models."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from pipeline.competition import Competition
from pipeline.config import Experiment, parse_experiment
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.folds import is_scored
from pipeline.inference.snapshot import CLASSES, CODE, FINISHED, finished_folds
from pipeline.inference.tta import TTAModel, model_outputs, views_of
from pipeline.inference.weights import BEST, load_weights
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.project import Project
from pipeline.registry import Registry
from pipeline.tasks import Decoder, Task, task_for
from toolkit.errors import UserError, listed
from toolkit.files import atomic, read_json, read_yaml
from toolkit.images.readers import Reader

HELD_OUT, TEST = "oof.parquet", "test.parquet"  # in a run's folder
Which = tuple[int, int]  # which model, and which view of its images; the first one is the image itself
Tables = dict[Which, pd.DataFrame]
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
        """Read a run's folder; `competition` is what `run_competition` gives. `overrides` are of `machine`, and views
        take the place of the experiment's."""
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
    """Mean prediction of the models and views for every row, indexed by id (of what is predicted) in the order of
    `rows`; the arguments are those of `predict_each`."""
    passes = predict_each(task, models, rows, root, experiment, names, stage, label, reader, gallery)
    parts = [task.predictions.average(list(found.values())) for found in passes]
    return task.finisher(experiment, names)(rows, pd.concat(parts) if parts else task.predictions.empty())


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
    gpu: int = 0,
) -> Iterator[Tables]:
    """Predictions of each model and view, for some rows after the other, indexed by the id of the row.

    Args:
        models: asked for once images are being read; `TrainedRun.load` may take its time then.
        reader: what `open_cache` gave; none: every image is decoded.
        gallery: what `Predictions.gallery` says for these rows.
        each: every view is decoded by itself, also where the task can average what the model says of them.
        gpu: which one, where there are several.
    """
    views_of(experiment, names, task.heads)  # what is wrong with them is better known before images are read
    predictors, of_gallery = itertools.tee(TTAModel(model, task, experiment, names, each) for model in models)
    decoders: Mapping[Which, Decoder] = defaultdict(lambda: task.decoder(experiment, names))
    if gallery is not None and len(rows):
        images = task.dataset(gallery, root, experiment, names, "test", reader)
        chunks = model_outputs(task, of_gallery, images, experiment, f"{label}, gallery", gpu)
        found = ((which, outputs) for passes in chunks for which, _, outputs in passes)
        decoders = task.predictions.decoders(gallery, found, gallery is rows)
    dataset = task.dataset(rows, root, experiment, names, stage, reader)
    for passes in model_outputs(task, predictors, dataset, experiment, label, gpu):
        parts = defaultdict[Which, list[pd.DataFrame]](list)
        for which, batch, outputs in passes:
            parts[which].append(decoders[which](batch, outputs))
        tables = {which: pd.concat(part) if len(part) > 1 else part[0] for which, part in parts.items()}
        if len(tables[0, 0]):
            yield tables


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
