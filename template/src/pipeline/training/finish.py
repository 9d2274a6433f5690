"""The end of a fold: which weights it keeps, and what they predict for the rows it held out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pipeline.competition import Metric, metric_values
from pipeline.data.folds import split
from pipeline.inference.device import autocast
from pipeline.inference.predict import FINISHED, predict_rows, read_predictions, write_predictions
from pipeline.inference.weights import BEST, load_weights, save_weights
from pipeline.tasks import Task
from pipeline.training.checkpoints import RAW
from pipeline.training.setup import Setup
from pipeline.training.step import seed_everything
from pipeline.training.trainer import Trainer
from pipeline.training.validation import quickly_tuned
from pipeline.types import StageResult
from toolkit.errors import UserError
from toolkit.files import read_json, write_json
from toolkit.terminal import progress, table

BEST_EPOCH = "best epoch"


def finish_fold(trainer: Trainer, seconds: float) -> None:
    """Predict the held-out rows with the weights that are kept, write both, and mark the fold as finished."""
    setup, config, task, fold, rows = trainer.setup, trainer.config, trainer.task, trainer.fold, trainer.valid_rows
    trainer.checkpoints.wait()
    best = trainer.best
    if best is None:
        raise UserError(f"fold {fold} has no weights to finish with; begin anew with --restart")
    (weights, candidates), result = choose_weights(trainer), None
    summary = {"fold": fold, "best_epoch": best.epoch + 1, "epochs": trainer.epochs, "weights": weights}
    watched: dict[str, float] = {}
    if not rows.empty:
        gallery = task.predictions.gallery(split(setup.folds.rows, fold)[0], rows)
        data, reader = setup.project.data, trainer.phases.reader
        predictions = predict_rows(
            task, [trainer.model], rows, data, config, setup.names, "valid", "out of fold", reader, gallery
        )
        truth, metrics = score_rows(task, trainer.metrics, rows, predictions)
        result = StageResult("valid", best.epoch, {}, metrics, truth, predictions, weights=weights)
        write_predictions(trainer.folder / "oof.parquet", task.stored(predictions, config, setup.names), int(fold))
        # The leaderboard's metric at thresholds tuned on these rows, where that is something else.
        heads = quickly_tuned(task, trainer.metrics[0], truth, predictions)
        tuned = metric_values(trainer.metrics[:1], truth, predictions, heads)
        watched = {name: score for name, score in tuned.items() if not np.isnan(score) and score != metrics[name]}
        summary |= {"metrics": metrics, "watched": watched} if watched else {"metrics": metrics}
    save_weights(trainer.model.state_dict(), trainer.folder / BEST, {"weights": weights})
    for name, candidate in candidates.items():
        if candidate["file"] == BEST:
            (trainer.folder / f"{name}.safetensors").unlink(missing_ok=True)
    if trainer.checkpoints.save_raw(trainer.folder):
        candidates["raw"] = {"file": RAW}
    trainer.callbacks.on_run_end(trainer, result)
    for name, score in watched.items():
        print(f"as it was watched, at thresholds tuned on these rows: {name} {score:.4f}")
    trainer.tracker.summary({"best_epoch": best.epoch + 1, **(result.metrics if result else {})})
    if config.tracking.log_checkpoint:
        trainer.tracker.checkpoint(trainer.folder / BEST)
    summary |= {"candidates": candidates, "seconds": round(seconds, 1), "notes": list(setup.folds.warnings)}
    write_json(trainer.folder / FINISHED, summary)
    trainer.checkpoints.clear(config.checkpoints.keep, best_is_copied=weights.startswith(BEST_EPOCH))


def choose_weights(trainer: Trainer) -> tuple[str, dict[str, dict[str, Any]]]:
    """Load the best weights into the trainer's model; says which they are, and the `file` of each candidate with its
    `metrics`, as `--weights` finds them.

    Averages over epochs are written beside the best epoch, and measured on the held-out rows. With nothing held out,
    the last kind of average that was asked for is taken.
    """
    candidates, results, best = weight_candidates(trainer), dict[str, StageResult](), ""
    for name, (label, load) in candidates.items():
        load()
        if not label.startswith(BEST_EPOCH):
            measure_batch_norm(trainer)
        if len(candidates) == 1:
            return label, {name: {"file": BEST}}
        save_weights(trainer.model.state_dict(), trainer.folder / f"{name}.safetensors", {"weights": label})
        if not trainer.valid_rows.empty:
            results[name] = validate(trainer)
        if not best or not results or trainer.monitor.is_better(results[name], results[best]):
            best = name
    load_weights(trainer.model, trainer.folder / f"{best}.safetensors")
    rows = [
        ("*" if name == best else "", candidates[name][0], result.losses["loss"], *result.metrics.values())
        for name, result in results.items()
    ]
    if results:
        table("weights, on the held-out rows", ("", "weights", "loss", *results[best].metrics), rows)
    found: dict[str, dict[str, Any]] = {name: {"file": f"{name}.safetensors"} for name in candidates}
    for name, result in results.items():
        found[name]["metrics"] = result.metrics
    found[best]["file"] = BEST
    return candidates[best][0], found


def weight_candidates(trainer: Trainer) -> dict[str, tuple[str, Callable[[], object]]]:
    """What could be kept: name -> what it is, and what loads it into the trainer's model."""
    store, averages, model = trainer.checkpoints, trainer.averages, trainer.model
    epoch, several = store.ranked[0].epoch, store.ranked[: trainer.config.averaging.best_epochs]
    load: Callable[[], object] = partial(load_weights, model, store.file(epoch))
    found = {"epoch" if averages.ema is None else "ema": (f"{BEST_EPOCH} {epoch + 1}", load)}
    if len(several) > 1:
        numbers = sorted(one.epoch + 1 for one in several)
        load = partial(load_mean, model, [store.file(one.epoch) for one in several])
        found["mean"] = f"mean of epochs {', '.join(map(str, numbers))}", load
    if averages.swa is not None:
        load = partial(model.load_state_dict, averages.swa.module.state_dict())
        found["swa"] = f"mean of epochs {averages.first + 1} to {trainer.epochs} (SWA)", load
    return found


