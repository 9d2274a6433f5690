"""Out-of-fold predictions: put together, complete and unique or refused, and scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Metric, metric_values
from pipeline.data.folds import load_folds, split
from pipeline.inference.label_errors import FILE as SUSPECTS
from pipeline.inference.label_errors import write_suspects
from pipeline.inference.predict import FINISHED, HELD_OUT, TrainedRun, with_earlier, write_predictions
from pipeline.inference.thresholds import FILE as THRESHOLDS
from pipeline.inference.thresholds import METRIC_CODE, SCORES, Tuned, metric_code, task_of_run, tune, write_thresholds
from pipeline.keys import ROW_FOLD, ROW_ID
from pipeline.prediction_ids import by_prediction
from pipeline.project import Project
from pipeline.tasks import Task
from toolkit.errors import UserError, listed
from toolkit.files import file_of, read_json, write_json
from toolkit.plots.figures import save_figure
from toolkit.terminal import table


@dataclass(frozen=True)
class Evaluation:
    """Scores of an experiment.

    Attributes:
        folds: fold -> metric -> score on the rows it held out.
        overall: metric -> score on all out-of-fold rows at once; empty where nothing of their predictions was kept.
        constants: name -> metric -> what a prediction scores that looks at no image; see `constant_scores`.
        truth, predictions: tables indexed by id, in the same order.
        tuned: with thresholds that were tuned out of fold; none where nothing is decided by any.
    """

    metrics: Sequence[Metric]
    folds: dict[str, dict[str, float]]
    overall: dict[str, float]
    constants: dict[str, dict[str, float]]
    truth: pd.DataFrame
    predictions: pd.DataFrame
    tuned: Tuned | None = None

    @property
    def metric(self) -> str:
        """The leaderboard's metric."""
        return self.metrics[0].name

    @property
    def constant(self) -> dict[str, float]:
        """The best of `constants` in that metric."""
        best, *others = self.constants.values()
        for other in others:
            is_better = self.metrics[0].better(other[self.metric], best[self.metric])
            best = other if is_better or np.isnan(best[self.metric]) else best
        return best

    @property
    def decided(self) -> float:
        """The mean over the folds in the leaderboard's metric, at the thresholds that submissions are decided by."""
        folds = self.tuned.folds if self.tuned is not None and self.tuned.helps else self.folds
        return float(np.mean([scores[self.metric] for scores in folds.values()]))

    def as_json(self) -> dict[str, object]:
        """What `cv.json` holds."""
        scores = [scores[self.metric] for scores in self.folds.values()]
        tuned = {}
        if self.tuned is not None:
            used, gain = self.tuned.helps, self.tuned.gain
            tuned = {"tuned": {"used": used, "gain": gain, "folds": self.tuned.folds, **self.tuned.thresholds()}}
        return {
            "metric": self.metric,
            "score": self.overall.get(self.metric, float(np.mean(scores))),
            "mean": float(np.mean(scores)),
            "std": float(np.std(scores)),
            "rows": len(self.predictions),
            "overall": self.overall,
            "folds": self.folds,
            "constant": self.constant,
            **tuned,
        }


def read_oof(run: Path, folds: Sequence[str]) -> pd.DataFrame:
    """Out-of-fold predictions of some folds, indexed by id, with the column `fold`.

    Raises:
        UserError: a fold has none yet.
    """
    parts = []
    for fold in folds:
        path = run / f"fold_{fold}" / "oof.parquet"
        if not path.is_file():
            raise UserError(
                f"fold {fold} of '{run.name}' has no out-of-fold predictions; "
                f"run scripts/train.py {run.name} --fold {fold}, or evaluate one fold with --fold"
            )
        parts.append(pd.read_parquet(path).set_index(ROW_ID))
    return pd.concat(parts)


