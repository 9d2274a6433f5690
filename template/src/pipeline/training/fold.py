"""Training an experiment: its folds one after the other, each from where it stands."""

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pipeline import engine
from pipeline.callbacks.non_finite.replay import FOLDER as DUMPS
from pipeline.data.folds import FoldTable
from pipeline.data.loader import to_device
from pipeline.inference.device import choose_device, choose_precision
from pipeline.inference.predict import FINISHED, fold_names, seed_folder
from pipeline.training.finish import average_seeds, finish_fold
from pipeline.training.optimizer import print_rates
from pipeline.training.run_folder import open_run, set_aside, the_only_trainer
from pipeline.training.setup import Setup, prepare
from pipeline.training.trainer import Trainer
from toolkit.distributed import ALONE, Processes, end_processes, start_processes
from toolkit.errors import Interrupted, OthersFailed, UserError, known_failures
from toolkit.files import read_json, remove_parts
from toolkit.terminal import table

__all__ = ["Setup", "prepare", "train"]


def train(setup: Setup, fold: str, restart: bool) -> None:
    """Train some folds, all of them, or on everything (`0`, `0,2`, `all`, `full`).

    Raises:
        UserError: no such fold, or a run of other settings or code is there.
    """
    chosen = choose_folds(setup.folds, fold)
    processes = start_processes()
    try:
        device = choose_device(setup.config.machine.device, processes.local_rank)
        choose_precision(setup.config.training.precision, device)
        if processes.size > 1:
            print(f"{processes.size} processes on {device.type} share each batch of {setup.config.training.batch_size}")
        is_new, old = begin(setup, chosen, restart) if processes.is_main else (False, None)
        processes.wait()  # the others look for the run, and for weights in the hub's cache, once both are there
        try:
            with known_failures():
                train_folds(setup, chosen, device, processes)
        except UserError:
            folder = setup.project.run(setup.name)
            dumps = folder.rglob(f"{DUMPS}/*.pt")  # what is kept for a second look needs the run's code
            if is_new and not any(map(has_begun, folder.glob("fold_*"))) and not any(dumps):
                shutil.rmtree(folder)  # a setting was wrong: once it is mended, nothing must remember it
                if old is not None:
                    old.replace(folder)
                    print(f"nothing was trained, so the old run is back in {setup.project.shown(folder)}")
            raise
    except RuntimeError as error:
        if processes.lost(error):
            raise OthersFailed("another of the processes failed; what it said tells why") from error
        raise
    finally:
        end_processes()


def begin(setup: Setup, chosen: Sequence[str], restart: bool) -> tuple[bool, Path | None]:
    """Find the run unchanged, or make its folder; says whether it is new, and where the one before was set aside."""
    run, model = setup.project.run(setup.name), setup.config.model
    begins = restart or any(not has_begun(run / f"fold_{name}") for name in chosen)
    if begins and model.pretrained and model.weights is None:  # needs a network: fail before anything is written
        print(f"getting the pretrained weights of '{model.encoder}', from the hub or its cache", flush=True)
        setup.task.model(setup.config, setup.names, pretrained=True)
    for note in setup.folds.warnings:
        print(f"warning: {note}")
    try_test_rows(setup)
    record = {"folds": setup.folds.hash, "n_folds": setup.folds.n_folds}
    old = set_aside(setup.project, setup.name) if restart else None
    is_new = not run.exists()
    folders = {name: run / f"fold_{name}" for name in chosen}
    unfinished = [name for name, folder in folders.items() if has_begun(folder) and not (folder / FINISHED).is_file()]
    open_run(setup.project, setup.name, setup.config, record, engine.NAME, unfinished)
    return is_new, old


def try_test_rows(setup: Setup) -> None:
    """Read the test rows: what is wrong with `test_rows` is better known before hours of training than after them.

    Raises:
        UserError: they cannot be read, although a table for them is there.
    """
    data, settings = setup.project.require_data(), setup.competition.settings
    try:
        setup.competition.test_rows(data)
    except UserError as error:
        if (data / settings.test_csv).exists() or (data / settings.sample_submission).exists():
            raise
        print(f"note: there are no test rows yet: {error}")