def load_mean(model: nn.Module, files: Sequence[Path]) -> None:
    """Load the mean of several epochs' weights and buffers, computed in float64; counters are the last file's."""
    total: dict[str, Tensor] = {}
    for file in files:
        load_weights(model, file)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                total[name] = total.get(name, 0) + value.double() / len(files)
    model.load_state_dict({**model.state_dict(), **total})


def measure_batch_norm(trainer: Trainer) -> None:
    """Measure batch norm's running statistics anew, with one pass over the training rows, as averaged weights need it.

    A frozen part keeps those it has.
    """
    phase = trainer.phases.at(trainer.epochs - 1)
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trainer.model.modules())
    if has_norm and not phase.config.model.frozen and not phase.config.model.freeze_norm:
        seed_everything(trainer.config.seed, trainer.epochs)
        trainer.phases.batches.begin(trainer.epochs, 0)
        with autocast(trainer.device, trainer.precision):
            update_bn(progress(phase.loader, "batch norm of the mean"), trainer.model)


def validate(trainer: Trainer) -> StageResult:
    """Losses, metrics and predictions of the trainer's model on the held-out rows, outside the epochs."""
    trainer.model.eval()
    validation = trainer.validation()
    for batch in trainer.valid_loader:
        with torch.no_grad():
            for part, result in trainer.halves(partial(trainer.run_step, "valid"), batch):
                validation.add(part, result)
    return validation.result(trainer.progress.epoch)


def average_seeds(setup: Setup, fold: str, folder: Path, parts: Sequence[Path]) -> None:
    """The mean of what a fold's models of several seeds predict for the rows it held out."""
    summary: dict[str, Any] = {"fold": fold, "seeds": [part.name for part in parts]}
    if fold != "full":
        tables = [read_predictions(part / "oof.parquet") for part in parts]
        if tables[0].columns.empty:  # nothing of them was kept
            predictions, alone = tables[0], [read_json(part / FINISHED)["metrics"] for part in parts]
            summary["metrics"] = {name: float(np.mean([each[name] for each in alone])) for name in alone[0]}
        else:
            predictions = setup.task.predictions.average(tables)
            valid_rows = split(setup.folds.rows, fold)[1]
            summary["metrics"] = score_rows(setup.task, setup.competition.metrics(), valid_rows, predictions)[1]
        write_predictions(folder / "oof.parquet", predictions, int(fold))
        scores = ", ".join(f"{name} {value:.4f}" for name, value in summary["metrics"].items())
        print(f"fold {fold}, mean of {len(parts)} seeds  on the held-out rows: {scores}")
    write_json(folder / FINISHED, summary)


def score_rows(
    task: Task, metrics: Sequence[Metric], rows: pd.DataFrame, predictions: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Truth of labelled rows in the order of `predictions`, and every metric."""
    truth = task.predictions.truth(rows).loc[predictions.index]
    return truth, metric_values(metrics, truth, predictions, task.heads)
