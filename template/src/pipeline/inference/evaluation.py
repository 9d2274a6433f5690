"""Out-of-fold predictions: put together, complete and unique or refused, scored, and held against the labels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Metric, metric_values, rank
from pipeline.data.folds import load_folds, split
from pipeline.inference.bootstrap import Interval, groups_of, resampled, score_of
from pipeline.inference.candidates import oof_name, predict_held_out, print_weights
from pipeline.inference.device import deterministic
from pipeline.inference.label_errors import SUSPECTS, write_suspects
from pipeline.inference.predict import HELD_OUT, TrainedRun, expected_folds, with_earlier, write_predictions
from pipeline.inference.snapshot import FINISHED, finished_folds
from pipeline.inference.thresholds import FILE as THRESHOLDS
from pipeline.inference.thresholds import METRIC_CODE, SCORES, Tuned, metric_code, task_of_run, tune
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.project import Project
from pipeline.rows import by_prediction
from pipeline.tasks import Task
from toolkit.errors import UserError, listed
from toolkit.files import file_of, read_json, write_json
from toolkit.plots.figures import save_figure
from toolkit.terminal import table

ALL, TUNED = "interval", "tuned_interval"  # of all rows, at the usual thresholds and at tuned ones where they help


@dataclass(frozen=True)
class Evaluation:
    """Scores of an experiment by metric, and what they are of: tables indexed by id, in the same order."""

    metrics: Sequence[Metric]
    folds: dict[str, dict[str, float]]  # by fold, on the rows it held out
    overall: dict[str, float]  # on all out-of-fold rows at once; empty where none of their predictions were stored
    constants: dict[str, dict[str, float]]  # by name, see `constant_scores`
    truth: pd.DataFrame
    predictions: pd.DataFrame
    tuned: Tuned | None = None  # with thresholds that were tuned out of fold; none where nothing is decided by any
    intervals: dict[str, Interval] = field(default_factory=dict)  # of the leaderboard's metric: `ALL`, `TUNED`
    seeds: dict[str, float] = field(default_factory=dict)  # by metric, the spread over seeds of the same fold

    @property
    def constant(self) -> dict[str, float]:
        """The best of `constants` in the leaderboard's metric."""
        first = self.metrics[0]
        return max(self.constants.values(), key=lambda scores: rank(scores[first.name], 0, first.greater_is_better))

    def as_json(self) -> dict[str, object]:
        """What `cv.json` holds."""
        name, folds, tuned = self.metrics[0].name, self.folds.values(), self.tuned
        mean = over(folds)[name]
        found = {"metric": name, "score": self.overall.get(name, mean), "mean": mean, "std": over(folds, np.std)[name]}
        found |= {"rows": len(self.predictions), "overall": self.overall, "folds": self.folds}
        found["constant"] = self.constant
        found |= {name: asdict(interval) for name, interval in self.intervals.items()}
        found |= {"seed_std": self.seeds[name]} if name in self.seeds else {}
        if tuned is not None:
            used = {"used": tuned.helps, "gain": tuned.gain, "optimism": tuned.optimism, "folds": tuned.folds}
            found["tuned"] = used | tuned.thresholds()
        return found


def over(folds: Iterable[dict[str, float]], function: Callable[..., np.floating] = np.mean) -> dict[str, float]:
    """The mean, or another function, of each score that all folds have."""
    scores = list(folds)
    names = [name for name in scores[0] if all(name in each for each in scores)]
    return {name: float(function([each[name] for each in scores])) for name in names}


def read_oof(run: Path, folds: Sequence[str], weights: str = "best") -> pd.DataFrame:
    """Out-of-fold predictions of some folds by the weights of that name, indexed by id, with the column `fold`."""
    paths = {fold: run / f"fold_{fold}" / oof_name(weights) for fold in folds}
    for fold, path in paths.items():
        if not path.is_file():
            remedy = f"run scripts/train.py {run.name} --fold {fold}, or evaluate one fold with --fold"
            raise UserError(f"fold {fold} of '{run.name}' has no out-of-fold predictions; {remedy}")
    return pd.concat([pd.read_parquet(path).set_index(ROW_ID) for path in paths.values()])