def constant_scores(task: Task, rows: pd.DataFrame, folds: Sequence[str]) -> dict[str, dict[str, float]]:
    """What predictions score that are the same for every row: mean over the folds, by name and metric.

    They are made from the rows that train a fold and scored on those that it holds out. All rows at once would not do:
    the folds' constants differ, and a ranking of rows would read the fold from them. Where a model is tuned, so is its
    constant, with the name `NAME, tuned`: its thresholds are those that score best on the rows of the other folds.
    """
    metrics = task.competition.metrics()
    scores: dict[str, list[dict[str, float]]] = {}
    for fold in folds:
        trains, held_out = split(rows, fold)
        others = rows[rows[ROW_FOLD].astype(str).isin(set(folds) - {fold})]
        truth = task.predictions.truth(held_out)
        constants = task.predictions.constants(trains, held_out)
        for name, constant in constants.items():
            scores.setdefault(name, []).append(metric_values(metrics, truth, constant.loc[truth.index], task.heads))
        if len(folds) > 1 and len(constants) == 1:  # several are what thresholds could make of one, as empty and full
            [(name, constant)] = constants.items()
            known = task.predictions.truth(others)
            made = task.predictions.constants(trains, others)[name].loc[known.index]
            tuner = task.predictions.tuner(known, made, metrics[0])
            if tuner is None:
                continue
            heads = tuner(np.ones(len(known), bool))
            found = metric_values(metrics, truth, constant.loc[truth.index], heads)
            scores.setdefault(f"{name}, tuned", []).append(found)
    return {
        name: {metric.name: float(np.mean([each[metric.name] for each in values])) for metric in metrics}
        for name, values in scores.items()
    }


def evaluate(run: TrainedRun, rows: pd.DataFrame, folds: Sequence[str]) -> Evaluation:
    """Score the out-of-fold predictions of `folds` against the labelled `rows` (with their `fold`).

    Where nothing of the predictions was kept, the scores are those that the folds had when they were trained.

    Raises:
        UserError: a row was predicted twice, or not at all, or is none of these folds' rows.
    """
    oof, rows = read_oof(run.folder, folds), by_prediction(rows)
    expected = rows[rows[ROW_FOLD].astype(str).isin(folds)]
    twice = oof.index[oof.index.duplicated()]
    missing = expected[ROW_ID][~expected[ROW_ID].isin(oof.index)]
    extra = oof.index[~oof.index.isin(expected[ROW_ID])]
    for fault, ids in (("predicted twice", twice), ("not predicted", missing), ("not in these folds", extra)):
        if len(ids):
            raise UserError(
                f"out-of-fold rows of '{run.folder.name}': {len(ids)} {fault} ({listed(ids)}); "
                f"train the folds again: scripts/train.py {run.folder.name} --fold all --restart"
            )
    fold_of, predictions = oof[ROW_FOLD].astype(str), oof.drop(columns=ROW_FOLD)
    truth = run.task.predictions.truth(expected).loc[predictions.index]
    metrics, heads = run.task.competition.metrics(), run.task.heads
    constants = constant_scores(run.task, rows, folds)
    if predictions.columns.empty:
        trained = {fold: read_json(run.folder / f"fold_{fold}" / FINISHED)["metrics"] for fold in folds}
        unknown = [metric.name for metric in metrics if any(metric.name not in scores for scores in trained.values())]
        if unknown:
            raise UserError(
                f"'{run.folder.name}' kept no out-of-fold predictions (task.params.store: none) and was not scored by "
                f"'{unknown[0]}' when it was trained; change the metric back, or train it with another store"
            )
        return Evaluation(metrics, trained, {}, constants, truth, predictions)
    by_fold = {}
    for fold in folds:
        held_out = fold_of == fold
        by_fold[fold] = metric_values(metrics, truth[held_out], predictions[held_out], heads)
    overall = metric_values(metrics, truth, predictions, heads)
    tuned = tune(run.task, metrics, truth, predictions, fold_of, by_fold)
    return Evaluation(metrics, by_fold, overall, constants, truth, predictions, tuned)


