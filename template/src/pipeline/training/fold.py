"""Training an experiment: its folds one after the other, each from where it stands."""

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline import engine, training
from pipeline.callbacks import NAMES as CALLBACK_NAMES
from pipeline.callbacks import CallbackList, default_callbacks
from pipeline.competition import Competition
from pipeline.config import Experiment, resolve_names
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.cache import open_cache
from pipeline.data.folds import FoldTable, load_folds, read_classes, split
from pipeline.data.loaders import EpochBatches, RowBatches, TrainBatches, make_loader
from pipeline.errors import Interrupted, UserError
from pipeline.files import atomic, read_json, remove_parts, write_json
from pipeline.inference.device import choose_device, choose_precision, to_device
from pipeline.inference.predict import BEST, FINISHED, predict_rows, write_predictions
from pipeline.inference.weights import load_weights
from pipeline.names import Named, Names
from pipeline.project import Project
from pipeline.seam import StageResult
from pipeline.tasks import Task, task_for
from pipeline.terminal import table
from pipeline.tracking import RunInfo, make_tracker
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.loop import FoldLoop
from pipeline.training.optimizer import Factor, make_optimizer
from pipeline.training.run_folder import open_run
from pipeline.training.seeds import seed_everything

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Setup:
    """An experiment with everything its folds share."""

    project: Project
    competition: Competition
    name: str
    config: Experiment
    names: Names
    task: Task
    folds: FoldTable


def prepare(project: Project, competition: Competition, name: str, config: Experiment) -> Setup:
    """Read tables and folds and check every name in the config; nothing is written."""
    data = project.require_data()
    rows = competition.train_rows(data)
    folds = load_folds(project, config.folds, rows, competition.settings)
    heads = competition.heads(read_classes(project))
    task = task_for(competition, heads)
    names = Names(DATA_NAMES, training.NAMES, CALLBACK_NAMES, task.NAMES, competition.all_names())
    if not config.losses:
        config = config.model_copy(update={"losses": task.default_losses()})
    return Setup(project, competition, name, resolve_names(config, names), names, task, folds)


def train(setup: Setup, fold: str, restart: bool) -> None:
    """Train one fold, all of them, or on everything (`0`, `all`, `full`).

    Raises:
        UserError: no such fold, or a run of other settings or code is there.
    """
    chosen = choose_folds(setup.folds, fold)
    device = choose_device(setup.config.machine.device)
    choose_precision(setup.config.training.precision, device)
    if setup.config.model.pretrained:  # the one thing that needs a network: fail before anything is written
        print(
            f"getting the pretrained weights of '{setup.config.model.encoder}', from the hub or its cache", flush=True
        )
        setup.task.model(setup.config, setup.names, pretrained=True)
    for note in setup.folds.warnings:
        print(f"warning: {note}")
    record = {"folds": setup.folds.hash, "n_folds": setup.folds.n_folds, "engine": engine.NAME}
    folder = open_run(setup.project, setup.name, setup.config, record, restart)
    for number, name in enumerate(chosen):
        train_fold(setup, name, folder / f"fold_{name}", device, show_contract=number == 0)


def choose_folds(folds: FoldTable, asked: str) -> list[str]:
    """The names of the folds to train."""
    known = [str(fold) for fold in range(folds.n_folds)]
    if asked == "all":
        return known
    if asked != "full" and asked not in known:
        raise UserError(f"there is no fold '{asked}'; choose one of {', '.join(known)}, all, or full")
    return [asked]


def train_fold(setup: Setup, fold: str, folder: Path, device: torch.device, show_contract: bool) -> None:
    """Train one fold from where it stands to its out-of-fold predictions; a finished one is left alone."""
    if (folder / FINISHED).is_file():
        best = read_json(folder / FINISHED)
        print(f"fold {fold} of '{setup.name}' is finished (best epoch {best['best_epoch']}); nothing to do")
        return
    began = time.monotonic()
    loop, valid_rows = make_loop(setup, fold, folder, device)
    try:
        with loop.signals, loop.train_loader, loop.valid_loader:
            if show_contract:
                print_contract(setup, loop)
            loop.callbacks.on_run_start(loop)
            if loop.progress.epoch < loop.epochs:
                engine.fit(loop)
            finish_fold(setup, loop, valid_rows, time.monotonic() - began)
    except BaseException as error:
        loop.callbacks.on_exception(loop, error)
        loop.tracker.finish(succeeded=False)
        if loop.signals.leave and isinstance(error, RuntimeError):  # SIGTERM ended the loader's processes as well
            raise Interrupted("left at once; the same command goes on from the last saved state") from error
        raise
    loop.tracker.finish(succeeded=True)
    if loop.signals.leave:  # asked for while the fold was being finished
        raise Interrupted(f"fold {fold} is finished; the same command goes on with what is left")