def constant_scores(task: Task, rows: pd.DataFrame, folds: Sequence[str]) -> dict[str, dict[str, float]]:
    """What predictions score that are the same for every row: mean over the folds, by name and metric.

    Made from the rows that train a fold and scored on those that it holds out: on all rows at once, a ranking would
    read the fold from the constant. Where a model is tuned, so is its constant (`NAME, tuned`), on the other folds.
    """
    metrics, scores = task.competition.metrics(), dict[str, list[dict[str, float]]]()
    for fold in folds:
        trains, held_out = split(rows, fold)
        truth, constants = task.predictions.truth(held_out), task.predictions.constants(trains, held_out)
        for name, constant in constants.items():
            found = metric_values(metrics, truth, constant.loc[truth.index], task.heads)
            scores.setdefault(name, []).append(found)
        if len(folds) > 1 and len(constants) == 1:  # several are what thresholds could make of one, as empty and full
            others = rows[rows[ROW_FOLD].astype(str).isin(set(folds) - {fold})]
            known = task.predictions.truth(others)
            made = task.predictions.constants(trains, others)[name].loc[known.index]
            if (tuner := task.predictions.tuner(known, made, metrics[0])) is not None:
                found = metric_values(metrics, truth, constant.loc[truth.index], tuner(np.ones(len(known), bool)))
                scores.setdefault(f"{name}, tuned", []).append(found)
    return {name: over(values) for name, values in scores.items()}


def evaluate(run: TrainedRun, rows: pd.DataFrame, folds: Sequence[str], weights: str = "best") -> Evaluation:
    """Score the out-of-fold predictions of `folds` against the labelled `rows` (with their `fold`); where nothing of
    them was stored, the scores are those of the training.

    Raises:
        UserError: a row was predicted twice, or not at all, or is none of these folds' rows.
    """
    name, oof, rows = run.folder.name, read_oof(run.folder, folds, weights), by_prediction(rows)
    expected = rows[rows[ROW_FOLD].astype(str).isin(folds)]
    faults: dict[str, pd.Index | pd.Series] = {
        "predicted twice": oof.index[oof.index.duplicated()],
        "not predicted": expected[ROW_ID][~expected[ROW_ID].isin(oof.index)],
        "not in these folds": oof.index[~oof.index.isin(expected[ROW_ID])],
    }
    for fault, ids in faults.items():
        if len(ids):
            remedy = f"train the folds again: scripts/train.py {name} --fold all --restart"
            raise UserError(f"out-of-fold rows of '{name}': {len(ids)} {fault} ({listed(ids)}); {remedy}")
    fold_of, predictions = oof[ROW_FOLD].astype(str), oof.drop(columns=ROW_FOLD)
    truth, metrics = run.task.predictions.truth(expected).loc[predictions.index], run.task.competition.metrics()
    heads, constants = run.task.heads, constant_scores(run.task, rows, folds)
    if predictions.columns.empty:
        trained = {fold: read_json(run.folder / f"fold_{fold}" / FINISHED)["metrics"] for fold in folds}
        unknown = [metric.name for metric in metrics if any(metric.name not in scores for scores in trained.values())]
        if unknown:
            why = f"kept no out-of-fold predictions (task.params.store: none) and was not scored by '{unknown[0]}'"
            raise UserError(f"'{name}' {why}; change the metric back, or train it with another store")
        return Evaluation(metrics, trained, {}, constants, truth, predictions)
    by_fold = {
        fold: metric_values(metrics, truth[fold_of == fold], predictions[fold_of == fold], heads) for fold in folds
    }
    overall = metric_values(metrics, truth, predictions, heads)
    tuned = tune(run.task, metrics, truth, predictions, fold_of, by_fold)
    decided = {ALL: heads} | ({TUNED: tuned.heads} if tuned is not None and tuned.helps else {})
    groups, by = groups_of(expected, predictions.index), decided.values()
    drawn = resampled(lambda rows: [score_of(metrics[0], truth, predictions, each, rows) for each in by], groups)
    found = {name: Interval.of(scores, groups) for name, scores in zip(decided, drawn.T, strict=True)}
    intervals = {name: interval for name, interval in found.items() if interval is not None}
    seeds = seed_spread(run.folder, folds)
    return Evaluation(metrics, by_fold, overall, constants, truth, predictions, tuned, intervals, seeds)


def seed_spread(run: Path, folds: Sequence[str]) -> dict[str, float]:
    """By metric, the spread over the seeds of a fold, each model alone, mean over the folds; empty with one seed."""
    found = [[read_json(one)["metrics"] for one in run.glob(f"fold_{fold}/seed_*/{FINISHED}")] for fold in folds]
    return over([over(scores, np.std) for scores in found]) if all(found) else {}


