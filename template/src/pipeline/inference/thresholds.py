"""Thresholds of a run: tuned on its out-of-fold predictions, written where that helps, used by its submissions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Head, Metric, metric_values
from pipeline.inference.code import code_hash
from pipeline.inference.snapshot import CLASSES, CODE
from pipeline.tasks import Task, task_for, with_thresholds
from toolkit.errors import UserError
from toolkit.files import read_json, read_yaml
from toolkit.terminal import progress

FILE = "thresholds.json"  # in a run's folder, where tuned thresholds are the better ones
SCORES, METRIC_CODE = "cv.json", "metric_code"


@dataclass(frozen=True)
class Tuned:
    """The heads with the thresholds that score best on all rows, by which a submission is decided; the scores by fold
    and metric with those that were tuned on the other folds; their mean gain in the leaderboard's metric over the usual
    thresholds, and whether that is larger than its standard error, and so more than luck; and by how much the folds
    look better by the thresholds of all rows, which have seen them (`optimism`)."""

    heads: Sequence[Head]
    folds: dict[str, dict[str, float]]
    gain: float
    helps: bool
    optimism: float = 0.0

    def thresholds(self) -> dict[str, list[float]]:
        """By name of head."""
        return {head.name: list(head.thresholds) for head in self.heads if head.thresholds}


def tune(
    task: Task,
    metrics: Sequence[Metric],
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    fold_of: pd.Series,
    usual: dict[str, dict[str, float]],
) -> Tuned | None:
    """Tune on all rows, and for an honest score on all folds but one, which is scored. None where the metric or the
    heads need no thresholds, and where there is one fold only.

    Args:
        fold_of: the fold of each row.
        usual: fold -> metric -> score with the usual thresholds.
    """
    name = metrics[0].name
    if len(usual) < 2 or (tuner := task.predictions.tuner(truth, predictions, metrics[0])) is None:
        return None
    heads, folds, fitted = tuner(np.ones(len(truth), bool)), {}, []
    for fold in progress(list(usual), "tuning thresholds"):
        held_out = (fold_of == fold).to_numpy()
        tables = truth[held_out], predictions[held_out]
        folds[fold] = metric_values(metrics, *tables, tuner(~held_out))
        fitted.append(metrics[0].function(*tables, heads))
    sign, nested = 1 if metrics[0].greater_is_better else -1, np.array([folds[fold][name] for fold in usual])
    gains, optimism = sign * (nested - [usual[fold][name] for fold in usual]), sign * (np.array(fitted) - nested)
    helps = bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)))
    return Tuned(heads, folds, float(gains.mean()), helps, float(optimism.mean()))


def metric_code(competition: Competition) -> str:
    """A hash of the code that scores."""
    return code_hash(competition.part("metric", "metrics"))


def note_scored(run: Path, weights: str) -> None:
    """Print a line where a run was evaluated with weights of another name, and so its thresholds were."""
    scored = read_json(run / SCORES).get("weights", "best") if (run / SCORES).is_file() else weights
    if scored != weights:
        remedy = f"scripts/evaluate.py {run.name} --weights {weights} makes them fit"
        print(f"note: scores and thresholds of '{run.name}' are of its weights '{scored}'; {remedy}")


def task_of_run(run: Path, competition: Competition) -> Task:
    """The task of a run, which decides by the run's tuned thresholds where it has some; a `UserError` where they do not
    fit the heads, or were tuned for another metric than today's."""
    competition = competition.stage(read_yaml(run / "config.yaml").get("stage", ""))
    task = task_for(competition, competition.heads(read_json(run / CODE / CLASSES)))
    if not (run / FILE).is_file():
        return task
    remedy = f"run scripts/evaluate.py {run.name} again"
    scores = read_json(run / SCORES) if (run / SCORES).is_file() else {}
    metric = competition.metrics()[0].name
    before = scores.get("metric", metric)
    if before != metric or scores.get(METRIC_CODE, "") not in ("", metric_code(competition)):
        now = "another one" if before == metric else repr(metric)
        raise UserError(f"{run.name}/{FILE} was tuned for the metric '{before}', which is now {now}; {remedy}")
    try:
        return with_thresholds(task, read_json(run / FILE))
    except (UserError, AttributeError, TypeError) as error:
        raise UserError(f"{run.name}/{FILE} does not fit the run; {remedy}") from error