def evaluate_run(project: Project, competition: Competition, folder: Path, data: Path, fold: str | None) -> None:
    """Score a run, print the table, and write `oof.parquet`, `cv.json` and pictures into its folder.

    Args:
        fold: as in `TrainedRun.choose_folds`. Some of the folds do not replace what was written of more of them.
    """
    run = TrainedRun.open(folder, competition)
    if run.experiment.training.max_rows is not None:
        raise UserError(
            f"'{folder.name}' trained and held out a few rows only (training.max_rows), for a first look; "
            "there is no score to be had from it"
        )
    stage = run.task.competition
    rows = with_earlier(project, run.experiment.inputs, stage.train_rows(data), HELD_OUT)
    table_of_folds = load_folds(project, run.experiment.folds, rows, stage.settings)
    if table_of_folds.hash != read_json(folder / "run.json")["folds"]:
        raise UserError(
            f"folds/{run.experiment.folds}.csv is not the one '{folder.name}' was trained with; restore it from git, "
            f"or train again: scripts/train.py {folder.name} --restart"
        )
    folds = run.choose_folds(fold, held_out=True)
    for metric in stage.metrics():
        metric.check_heads(run.task.heads)
    evaluation = evaluate(run, table_of_folds.rows, folds)
    more = fold is not None and holds_more(run, evaluation)
    if more:
        print_scores(project, folder, evaluation, written=False)
        print(f"{project.shown(folder)}/cv.json holds more folds than these, and stays as it is")
        return
    made_by = {"n_folds": len(run.expected_folds()), METRIC_CODE: metric_code(stage)}
    write_json(folder / SCORES, {**evaluation.as_json(), **made_by})
    write_thresholds(folder, evaluation.tuned)
    if evaluation.overall:
        write_predictions(folder / HELD_OUT, read_oof(folder, folds).drop(columns=ROW_FOLD))
        figures = task_of_run(folder, competition).figures
        for name, figure in figures.overview(evaluation.truth, evaluation.predictions).items():
            save_figure(figure, file_of(folder / "figures", name, ".png"))
    else:
        (folder / HELD_OUT).unlink(missing_ok=True)
    print_scores(project, folder, evaluation)
    summary = write_suspects(run, table_of_folds.rows, evaluation.truth, evaluation.predictions, data)
    print(f"{summary} in {project.shown(folder / SUSPECTS)}")


def holds_more(run: TrainedRun, evaluation: Evaluation) -> bool:
    """Whether `cv.json` says the same of these folds, and of others that are still there."""
    path = run.folder / SCORES
    before = read_json(path)["folds"] if path.is_file() else {}
    same = all(before.get(fold) == scores for fold, scores in evaluation.folds.items())
    return same and len(before) > len(evaluation.folds) and set(before) <= set(run.finished_folds())


def print_scores(project: Project, folder: Path, evaluation: Evaluation, written: bool = True) -> None:
    """The scores of every fold, their mean and spread, of tuned thresholds, of a constant prediction, and of all rows.

    The line `tuned` is a mean as well, each fold scored with thresholds from the others.
    """
    names = [metric.name for metric in evaluation.metrics]
    rows = [(f"fold {fold}", *[scores[name] for name in names]) for fold, scores in evaluation.folds.items()]
    if len(rows) > 1:
        columns = [[float(scores[name]) for scores in evaluation.folds.values()] for name in names]
        rows.append(("mean", *[float(np.mean(column)) for column in columns]))
        rows.append(("spread", *[float(np.std(column)) for column in columns]))
    if evaluation.tuned is not None:
        tuned = evaluation.tuned.folds.values()
        rows.append(("tuned", *[float(np.mean([scores[name] for scores in tuned])) for name in names]))
    rows += [(kind, *[scores[name] for name in names]) for kind, scores in evaluation.constants.items()]
    table(
        f"{folder.name}: {evaluation.metric} out of fold",
        ("", *names),
        rows,
        footer=("all rows", *[evaluation.overall[name] for name in names]) if evaluation.overall else (),
    )
    constant = evaluation.constant[evaluation.metric]
    if evaluation.metrics[0].better(constant, evaluation.decided):
        print(
            f"note: what looks at no image scores {constant:.4f} in {evaluation.metric}, and '{folder.name}' "
            f"{evaluation.decided:.4f}: it has learnt nothing that this metric rewards"
        )
    if not evaluation.overall:
        print(
            f"these are the scores of the training, since '{folder.name}' kept no out-of-fold predictions "
            "(task.params.store: none): no thresholds are tuned, and no pictures drawn; `masks` keeps enough to score"
        )
        return
    if written:
        if (best := evaluation.tuned) is not None:
            gain, metric = best.gain, evaluation.metric
            used = f"tuned ones gain {gain:.4f} in {metric}; submissions use {project.shown(folder / THRESHOLDS)}"
            unused = f"tuned ones gain nothing for certain ({gain:+.4f} in {metric}); the usual ones stay"
            print(f"thresholds: {used if best.helps else unused}")
        print(f"written: {project.shown(folder / HELD_OUT)}, {project.shown(folder / SCORES)}, figures/")