def evaluate_run(
    project: Project, competition: Competition, folder: Path, data: Path, fold: str | None, weights: str = "best"
) -> None:
    """Score a run's folds (`TrainedRun.choose_folds`), print the table, and write `oof.parquet`, `cv.json` and pictures
    into its folder. Some of the folds do not replace what was written of more of them."""
    run = TrainedRun.open(folder, competition)
    rows, stage = labelled_rows(project, run, data), run.task.competition
    folds = run.choose_folds(fold, held_out=True)
    if weights != "best":
        predict_held_out(project, run, rows, folds, weights)
    with deterministic(run.experiment.machine.deterministic):  # a metric may use torch
        found = evaluate(run, rows, folds, weights)
    before = read_json(folder / SCORES)["folds"] if (folder / SCORES).is_file() and fold is not None else {}
    same = all(before.get(name) == scores for name, scores in found.folds.items())
    if same and len(before) > len(folds) and set(before) <= set(finished_folds(folder)):
        print_scores(project, folder, found, written=False)
        print(f"{project.shown(folder)}/{SCORES} holds more folds than these, and stays as it is")
        return
    made_by = {"weights": weights, "n_folds": len(expected_folds(folder)), METRIC_CODE: metric_code(stage)}
    write_json(folder / SCORES, {**found.as_json(), **made_by})
    if found.tuned is not None and found.tuned.helps:
        write_json(folder / THRESHOLDS, found.tuned.thresholds())
    else:
        (folder / THRESHOLDS).unlink(missing_ok=True)
    if found.overall:
        write_predictions(folder / HELD_OUT, read_oof(folder, folds, weights).drop(columns=ROW_FOLD))
        for name, figure in task_of_run(folder, competition).figures.overview(found.truth, found.predictions).items():
            save_figure(figure, file_of(folder / "figures", name, ".png"))
    else:
        (folder / HELD_OUT).unlink(missing_ok=True)
    print_scores(project, folder, found)
    print_weights(run, folds, weights)
    line = write_suspects(run, rows, found.truth, found.predictions, data)
    print(f"{line} in {project.shown(folder / SUSPECTS)}")


def labelled_rows(project: Project, run: TrainedRun, data: Path) -> pd.DataFrame:
    """The training rows with their `fold`; a `UserError` where a run cannot be scored on them."""
    name, competition = run.folder.name, run.task.competition
    if run.experiment.training.max_rows is not None:
        raise UserError(f"'{name}' trained and held out a few rows only (training.max_rows): it has no score")
    rows = with_earlier(project, run.experiment.inputs, competition.train_rows(data), HELD_OUT)
    table_of_folds = load_folds(project, run.experiment.folds, rows, competition.settings)
    if table_of_folds.hash != read_json(run.folder / "run.json")["folds"]:
        what = f"folds/{run.experiment.folds}.csv is not the one '{name}' was trained with"
        raise UserError(f"{what}; restore it, or train again: scripts/train.py {name} --restart")
    for metric in competition.metrics():
        metric.check_heads(run.task.heads)
    return table_of_folds.rows


def print_scores(project: Project, folder: Path, found: Evaluation, written: bool = True) -> None:
    """The scores of every fold, their mean and spread, of tuned thresholds, of constant predictions, and of all rows.

    The line `tuned` is a mean as well, each fold scored with thresholds from the others.
    """
    names, tuned, run = [metric.name for metric in found.metrics], found.tuned, folder.name
    metric = names[0]
    lines = {f"fold {fold}": scores for fold, scores in found.folds.items()}
    if len(lines) > 1:
        lines |= {"mean": over(found.folds.values()), "spread": over(found.folds.values(), np.std)}
    if set(names) <= set(found.seeds):
        lines |= {"spread of seeds": found.seeds}
    lines |= {} if tuned is None else {"tuned": over(tuned.folds.values())}
    rows = [(label, *[scores[each] for each in names]) for label, scores in (lines | found.constants).items()]
    footer = ("all rows", *[found.overall[each] for each in names]) if found.overall else ()
    table(f"{run}: {metric} out of fold", ("", *names), rows, footer=footer)
    for which, interval in found.intervals.items():
        print(f"{metric} of all rows{' by tuned thresholds' if which == TUNED else ''}: {interval}")
    if found.overall and not found.intervals:
        print(f"{metric} of all rows: no interval, since it is not defined on most resamples, or takes too long")
    constant, decided = found.constant[metric], tuned.folds if tuned is not None and tuned.helps else found.folds
    score = over(decided.values())[metric]
    if found.metrics[0].better(constant, score):
        what = f"what looks at no image scores {constant:.4f} in {metric}, and '{run}' {score:.4f}"
        print(f"note: {what}: it has learnt nothing that this metric rewards")
    if not found.overall:
        what = f"these are the scores of the training, since '{run}' kept no out-of-fold predictions"
        print(f"{what} (task.params.store: none): no thresholds, no pictures; `masks` keeps enough to score")
    elif written:
        if tuned is not None:
            used = f"tuned ones gain {tuned.gain:.4f} in {metric}; submissions use {project.shown(folder / THRESHOLDS)}"
            unused = f"tuned ones gain nothing for certain ({tuned.gain:+.4f} in {metric}); the usual ones stay"
            print(f"thresholds: {used if tuned.helps else unused}")
            print(f"optimism: on the rows that tuned them, thresholds look better than that by {tuned.optimism:.4f}")
        print(f"written: {project.shown(folder / HELD_OUT)}, {project.shown(folder / SCORES)}, figures/")
