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
    runs = [project.require_run(name) for name in names]
    scores = [_scores(run) for run in runs]
    metrics = dict.fromkeys(str(found["metric"]) for found in scores)
    folds = list(dict.fromkeys(fold for found in scores for fold in found["folds"]))
    rows = []
    for run, found in zip(runs, scores, strict=True):
        submitted = _submitted(run)
        per_fold = [found["folds"].get(fold, {}).get(found["metric"], "") for fold in folds]
        spread = f"{found['mean']:.4f}" + (f" ± {found['std']:.4f}" if len(found["folds"]) > 1 else "")
        rows.append((run.name, *per_fold, spread, found.get("score", ""), submitted.get("score", "")))
    columns = ("experiment", *[f"fold {fold}" for fold in folds], "mean ± spread", "out of fold", "demo leaderboard")
    if not any(row[-1] != "" for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table(f"scores ({', '.join(metrics)})", columns, rows)
    out = console()
    for run, found in zip(runs, scores, strict=True):
        submitted = _submitted(run)
        if note := _incomplete(run, found):
            out.print(f"{run.name}: note       {note}", soft_wrap=True)
        out.print(f"{run.name}: submission {submitted.get('file', 'not made yet')}", soft_wrap=True)
        out.print(f"{run.name}: pictures   {project.shown(run)}/figures and fold_*/figures", soft_wrap=True)


def _scores(run: Path) -> dict[str, Any]:
    path = run / "cv.json"
    if path.is_file():
        found: dict[str, Any] = read_json(path)
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
    if "score" not in found:
        return f"not evaluated; these are the scores of fold {', '.join(found['folds'])} when it was trained"
    scored, expected = list(found["folds"]), range(read_json(run / "run.json")["n_folds"])
    missing = [str(fold) for fold in expected if str(fold) not in scored]
    if not missing:
        return ""
    trained = [fold for fold in missing if (run / f"fold_{fold}" / FINISHED).is_file()]
    remedy = (
        f"fold {', '.join(trained)} is trained as well: scripts/evaluate.py {run.name}"
        if trained
        else f"not trained: fold {', '.join(missing)}"
    )
    return f"scored on fold {', '.join(scored)} of {len(expected)} alone, not to be compared with all of them; {remedy}"


def _submitted(run: Path) -> dict[str, Any]:
    path = run / SUBMITTED
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found
