"""An experiment, read and checked before anything is written."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import training
from pipeline.callbacks import NAMES as CALLBACK_NAMES
from pipeline.competition import Competition
from pipeline.config import Experiment, Intervention, parse_experiment, resolve_names
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.cache import open_cache
from pipeline.data.folds import FoldTable, fold_path, load_folds, name_option, read_classes, split
from pipeline.data.labels import labels_of
from pipeline.experiments import describe, load_experiment, merge, nested, together
from pipeline.inference.predict import HELD_OUT, with_earlier
from pipeline.inference.pseudo_labels import teacher_models, with_pseudo_labels
from pipeline.inference.tta import views_of
from pipeline.keys import ROW_SOURCE
from pipeline.project import Project
from pipeline.registry import Registry
from pipeline.tasks import Task, task_for, task_kinds
from pipeline.trackers import RunInfo
from pipeline.training.validation import Monitor
from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.terminal import console


@dataclass(frozen=True)
class Setup:
    """An experiment with everything its folds share; `epoch_configs` is the experiment as it is in each epoch."""

    project: Project
    competition: Competition
    name: str
    config: Experiment
    epoch_configs: Sequence[Experiment]
    names: Registry
    task: Task
    folds: FoldTable

    def with_seed(self, seed: int) -> "Setup":
        """The same experiment with another seed."""
        config = self.config.model_copy(update={"seed": seed})
        return replace(self, config=config, epoch_configs=by_epoch(config, self.names))

    def run_info(self, fold: str, folder: Path, step: int) -> RunInfo:
        """What the trackers are told. The same run is found again by its id."""
        config, competition = self.config, self.competition.settings.competition
        began = read_json(self.project.run(self.name) / "run.json")["began"]
        job = fold if config.seeds == 1 else f"{fold}_seed_{config.seed}"
        return RunInfo(
            project=competition,
            experiment=self.name,
            fold=job,
            folder=folder,
            config=config.model_dump(mode="json"),
            tags=config.tracking.tags,
            run_id=hashlib.sha256(f"{competition}/{self.name}/{job}/{began}".encode()).hexdigest()[:12],
            step=step,
        )

    def fold_rows(self, fold: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows that train and those that are held out; with `training.max_rows` a few of each, drawn at random."""
        parts, most = split(self.folds.rows, fold), self.config.training.max_rows
        if parts[0].empty:
            remedy = f"make the folds anew: scripts/make_folds.py{name_option(self.config.folds)} --force"
            raise UserError(f"fold {fold} has no rows to train on; {remedy}")
        for name in self.config.pseudo:
            if not (parts[0][ROW_SOURCE] == name).any():
                remedy = "train that fold of the teacher, and label again: scripts/pseudo.py"
                raise UserError(f"the pseudo labels '{name}' have none for fold {fold}; {remedy}")
        if most is None:
            return parts
        few = [rows.sample(min(most, len(rows)), random_state=0).sort_index().reset_index(drop=True) for rows in parts]
        print(f"training.max_rows: {len(few[0])} of {len(parts[0]):,} rows train, {len(few[1])} are held out")
        return few[0], few[1]


def prepare(project: Project, competition: Competition, name: str, config: Experiment) -> Setup:
    """Read tables and folds and check every name in the config; nothing is written."""
    competition, data = competition.stage(config.stage), project.require_data()
    rows = with_earlier(project, config.inputs, competition.train_rows(data), HELD_OUT)
    folds = load_folds(project, config.folds, rows, competition.settings)
    require_same_folds(project, config.inputs, folds.hash)
    labels_of(competition).check_folds(folds.rows, project.shown(fold_path(project, config.folds)))
    task = task_for(competition, competition.heads(read_classes(project)))
    folds = with_pseudo_labels(project, config.pseudo, folds, task)
    names = Registry(DATA_NAMES, training.NAMES, CALLBACK_NAMES, task.NAMES, competition.all_names())
    task.check_settings(config, names)
    if config.tta:
        views_of(config, names, task.predictions.logits())
    for metric in competition.metrics():
        metric.check_heads(task.heads)
    Monitor(competition.metrics(), config.training.monitor)
    if not config.losses:
        config = config.model_copy(update={"losses": task.default_losses()})
    config = written_out(resolve_names(config, names), names)
    setup = Setup(project, competition, name, config, by_epoch(config, names), names, task, folds)
    for each in setup.epoch_configs:
        for row in each.losses:
            if row.loss.name == "distillation":
                teacher_models(project, row.loss.params["teacher"], config, folds.hash, task.heads)
    return setup


