"""Runs side by side, from their files alone: no server, no tracker."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.inference.snapshot import FINISHED
from pipeline.project import Project
from pipeline.submission.build import SUBMITTED
from toolkit.errors import UserError
from toolkit.files import read_json, read_yaml
from toolkit.terminal import console, table

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.competition import Head, Metric


def compare(project: Project, names: Sequence[str]) -> None:
    """Print the scores of experiments, fold by fold, where their submission and pictures are, and what the difference
    of each to the first one is worth.

    Raises:
        UserError: an experiment has no run, or no fold of it is trained and held rows out.
    """
    runs = {run: _scores(run) for run in map(project.require_run, names)}
    folds = list(dict.fromkeys(fold for found in runs.values() for fold in found["folds"]))
    rows, lines = [], []
    for run, found in runs.items():
        submitted = read_json(run / SUBMITTED) if (run / SUBMITTED).is_file() else {}
        per_fold = [found["folds"].get(fold, {}).get(found["metric"], "") for fold in folds]
        spread = f"{found['mean']:.4f}" + (f" ± {found['std']:.4f}" if len(found["folds"]) > 1 else "")
        rows.append((run.name, *per_fold, spread, found.get("score", ""), submitted.get("score", "")))
        if note := _incomplete(run, found):
            lines += [f"{run.name}: note       {note}"]
        if (weights := found.get("weights", "best")) != "best":
            lines += [f"{run.name}: weights    {weights}"]
        lines += [f"{run.name}: submission {submitted.get('file', 'not made yet')}"]
        lines += [f"{run.name}: pictures   {project.shown(run)}/figures and fold_*/figures"]
    columns = ("experiment", *[f"fold {fold}" for fold in folds], "mean ± spread", "out of fold", "demo leaderboard")
    count = len(columns) - all(row[-1] == "" for row in rows)
    metrics = ", ".join(dict.fromkeys(str(found["metric"]) for found in runs.values()))
    table(f"scores ({metrics})", columns[:count], [row[:count] for row in rows])
    console().print("\n".join(lines), soft_wrap=True)
    if len(runs) > 1:
        try:
            print_differences(project, list(runs))
        except UserError as error:
            print(f"no differences: {error}")


def print_differences(project: Project, runs: Sequence[Path]) -> None:
    """Print how each run differs from the first in the leaderboard's metric, on the rows both have, and in how many
    resamples of these it is better; each decides as its submission does. A `UserError` where a run cannot be scored."""
    from pipeline.inference.bootstrap import Interval, groups_of, resampled, score_of

    (metric, heads, rows, truth, first), *others = [_held_out(project, run) for run in runs]
    sign, lines, sentences = 1 if metric.greater_is_better else -1, [], []
    for run, (its_metric, its_heads, _, _, predictions) in zip(runs[1:], others, strict=True):
        both = truth.index[truth.index.isin(predictions.index)]
        if both.empty or its_metric.name != metric.name:
            raise UserError(f"'{run.name}' has no row in common with '{runs[0].name}', or is scored by another metric")
        known, sides = truth.loc[both], [(first.loc[both], heads), (predictions.loc[both], its_heads)]

        def scores(drawn: Any, known: Any = known, sides: Any = sides) -> list[float]:
            return [score_of(metric, known, said, decided, drawn) for said, decided in sides]

        groups, (before, now) = groups_of(rows, both), scores(slice(None))
        gains = sign * resampled(scores, groups) @ [-1, 1]
        if (interval := Interval.of(gains, groups)) is None:
            raise UserError(f"{metric.name} is not defined on most resamples, or takes too long")
        lines.append((run.name, len(both), before, now, sign * (now - before), interval.low, interval.high))
        equal = f", and equal in {(gains == 0).mean():.0%}" if (gains == 0).any() else ""
        better = f"{(gains > 0).mean():.0%} of {len(gains):,} resamples of {interval.units}"
        sentences.append(f"{run.name} is better than {runs[0].name} in {better}{equal}")
    columns = ("experiment", "rows both have", runs[0].name, "its own", "better by", "2.5 %", "97.5 %")
    table(f"differences from {runs[0].name} ({metric.name})", columns, lines)
    console().print("\n".join(sentences), soft_wrap=True)


def _held_out(project: Project, run: Path) -> "tuple[Metric, Sequence[Head], pd.DataFrame, pd.DataFrame, pd.DataFrame]":
    """The leaderboard's metric, the heads with tuned thresholds, and the rows, truth and predictions out of fold."""
    from pipeline.data.folds import is_scored
    from pipeline.inference.evaluation import read_oof
    from pipeline.inference.predict import HELD_OUT, read_predictions
    from pipeline.inference.snapshot import finished_folds, run_competition
    from pipeline.inference.thresholds import task_of_run
    from pipeline.keys import ROW_FOLD, ROW_ID
    from pipeline.rows import by_prediction

    if (run / HELD_OUT).is_file():
        predictions = read_predictions(run / HELD_OUT)
    else:
        predictions = read_oof(run, [fold for fold in finished_folds(run) if fold != "full"]).drop(columns=ROW_FOLD)
    if predictions.columns.empty:
        raise UserError(f"'{run.name}' kept no out-of-fold predictions (task.params.store: none)")
    with run_competition(run) as competition:
        task = task_of_run(run, competition)
        rows = task.competition.train_rows(project.require_data())
        rows = by_prediction(rows[is_scored(rows)])
        rows = rows[rows[ROW_ID].isin(predictions.index)]
        return task.competition.metrics()[0], task.heads, rows, task.predictions.truth(rows), predictions


def _scores(run: Path) -> dict[str, Any]:
    """What the evaluation found, or before it what the trainings of the folds did."""
    if (run / "cv.json").is_file():
        found: dict[str, Any] = read_json(run / "cv.json")
        return found
    finished = [read_json(path) for path in sorted(run.glob(f"fold_*/{FINISHED}"))]
    folds = {summary["fold"]: summary["metrics"] for summary in finished if "metrics" in summary}
    if not folds or read_yaml(run / "config.yaml").get("training", {}).get("max_rows") is not None:
        raise UserError(f"'{run.name}' has no score yet; run scripts/evaluate.py {run.name} first")
    metric = next(iter(next(iter(folds.values()))))
    values = [float(scores.get(metric, "nan")) for scores in folds.values()]
    return {"metric": metric, "folds": folds, "mean": statistics.fmean(values), "std": statistics.pstdev(values)}


def _incomplete(run: Path, found: dict[str, Any]) -> str:
    """What to know of scores that are of the training, or of some folds only; empty where they are of all."""
    scored, count = ", ".join(found["folds"]), read_json(run / "run.json")["n_folds"]
    if "score" not in found:
        return f"not evaluated; these are the scores of fold {scored} when it was trained"
    missing = [str(fold) for fold in range(count) if str(fold) not in found["folds"]]
    trained = ", ".join(fold for fold in missing if (run / f"fold_{fold}" / FINISHED).is_file())
    evaluate = f"fold {trained} is trained as well: scripts/evaluate.py {run.name}"
    remedy = evaluate if trained else f"not trained: fold {', '.join(missing)}"
    return f"scored on fold {scored} of {count} alone, not to be compared with all of them; {remedy}" if missing else ""
