"""Runs side by side, from their files alone: no server, no tracker."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.inference.snapshot import FINISHED
from pipeline.project import Project
from pipeline.submission.build import SUBMITTED
from toolkit.errors import UserError
from toolkit.files import read_json, read_yaml
from toolkit.terminal import console, table


def compare(project: Project, names: Sequence[str]) -> None:
    """Print the scores of experiments, fold by fold, and where their submission and pictures are.

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
        lines += [f"{run.name}: submission {submitted.get('file', 'not made yet')}"]
        lines += [f"{run.name}: pictures   {project.shown(run)}/figures and fold_*/figures"]
    columns = ("experiment", *[f"fold {fold}" for fold in folds], "mean ± spread", "out of fold", "demo leaderboard")
    count = len(columns) - all(row[-1] == "" for row in rows)
    metrics = ", ".join(dict.fromkeys(str(found["metric"]) for found in runs.values()))
    table(f"scores ({metrics})", columns[:count], [row[:count] for row in rows])
    console().print("\n".join(lines), soft_wrap=True)


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
