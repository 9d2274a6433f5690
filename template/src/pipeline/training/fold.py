"""Training an experiment: its folds one after the other, each from where it stands."""

import gc
import shutil
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch

from pipeline import engine
from pipeline.callbacks.non_finite.replay import FOLDER as DUMPS
from pipeline.data.folds import FoldTable
from pipeline.data.loader import to_device
from pipeline.inference.device import choose_device, choose_precision, deterministic
from pipeline.inference.predict import FINISHED, fold_names, seed_folder
from pipeline.trackers import make_tracker
from pipeline.training.finish import average_seeds, finish_fold
from pipeline.training.memory import explained, try_step
from pipeline.training.optimizer import print_rates
from pipeline.training.run_folder import has_begun, open_run, the_only_trainer
from pipeline.training.setup import Setup
from pipeline.training.trainer import Trainer
from toolkit.distributed import ALONE, Processes, joined
from toolkit.errors import Interrupted, UserError, known_failures
from toolkit.files import read_json, remove_parts
from toolkit.terminal import table


def train(setup: Setup, fold: str, restart: bool) -> None:
    """Train some folds, all of them, or on everything (`0`, `0,2`, `all`, `full`).

    Raises:
        UserError: no such fold, or a run of other settings or code is there.
    """
    folds = choose_folds(setup.folds, fold)
    with deterministic(setup.config.machine.deterministic), joined() as processes:
        device = choose_device(setup.config.machine.device, processes.local_rank)
        choose_precision(setup.config.training.precision, device)
        if processes.size > 1:
            print(f"{processes.size} processes on {device.type} share each batch of {setup.config.training.batch_size}")
        # The others look for the run, and for weights in the hub's cache, once both are there.
        is_new, old = processes.from_main(lambda: begin(setup, folds, restart))
        try:
            with known_failures():
                train_folds(setup, folds, device, processes)
        except UserError:
            run = setup.project.run(setup.name)
            dumps = run.rglob(f"{DUMPS}/*.pt")  # what is kept for a second look needs the run's code
            if processes.is_main and is_new and not any(map(has_begun, run.glob("fold_*"))) and not any(dumps):
                shutil.rmtree(run)  # a setting was wrong: once it is mended, nothing must remember it
                if old is not None:
                    old.replace(run)
                    print(f"nothing was trained, so the old run is back in {setup.project.shown(run)}")
            raise


def begin(setup: Setup, folds: Sequence[str], restart: bool) -> tuple[bool, Path | None]:
    """`open_run`, once weights and test rows are there: better known before hours of training than after."""
    run, model, data = setup.project.run(setup.name), setup.config.model, setup.project.require_data()
    begins = restart or not all(has_begun(run / f"fold_{name}") for name in folds)
    if begins and model.pretrained and model.weights is None:
        print(f"getting the pretrained weights of '{model.encoder}', from the hub or its cache", flush=True)
        setup.task.model(setup.config, setup.names, pretrained=True)
    for note in setup.folds.warnings:
        print(f"warning: {note}")
    try:
        setup.competition.test_rows(data)
    except UserError as error:
        settings = setup.competition.settings
        if (data / settings.test_csv).exists() or (data / settings.sample_submission).exists():
            raise
        print(f"note: there are no test rows yet: {error}")
    return open_run(setup, folds, restart, engine.NAME)


def choose_folds(folds: FoldTable, asked: str) -> list[str]:
    """The names of the folds to train."""
    known = [str(fold) for fold in range(folds.n_folds)]
    chosen = known if asked == "all" else fold_names(asked)
    for name in chosen:
        if name not in (*known, "full"):
            raise UserError(f"there is no fold '{name}'; choose of {', '.join(known)}, several as 0,1, or all, or full")
    return chosen


def train_folds(setup: Setup, folds: Sequence[str], device: torch.device, processes: Processes) -> None:
    """Train folds one after the other, and each of them with every seed."""
    show_contract, first, count = True, setup.config.seed, setup.config.seeds
    for name in folds:
        folder = setup.project.run(setup.name) / f"fold_{name}"
        parts = {seed: seed_folder(folder, seed) if count > 1 else folder for seed in range(first, first + count)}
        for seed, part in parts.items():
            train_fold(setup.with_seed(seed), name, part, device, show_contract, processes)
            show_contract = False
        if processes.is_main and len(parts) > 1 and not (folder / FINISHED).is_file():
            average_seeds(setup, name, folder, list(parts.values()))


