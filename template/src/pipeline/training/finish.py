"""The end of a fold: which weights it keeps, and what they predict for the rows it held out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pipeline.competition import metric_values
from pipeline.data.folds import split
from pipeline.data.loader import to_device
from pipeline.inference.device import autocast
from pipeline.inference.predict import BEST, FINISHED, predict_rows, read_predictions, write_predictions
from pipeline.inference.weights import load_weights, save_weights
from pipeline.training.averaging import load_mean
from pipeline.training.loop import FoldLoop
from pipeline.training.seeds import seed_everything
from pipeline.training.setup import Setup
from pipeline.training.validation import quickly_tuned, score_rows
from pipeline.types import StageResult
from toolkit.errors import UserError
from toolkit.files import read_json, write_json
from toolkit.terminal import progress, table

if TYPE_CHECKING:
    import pandas as pd

BEST_EPOCH = "best epoch"


def finish_fold(setup: Setup, loop: FoldLoop, valid_rows: "pd.DataFrame", seconds: float) -> None:
    """Predict the held-out rows with the weights that are kept, write both, and mark the fold as finished."""
    best = loop.best
    if best is None:
        raise UserError(f"fold {loop.fold} has no weights to finish with; begin anew with --restart")
    chosen = choose_weights(loop)
    result = None
    summary: dict[str, Any] = {"fold": loop.fold, "best_epoch": best.epoch + 1, "epochs": loop.epochs}
    summary["weights"] = chosen
    if not valid_rows.empty:
        config, names, data = setup.config, setup.names, setup.project.data
        gallery = setup.task.predictions.gallery(split(setup.folds.rows, loop.fold)[0], valid_rows)
        predictions = predict_rows(
            setup.task,
            [loop.model],
            valid_rows,
            data,
            config,
            names,
            "valid",
            "out of fold",
            loop.stages.reader,
            gallery,
        )
        truth, metrics = score_rows(setup.task, loop.metrics, valid_rows, predictions)
        watched = watched_score(setup, loop, truth, predictions, metrics)
        result = StageResult("valid", best.epoch, {}, metrics, truth, predictions, weights=chosen)
        write_predictions(loop.folder / "oof.parquet", setup.task.stored(predictions, config, names), int(loop.fold))
        summary |= {"metrics": metrics, "watched": watched} if watched else {"metrics": metrics}
    save_weights(loop.model, loop.folder / BEST, {"weights": chosen})
    loop.checkpoints.keep_raw(loop.folder)
    loop.callbacks.on_run_end(loop, result)
    for name, score in summary.get("watched", {}).items():
        print(f"as it was watched, at thresholds tuned on these rows: {name} {score:.4f}")
    loop.tracker.summary({"best_epoch": best.epoch + 1, **summary.get("metrics", {})})
    if setup.config.tracking.log_checkpoint:
        loop.tracker.checkpoint(loop.folder / BEST)
    summary["seconds"] = round(seconds, 1)
    summary["notes"] = list(setup.folds.warnings)
    write_json(loop.folder / FINISHED, summary)
    loop.checkpoints.clear(setup.config.checkpoints.keep, best_is_copied=chosen.startswith(BEST_EPOCH))


def watched_score(
    setup: Setup, loop: FoldLoop, truth: "pd.DataFrame", predictions: "pd.DataFrame", usual: dict[str, float]
) -> dict[str, float]:
    """The leaderboard's metric at thresholds tuned on these rows, by name, where that is not what `usual` says."""
    metric = loop.metrics[0]
    heads = quickly_tuned(setup.task, metric, truth, predictions)
    score = metric_values([metric], truth, predictions, heads)[metric.name]
    return {} if np.isnan(score) or score == usual[metric.name] else {metric.name: score}


def choose_weights(loop: FoldLoop) -> str:
    """Load the best weights into the loop's model; says which they are.

    Averages over epochs are measured on the held-out rows beside the best epoch. With nothing held out, the last kind
    of average that was asked for is taken.
    """
    candidates = weight_candidates(loop)
    if len(candidates) == 1 or loop.valid_rows.empty:
        name, load = list(candidates.items())[-1]
        load()
        return name
    results: dict[str, StageResult] = {}
    best, kept = "", {}
    for name, load in candidates.items():
        load()
        results[name] = validate(loop)
        if not best or loop.monitor.is_better(results[name], results[best]):
            best, kept = name, clone_state(loop.model)
    loop.model.load_state_dict(kept)
    metrics = [metric.name for metric in loop.metrics]
    rows = [
        ("*" if name == best else "", name, result.losses["loss"], *[result.metrics[metric] for metric in metrics])
        for name, result in results.items()
    ]
    table("weights, on the held-out rows", ("", "weights", "loss", *metrics), rows)
    return best


def validate(loop: FoldLoop) -> StageResult:
    """Losses, metrics and predictions of the loop's model on the held-out rows, outside the epochs."""
    loop.model.eval()
    seen = loop.held_out()
    for batch in loop.valid_loader:
        moved = to_device(batch, loop.device)
        with torch.no_grad():
            seen.add(moved, loop.run_step("valid", moved))
    return seen.result(loop.progress.epoch)


def weight_candidates(loop: FoldLoop) -> dict[str, Callable[[], None]]:
    """What could be kept: name -> loads it into the loop's model."""
    kept, model = loop.checkpoints.kept, loop.model
    found: dict[str, Callable[[], None]] = {
        f"{BEST_EPOCH} {kept[0].epoch + 1}": partial(load_weights, model, loop.checkpoints.best_file)
    }
    several = kept[: loop.config.averaging.best_epochs]
    if len(several) > 1:
        files = [loop.checkpoints.folder / entry.file for entry in several]
        numbers = ", ".join(str(number) for number in sorted(entry.epoch + 1 for entry in several))

        def load_mean_of_best() -> None:
            load_mean(model, files)
            measure_batch_norm(loop)

        found[f"mean of epochs {numbers}"] = load_mean_of_best
    swa = loop.averages.swa
    if swa is not None:

        def load_swa() -> None:
            model.load_state_dict(swa.module.state_dict())
            measure_batch_norm(loop)

        found[f"mean of epochs {loop.averages.first + 1} to {loop.epochs} (SWA)"] = load_swa
    return found


def measure_batch_norm(loop: FoldLoop) -> None:
    """Measure batch norm's running statistics anew, with one pass over the training rows, as averaged weights need it.

    A frozen part keeps those it has.
    """
    last = loop.epochs - 1
    stage = loop.stages.at(last)
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in loop.model.modules())
    if not has_norm or stage.config.model.frozen or stage.config.model.freeze_norm:
        return
    seed_everything(loop.config.seed, loop.epochs)
    loop.stages.batches.begin(loop.epochs, 0)
    batches = progress(stage.loader, "batch norm of the mean")
    with autocast(loop.device, loop.precision):
        update_bn((to_device(batch, loop.device) for batch in batches), loop.model)


def clone_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights that stays what it is."""
    return {name: torch.clone(value) for name, value in model.state_dict().items()}


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