def train_folds(setup: Setup, chosen: Sequence[str], device: torch.device, processes: Processes) -> None:
    """Train folds one after the other, and each of them with every seed."""
    show_contract, first, count = True, setup.config.seed, setup.config.seeds
    for name in chosen:
        folder = setup.project.run(setup.name) / f"fold_{name}"
        parts = {seed: seed_folder(folder, seed) if count > 1 else folder for seed in range(first, first + count)}
        for seed, part in parts.items():
            train_fold(setup.with_seed(seed), name, part, device, show_contract, processes)
            show_contract = False
        if processes.is_main and len(parts) > 1 and not (folder / FINISHED).is_file():
            average_seeds(setup, name, folder, list(parts.values()))


def has_begun(folder: Path) -> bool:
    """Whether there is something to go on from in the folder of a fold."""
    states = (*folder.glob("checkpoints/state*.pt"), *folder.glob("seed_*/checkpoints/state*.pt"))
    return bool(states) or (folder / FINISHED).is_file() or any(folder.glob(f"seed_*/{FINISHED}"))


def choose_folds(folds: FoldTable, asked: str) -> list[str]:
    """The names of the folds to train."""
    known = [str(fold) for fold in range(folds.n_folds)]
    chosen = known if asked == "all" else fold_names(asked)
    for name in chosen:
        if name not in (*known, "full"):
            raise UserError(
                f"there is no fold '{name}'; choose of {', '.join(known)}, several as 0,1, all of them as all, or full"
            )
    return chosen


def train_fold(
    setup: Setup, fold: str, folder: Path, device: torch.device, show_contract: bool, processes: Processes = ALONE
) -> None:
    """Train one fold from where it stands to its out-of-fold predictions; a finished one is left alone."""
    if processes.from_main((folder / FINISHED).is_file):
        if processes.is_main:
            kept = read_json(folder / FINISHED)["weights"]
            seed = f", seed {setup.config.seed}," if setup.config.seeds > 1 else ""
            print(f"fold {fold}{seed} of '{setup.name}' is finished ({kept}); nothing to do")
        return
    job = "_".join(folder.relative_to(setup.project.run(setup.name)).parts)
    with the_only_trainer(setup.project.run(setup.name), job) if processes.is_main else nullcontext():
        began = time.monotonic()
        if processes.is_main:
            remove_parts(folder)
        trainer = Trainer(setup, fold, folder, device, processes)
        try:
            with trainer:
                trainer.watch_signals()
                if show_contract:
                    print_contract(trainer)
                    print_rates(trainer.optimizer)
                compile_networks(trainer)
                trainer.callbacks.on_run_start(trainer)
                if trainer.progress.epoch < trainer.epochs:
                    engine.fit(trainer)
                if processes.is_main:
                    with processes.alone():
                        finish_fold(trainer, time.monotonic() - began)
        except BaseException as error:
            fail(trainer, error)
            raise
        trainer.tracker.finish(succeeded=True)
    if processes.highest(int(trainer.leaving)):  # asked for while the fold was being finished
        raise Interrupted(f"fold {fold} is finished; the same command goes on with what is left")


def fail(trainer: Trainer, error: BaseException) -> None:
    """Tell callbacks and trackers, and save what is trained where something else than a step has failed."""
    try:
        is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
        if is_failure and trainer.is_whole and trainer.processes.is_main:
            trainer.save()
            now = trainer.progress
            print(f"fold {trainer.fold} is saved at epoch {now.epoch + 1}, batch {now.batch}")
        trainer.callbacks.on_exception(trainer, error)
    finally:
        trainer.tracker.finish(succeeded=False)
    if trainer.leaving and isinstance(error, RuntimeError):  # SIGTERM ended the loader's processes as well
        raise Interrupted("left at once; the same command goes on from the last saved state") from error


def print_contract(trainer: Trainer) -> None:
    """Check keys, dtypes and shapes on the first rows, before the first step."""
    dataset = trainer.phases.at(trainer.progress.epoch).loader.loader.dataset
    count = min(trainer.config.training.batch_size, len(trainer.train_rows), 4)
    batch: dict[str, Any] = trainer.task.collate([dataset[(0, row)] for row in range(count)])
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(to_device(batch, trainer.device))
    table(
        "the dict contract, on the first rows",
        ("key", "dtype", "shape", "in"),
        trainer.task.batch_schema(batch, outputs),
    )


def compile_networks(trainer: Trainer) -> None:
    """`machine.compile`: the networks that train and that are scored, in place, so weights keep their names."""
    if trainer.config.machine.compile:
        for model in {id(model): model for model in (trainer.model, trainer.averages.scored(trainer.model))}.values():
            model.network.compile(dynamic=False)