def train_fold(
    setup: Setup, fold: str, folder: Path, device: torch.device, show_contract: bool, processes: Processes = ALONE
) -> None:
    """Train one fold from where it stands to its out-of-fold predictions; a finished one is left alone."""
    if processes.from_main((folder / FINISHED).is_file):
        if processes.is_main:
            seed = f", seed {setup.config.seed}," if setup.config.seeds > 1 else ""
            weights = read_json(folder / FINISHED)["weights"]
            print(f"fold {fold}{seed} of '{setup.name}' is finished ({weights}); nothing to do")
        return
    gc.collect()  # the loop of a framework holds the fold before in a circle, and its memory on the GPU
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    run, began = setup.project.run(setup.name), time.monotonic()
    job = "_".join(folder.relative_to(run).parts)
    with the_only_trainer(run, job) if processes.is_main else nullcontext():
        if processes.is_main:
            remove_parts(folder)
        trainer = Trainer(setup, fold, folder, device, processes)
        if processes.is_main:
            info = setup.run_info(fold, folder, trainer.progress.step)
            trainer.tracker = make_tracker(info, setup.competition.settings.trackers, beside=device.type != "cpu")
        try:
            with closing(trainer), explained(trainer):
                trainer.signals.watch()
                if trainer.progress.epoch < trainer.epochs:
                    trainer.train_batches().start()
                if show_contract:
                    print_contract(trainer)
                    print_rates(trainer.optimizer)
                if setup.config.machine.compile:  # in place, so weights keep their names
                    for model in {trainer.model, trainer.averages.scored(trainer.model)}:
                        model.network.compile(dynamic=False)
                if trainer.progress.epoch < trainer.epochs:
                    try_step(trainer)
                    wait_for_batch(trainer, began)
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
    if processes.highest(int(trainer.signals.leaving)):  # asked for while the fold was being finished
        raise Interrupted(f"fold {fold} is finished; the same command goes on with what is left")


def fail(trainer: Trainer, error: BaseException) -> None:
    """Tell callbacks and trackers, and save what is trained where something else than a step has failed."""
    try:
        is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
        saves = is_failure and trainer.is_whole and trainer.processes.is_main
        if saves:
            with trainer.processes.alone():  # the others may be anywhere
                trainer.callbacks.on_sync(trainer)
            trainer.tracker.flush()
            trainer.save()
        trainer.checkpoints.wait()
        if saves:
            now = trainer.progress
            print(f"fold {trainer.fold} is saved at epoch {now.epoch + 1}, batch {now.batch}")
        trainer.callbacks.on_exception(trainer, error)
    finally:
        trainer.tracker.finish(succeeded=False)
    if trainer.signals.leaving and isinstance(error, RuntimeError):  # SIGTERM ended the loader's processes as well
        raise Interrupted("left at once; the same command goes on from the last saved state") from error


def wait_for_batch(trainer: Trainer, began: float) -> None:
    """Have the first batch there before the first epoch's clock starts, and say how long the start took, on a GPU."""
    if trainer.device.type == "cpu":
        return
    since = time.monotonic()
    trainer.train_batches().wait()
    now = time.monotonic()
    print(f"ready after {now - began:.1f} s, {now - since:.1f} of them waiting for the first batch", flush=True)


def print_contract(trainer: Trainer) -> None:
    """Check keys, dtypes and shapes on the first rows, before the first step."""
    dataset = trainer.parts["train"].loader.loader.dataset
    count = min(trainer.config.training.batch_size, len(trainer.train_rows), 4)
    batch = trainer.task.collate([dataset[(0, row)] for row in range(count)])
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(to_device(batch, trainer.device))
    rows = trainer.task.batch_schema(batch, outputs)
    table("the dict contract, on the first rows", ("key", "dtype", "shape", "in"), rows)
