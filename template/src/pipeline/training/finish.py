"""The end of a fold: which weights it keeps, and what they predict for the rows it held out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from pipeline.competition import metric_values
from pipeline.data.folds import split
from pipeline.inference.device import autocast
from pipeline.inference.predict import BEST, FINISHED, predict_rows, read_predictions, write_predictions
from pipeline.inference.weights import load_weights, save_weights
from pipeline.training.averaging import load_mean
from pipeline.training.setup import Setup
from pipeline.training.trainer import Trainer
from pipeline.training.validation import quickly_tuned, score_rows
from pipeline.types import StageResult
from toolkit.errors import UserError
from toolkit.files import read_json, write_json
from toolkit.seeds import seed_everything
from toolkit.terminal import progress, table

if TYPE_CHECKING:
    import pandas as pd

BEST_EPOCH = "best epoch"


def finish_fold(trainer: Trainer, seconds: float) -> None:
    """Predict the held-out rows with the weights that are kept, write both, and mark the fold as finished."""
    setup, config, task, fold = trainer.setup, trainer.config, trainer.task, trainer.fold
    best = trainer.best
    if best is None:
        raise UserError(f"fold {fold} has no weights to finish with; begin anew with --restart")
    chosen = choose_weights(trainer)
    result = None
    summary: dict[str, Any] = {"fold": fold, "best_epoch": best.epoch + 1, "epochs": trainer.epochs}
    summary["weights"] = chosen
    valid_rows = trainer.valid_rows
    if not valid_rows.empty:
        predictions = predict_rows(
            task,
            [trainer.model],
            valid_rows,
            setup.project.data,
            config,
            setup.names,
            "valid",
            "out of fold",
            trainer.phases.reader,
            task.predictions.gallery(split(setup.folds.rows, fold)[0], valid_rows),
        )
        truth, metrics = score_rows(task, trainer.metrics, valid_rows, predictions)
        watched = watched_score(trainer, truth, predictions, metrics)
        result = StageResult("valid", best.epoch, {}, metrics, truth, predictions, weights=chosen)
        write_predictions(trainer.folder / "oof.parquet", task.stored(predictions, config, setup.names), int(fold))
        summary |= {"metrics": metrics, "watched": watched} if watched else {"metrics": metrics}
    save_weights(trainer.model, trainer.folder / BEST, {"weights": chosen})
    trainer.checkpoints.keep_raw(trainer.folder)
    trainer.callbacks.on_run_end(trainer, result)
    for name, score in summary.get("watched", {}).items():
        print(f"as it was watched, at thresholds tuned on these rows: {name} {score:.4f}")
    trainer.tracker.summary({"best_epoch": best.epoch + 1, **summary.get("metrics", {})})
    if config.tracking.log_checkpoint:
        trainer.tracker.checkpoint(trainer.folder / BEST)
    summary["seconds"] = round(seconds, 1)
    summary["notes"] = list(setup.folds.warnings)
    write_json(trainer.folder / FINISHED, summary)
    trainer.checkpoints.clear(config.checkpoints.keep, best_is_copied=chosen.startswith(BEST_EPOCH))


def watched_score(
    trainer: Trainer, truth: "pd.DataFrame", predictions: "pd.DataFrame", usual: dict[str, float]
) -> dict[str, float]:
    """The leaderboard's metric at thresholds tuned on these rows, by name, where that is not what `usual` says."""
    metric = trainer.metrics[0]
    heads = quickly_tuned(trainer.task, metric, truth, predictions)
    score = metric_values([metric], truth, predictions, heads)[metric.name]
    return {} if np.isnan(score) or score == usual[metric.name] else {metric.name: score}


