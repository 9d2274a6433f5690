"""Everything a fold's run is made of, standing where its saved state says."""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.callbacks import CallbackList, default_callbacks
from pipeline.config import Experiment
from pipeline.data.folds import name_option, split
from pipeline.data.image_cache import open_cache
from pipeline.data.loader import EpochBatches, RowBatches, TrainBatches, make_loader
from pipeline.inference.device import choose_precision
from pipeline.inference.initial_weights import load_initial_weights
from pipeline.registry import Named, Names
from pipeline.trackers import RunInfo, Trackers, make_tracker
from pipeline.training.averaging import WeightAverages
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.freezing import freeze
from pipeline.training.loop import FoldLoop
from pipeline.training.optimizer import make_optimizer
from pipeline.training.phases import TrainStages
from pipeline.training.schedules import Factor
from pipeline.training.seeds import seed_everything
from pipeline.training.setup import Setup
from pipeline.training.state import load_loop_state
from pipeline.types import PreparedModel
from toolkit.distributed import ALONE, Processes
from toolkit.errors import UserError
from toolkit.files import read_json, remove_parts

if TYPE_CHECKING:
    import pandas as pd


def make_loop(
    setup: Setup,
    fold: str,
    folder: Path,
    device: torch.device,
    tracked: bool = True,
    processes: Processes = ALONE,
) -> "tuple[FoldLoop, pd.DataFrame]":
    """The loop of a fold's run, and the rows it holds out; what is no run is not tracked."""
    config, names, task = setup.config, setup.names, setup.task
    train_rows, valid_rows = fold_rows(setup, fold)
    metrics = setup.competition.metrics()
    upwards = fold == "full" or (metrics[0].greater_is_better and config.training.monitor == "metric")
    checkpoints = CheckpointStore(
        folder / "checkpoints", max(config.checkpoints.keep, config.averaging.best_epochs), upwards
    )
    state = processes.from_main(lambda: _last_state(folder, checkpoints))
    seed_everything(config.seed, fold_number(fold))
    model = make_model(setup, fold, device, fresh=state is None)
    if state is None:
        task.fit_statistics(model.network, train_rows)
    processes.copy_from_main(iter(model.state_dict().values()))
    precision = choose_precision(config.training.precision, device)
    fused = precision != "fp16" and device.type in ("cpu", "cuda")
    order = names.bind("sampler", config.training.sampler)
    train_batches = TrainBatches(train_rows, order, config.training.batch_size, config.seed, processes)
    reader = open_cache(setup.project, config, names, train_rows, valid_rows)
    valid_set = task.dataset(valid_rows, setup.project.data, config, names, "valid", reader)
    valid_batches = RowBatches(len(valid_set), config.machine.valid_batch_size or config.training.batch_size, processes)
    valid_loader = make_loader(valid_set, valid_batches, task.collate, config.machine.workers, device)
    own = [names.bind("callback", entry)() for entry in config.callbacks]
    loop = FoldLoop(
        config=config,
        experiment=setup.name,
        fold=fold,
        folder=folder,
        task=task,
        metrics=metrics,
        model=model,
        averages=WeightAverages(model, config.averaging, config.training.epochs),
        optimizer=make_optimizer(model, config.optimizer, names, fused),
        factor=make_schedule(config, names, train_batches.batches_per_epoch),
        stages=TrainStages(setup.stages, names, task, train_rows, setup.project.data, train_batches, device, reader),
        criterion=task.criterion(config.losses, names, train_rows),
        step=names.bind("step", config.step),
        valid_loader=EpochBatches(valid_loader, device),
        valid_rows=valid_rows,
        decoder=partial(task.decoder, config, names),
        finish=task.finisher(config, names),
        callbacks=CallbackList([*own, *default_callbacks(task, train_rows, valid_rows, valid_set)], processes.is_main),
        engine_callbacks=[engine_callback(names.bind("engine_callback", entry)) for entry in config.engine_callbacks],
        checkpoints=checkpoints,
        device=device,
        precision=precision,
        processes=processes,
    )
    if state is not None:
        load_loop_state(loop, state)
        print(f"fold {fold}: going on at epoch {loop.progress.epoch + 1}, batch {loop.progress.batch}")
    if tracked:
        is_main, trackers = processes.is_main, setup.competition.settings.trackers
        loop.tracker = make_tracker(run_info(setup, loop), trackers) if is_main else Trackers({})
    return loop, valid_rows


def engine_callback(callback: Callable[..., Any]) -> Any:
    """What a class or a factory makes. A function that needs arguments is a handler as it stands."""
    parameters = inspect.signature(callback).parameters.values()
    needs = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    is_handler = any(one.kind in needs and one.default is inspect.Parameter.empty for one in parameters)
    return callback if is_handler else callback()


def _last_state(folder: Path, checkpoints: CheckpointStore) -> dict[str, Any] | None:
    remove_parts(folder)
    return checkpoints.load_state()


def fold_rows(setup: Setup, fold: str) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The rows that train and those that are held out; with `training.max_rows` a few of each, drawn at random."""
    parts = split(setup.folds.rows, fold)
    if parts[0].empty:
        folds = setup.config.folds
        remedy = f"make the folds anew: scripts/make_folds.py{name_option(folds)} --force"
        raise UserError(f"fold {fold} has no rows to train on; {remedy}")
    most = setup.config.training.max_rows
    if most is None:
        return parts
    few = [rows.sample(min(most, len(rows)), random_state=0).sort_index().reset_index(drop=True) for rows in parts]
    print(f"training.max_rows: {len(few[0])} of {len(parts[0]):,} rows train, {len(few[1])} are held out")
    return few[0], few[1]


def make_model(setup: Setup, fold: str, device: torch.device, fresh: bool) -> PreparedModel:
    """The model on the device, with the weights it starts from; a run that continues needs none."""
    settings = setup.config.model
    from_hub = fresh and settings.pretrained and settings.weights is None
    model = setup.task.model(setup.config, setup.names, pretrained=from_hub)
    if fresh and settings.weights is not None:
        load_initial_weights(model, settings.weights, setup.project, fold, setup.folds.hash)
    for stage in {id(stage): stage for stage in setup.stages}.values():
        freeze(model.network, stage.model)  # what names no part is refused before the first step
    model.network.requires_grad_(True)  # DDP averages what trains when it is made; each epoch freezes its own parts
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    return model


def make_schedule(config: Experiment, names: Names, batches_per_epoch: int) -> Factor:
    """The share of the peak rate at each optimiser step."""
    steps = -(-batches_per_epoch // config.training.accumulate)
    schedule = names.bind("schedule", Named(name=config.schedule.name, params=config.schedule.params))
    factor: Factor = schedule(steps * config.training.epochs, round(steps * config.schedule.warmup_epochs))
    return factor


def run_info(setup: Setup, loop: FoldLoop) -> RunInfo:
    """What the trackers are told."""
    began = read_json(setup.project.run(setup.name) / "run.json")["began"]
    job = loop.fold if setup.config.seeds == 1 else f"{loop.fold}_seed_{loop.config.seed}"
    identity = f"{setup.competition.settings.competition}/{setup.name}/{job}/{began}"
    return RunInfo(
        project=setup.competition.settings.competition,
        experiment=setup.name,
        fold=job,
        folder=loop.folder,
        config=setup.config.model_dump(mode="json"),
        tags=setup.config.tracking.tags,
        run_id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        step=loop.progress.step,
    )


def fold_number(fold: str) -> int:
    """A number for seeding."""
    return 1_000 if fold == "full" else int(fold)