def make_loop(setup: Setup, fold: str, folder: Path, device: torch.device) -> "tuple[FoldLoop, pd.DataFrame]":
    """Everything a fold's run is made of, standing where its saved state says."""
    config, names, task = setup.config, setup.names, setup.task
    train_rows, valid_rows = split(setup.folds.rows, fold)
    if train_rows.empty:
        raise UserError(f"fold {fold} has no rows to train on; make the folds anew")
    metrics = setup.competition.metrics()
    upwards = fold == "full" or (metrics[0].greater_is_better and config.training.monitor == "metric")
    checkpoints = CheckpointStore(folder / "checkpoints", config.checkpoints.keep, upwards)
    remove_parts(folder)
    state = checkpoints.load_state()
    seed_everything(config.seed, _number(fold))
    model = task.model(config, names, pretrained=config.model.pretrained and state is None).to(device)
    precision = choose_precision(config.training.precision, device)
    fused = precision != "fp16" and device.type in ("cpu", "cuda")
    reader = open_cache(setup.project, config, names, train_rows, valid_rows)
    train_set = task.dataset(train_rows, setup.project.data, config, names, "train", reader)
    valid_set = task.dataset(valid_rows, setup.project.data, config, names, "valid", reader)
    order = names.bind("sampler", config.training.sampler)
    train_batches = TrainBatches(train_rows, order, config.training.batch_size, config.seed)
    valid_batches = RowBatches(len(valid_rows), config.machine.valid_batch_size or config.training.batch_size)
    own = [names.bind("callback", entry)() for entry in config.callbacks]
    loop = FoldLoop(
        config=config,
        experiment=setup.name,
        fold=fold,
        folder=folder,
        task=task,
        metrics=metrics,
        model=model,
        optimizer=make_optimizer(model, config.optimizer, names, fused),
        factor=make_schedule(config, names, train_batches.batches_per_epoch),
        criterion=task.criterion(config.losses, names, train_rows),
        step=names.bind("step", config.step),
        train_loader=EpochBatches(make_loader(train_set, train_batches, task.collate, config.machine.workers, device)),
        train_batches=train_batches,
        valid_loader=EpochBatches(make_loader(valid_set, valid_batches, task.collate, config.machine.workers, device)),
        valid_rows=valid_rows,
        callbacks=CallbackList([*own, *default_callbacks(task, valid_rows, valid_set)]),
        checkpoints=checkpoints,
        device=device,
        precision=precision,
    )
    if state is not None:
        loop.load(state)
        print(f"fold {fold}: going on at epoch {loop.progress.epoch + 1}, batch {loop.progress.batch}")
    loop.tracker = make_tracker(run_info(setup, loop), setup.competition.settings.trackers)
    return loop, valid_rows


def make_schedule(config: Experiment, names: Names, batches_per_epoch: int) -> Factor:
    """The share of the peak rate at each optimiser step."""
    steps = -(-batches_per_epoch // config.training.accumulate)
    schedule = names.bind("schedule", Named(name=config.schedule.name, params=config.schedule.params))
    factor: Factor = schedule(steps * config.training.epochs, round(steps * config.schedule.warmup_epochs))
    return factor


def run_info(setup: Setup, loop: FoldLoop) -> RunInfo:
    """What the trackers are told."""
    began = read_json(setup.project.run(setup.name) / "run.json")["began"]
    identity = f"{setup.competition.settings.competition}/{setup.name}/{loop.fold}/{began}"
    return RunInfo(
        project=setup.competition.settings.competition,
        experiment=setup.name,
        fold=loop.fold,
        folder=loop.folder,
        config=setup.config.model_dump(mode="json"),
        tags=setup.config.tracking.tags,
        run_id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        step=loop.progress.step,
    )


def print_contract(setup: Setup, loop: FoldLoop) -> None:
    """Check keys, dtypes and shapes on the first rows, before the first step."""
    dataset = loop.train_loader.loader.dataset
    count = min(loop.sampler.batch_size, 4)
    batch: dict[str, Any] = setup.task.collate([dataset[(0, row)] for row in range(count)])
    loop.model.eval()
    with torch.no_grad():
        outputs = loop.model(to_device(batch, loop.device))
    table(
        "the dict contract, on the first rows",
        ("key", "dtype", "shape", "in"),
        setup.task.check_contract(batch, outputs),
    )


def finish_fold(setup: Setup, loop: FoldLoop, valid_rows: "pd.DataFrame", seconds: float) -> None:
    """Predict the held-out rows with the best weights, write them, and mark the fold as finished."""
    best = loop.best
    if best is None:
        raise UserError(f"fold {loop.fold} has no weights to finish with; begin anew with --restart")
    load_weights(loop.model, loop.checkpoints.best_file)
    loop.model.to(loop.device)
    result = None
    summary: dict[str, Any] = {"fold": loop.fold, "best_epoch": best.epoch + 1, "epochs": loop.epochs}
    if not valid_rows.empty:
        config, names = setup.config, setup.names
        reader = open_cache(setup.project, config, names, valid_rows)
        predictions = predict_rows(
            setup.task, [loop.model], valid_rows, setup.project.data, config, names, "valid", "out of fold", reader
        )
        truth, metrics = loop.score_rows(predictions)
        result = StageResult("valid", best.epoch, {}, metrics, truth, predictions)
        write_predictions(loop.folder / "oof.parquet", predictions, int(loop.fold))
        summary["metrics"] = metrics
    with atomic(loop.folder / BEST) as temporary:
        shutil.copyfile(loop.checkpoints.best_file, temporary)
    loop.callbacks.on_run_end(loop, result)
    loop.tracker.summary({"best_epoch": best.epoch + 1, **summary.get("metrics", {})})
    if setup.config.tracking.log_checkpoint:
        loop.tracker.checkpoint(loop.folder / BEST)
    summary["seconds"] = round(seconds, 1)
    summary["notes"] = list(setup.folds.warnings)
    write_json(loop.folder / FINISHED, summary)
    loop.checkpoints.clear()


def _number(fold: str) -> int:
    return 1_000 if fold == "full" else int(fold)