def choose_weights(trainer: Trainer) -> str:
    """Load the best weights into the trainer's model; says which they are.

    Averages over epochs are measured on the held-out rows beside the best epoch. With nothing held out, the last kind
    of average that was asked for is taken.
    """
    candidates = weight_candidates(trainer)
    if len(candidates) == 1 or trainer.valid_rows.empty:
        name, load = list(candidates.items())[-1]
        load()
        return name
    results: dict[str, StageResult] = {}
    best, kept = "", {}
    for name, load in candidates.items():
        load()
        results[name] = validate(trainer)
        if not best or trainer.monitor.is_better(results[name], results[best]):
            weights = trainer.model.state_dict()
            best, kept = name, {key: value.clone() for key, value in weights.items()}
    trainer.model.load_state_dict(kept)
    metrics = [metric.name for metric in trainer.metrics]
    rows = [
        ("*" if name == best else "", name, result.losses["loss"], *[result.metrics[metric] for metric in metrics])
        for name, result in results.items()
    ]
    table("weights, on the held-out rows", ("", "weights", "loss", *metrics), rows)
    return best


def validate(trainer: Trainer) -> StageResult:
    """Losses, metrics and predictions of the trainer's model on the held-out rows, outside the epochs."""
    trainer.model.eval()
    seen = trainer.validation()
    for batch in trainer.valid_loader:
        with torch.no_grad():
            seen.add(batch, trainer.run_step("valid", batch))
    return seen.result(trainer.progress.epoch)


def weight_candidates(trainer: Trainer) -> dict[str, Callable[[], None]]:
    """What could be kept: name -> loads it into the trainer's model."""
    kept, model = trainer.checkpoints.kept, trainer.model
    found: dict[str, Callable[[], None]] = {
        f"{BEST_EPOCH} {kept[0].epoch + 1}": partial(load_weights, model, trainer.checkpoints.best_file)
    }
    several = kept[: trainer.config.averaging.best_epochs]
    if len(several) > 1:
        files = [trainer.checkpoints.folder / entry.file for entry in several]
        numbers = ", ".join(str(number) for number in sorted(entry.epoch + 1 for entry in several))

        def load_mean_of_best() -> None:
            load_mean(model, files)
            measure_batch_norm(trainer)

        found[f"mean of epochs {numbers}"] = load_mean_of_best
    swa = trainer.averages.swa
    if swa is not None:

        def load_swa() -> None:
            model.load_state_dict(swa.module.state_dict())
            measure_batch_norm(trainer)

        found[f"mean of epochs {trainer.averages.first + 1} to {trainer.epochs} (SWA)"] = load_swa
    return found


def measure_batch_norm(trainer: Trainer) -> None:
    """Measure batch norm's running statistics anew, with one pass over the training rows, as averaged weights need it.

    A frozen part keeps those it has.
    """
    phase = trainer.phases.at(trainer.epochs - 1)
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trainer.model.modules())
    if not has_norm or phase.config.model.frozen or phase.config.model.freeze_norm:
        return
    seed_everything(trainer.config.seed, trainer.epochs)
    trainer.phases.batches.begin(trainer.epochs, 0)
    batches = progress(phase.loader, "batch norm of the mean")
    with autocast(trainer.device, trainer.precision):
        update_bn(batches, trainer.model)


def average_seeds(setup: Setup, fold: str, folder: Path, parts: list[Path]) -> None:
    """The mean of what a fold's models of several seeds predict for the rows it held out."""
    summary: dict[str, Any] = {"fold": fold, "seeds": [part.name for part in parts]}
    if fold != "full":
        tables = [read_predictions(part / "oof.parquet") for part in parts]
        if tables[0].columns.empty:  # nothing of them was kept
            predictions, alone = tables[0], [read_json(part / FINISHED)["metrics"] for part in parts]
            summary["metrics"] = {name: float(np.mean([each[name] for each in alone])) for name in alone[0]}
        else:
            predictions = setup.task.predictions.average(tables)
            _, valid_rows = split(setup.folds.rows, fold)
            summary["metrics"] = score_rows(setup.task, setup.competition.metrics(), valid_rows, predictions)[1]
        write_predictions(folder / "oof.parquet", predictions, int(fold))
        scores = ", ".join(f"{name} {value:.4f}" for name, value in summary["metrics"].items())
        print(f"fold {fold}, mean of {len(parts)} seeds  on the held-out rows: {scores}")
    write_json(folder / FINISHED, summary)