def require_same_folds(project: Project, inputs: Mapping[str, str], folds: str) -> None:
    """Raise a `UserError` where an earlier stage was trained with other folds: its predictions would leak."""
    for stage, name in inputs.items():
        if read_json(project.require_run(name) / "run.json")["folds"] != folds:
            remedy = f"train it on the same ones (scripts/train.py {name} folds=FILE --as OTHER), and name OTHER"
            raise UserError(f"stage '{stage}': '{name}' was trained with other folds, so it would leak; {remedy}")


def by_epoch(config: Experiment, names: Registry) -> list[Experiment]:
    """The experiment as it trains in each epoch: with the interventions at work, later ones over earlier ones. One
    object stands for all epochs with the same ones, `config` itself for those without any.

    Raises:
        UserError: an intervention sets what is not valid, or covers no epoch.
    """
    epochs = config.training.epochs
    for number, intervention in enumerate(config.interventions):
        if not any(intervention.covers(epoch, epochs) for epoch in range(epochs)):
            first, last = intervention.epochs
            raise UserError(f"interventions.{number}: none of the {epochs} epochs is in {first} to {last}")
    known: dict[tuple[int, ...], Experiment] = {(): config}
    found = []
    for epoch in range(epochs):
        active = tuple(n for n, each in enumerate(config.interventions) if each.covers(epoch, epochs))
        if active not in known:
            known[active] = _with(config, names, [config.interventions[number] for number in active], active[-1])
        found.append(known[active])
    return found


def written_out(config: Experiment, names: Registry) -> Experiment:
    """The experiment with every default of what its interventions choose by name written out, as a run keeps it."""
    before = config.model_dump(mode="json")
    found = []
    for number, intervention in enumerate(config.interventions):
        values = _with(config, names, [intervention], number).model_dump(mode="json")
        settings = dict(intervention.set)
        for key in settings:
            if key == "losses" or (key in ("augmentations", "step") and values[key]["name"] != before[key]["name"]):
                settings[key] = values[key]
            elif key == "training.batch_transforms":
                settings[key] = values["training"]["batch_transforms"]
        found.append(intervention.model_copy(update={"set": settings}))
    return config.model_copy(update={"interventions": tuple(found)})


def _with(config: Experiment, names: Registry, interventions: list[Intervention], number: int) -> Experiment:
    values: dict[str, Any] = config.model_dump(mode="json")
    for intervention in interventions:
        values = merge(values, together(nested(key, value) for key, value in intervention.set.items()))
    try:
        return resolve_names(parse_experiment(values, "the experiment"), names)
    except UserError as error:
        raise UserError(f"interventions.{number}: {error}") from error


def all_names(competition: Competition) -> Registry:
    """Whatever can be chosen by name in this repository."""
    of_tasks = [task.NAMES for task in dict.fromkeys(task_kinds().values())]
    return Registry(DATA_NAMES, training.NAMES, CALLBACK_NAMES, *of_tasks, competition.all_names())


def print_config(competition: Competition, config: Experiment) -> None:
    """Print the experiment as YAML, by-name entries with all their settings, and a line of explanation for each."""
    print("\n".join(describe(resolve_names(config, all_names(competition)))))


def fill_caches(
    project: Project, competition: Competition, experiments: Sequence[str], overrides: Sequence[str] = ()
) -> None:
    """Decode and resize, for each experiment, every training row of its fold file.

    Raises:
        UserError: an experiment cannot be trained or does not use the cache, or what `open_cache` says.
    """
    configs = {name: load_experiment(project, name, overrides) for name in experiments}
    for name, config in configs.items():
        if not config.image.cache:
            raise UserError(
                f"'{name}' reads no cache; add image.cache=true here, "
                f"and write `image: {{cache: true}}` into experiments/{name}.yaml before it is trained"
            )
    for setup in [prepare(project, competition, name, config) for name, config in configs.items()]:
        began = time.monotonic()
        open_cache(project, setup.config, setup.names, setup.folds.rows)
        what = f"'{setup.name}': all {len(setup.folds.rows):,} training rows are in the cache"
        console().print(f"{what} ({time.monotonic() - began:.1f} s)", soft_wrap=True)
