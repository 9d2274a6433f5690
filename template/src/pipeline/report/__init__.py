"""Runs side by side, from their files alone: no server, no tracker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.kaggle.submission import SUBMITTED
from pipeline.project import Project
from pipeline.terminal import console, table


def compare(project: Project, names: Sequence[str]) -> None:
    """Print the scores of experiments, fold by fold, and where their submission and pictures are.

    Raises:
        UserError: an experiment has no run, or has not been evaluated.
    """
    runs = [project.require_run(name) for name in names]
    scores = [_scores(run) for run in runs]
    metrics = dict.fromkeys(str(found["metric"]) for found in scores)
    folds = list(dict.fromkeys(fold for found in scores for fold in found["folds"]))
    rows = []
    for run, found in zip(runs, scores, strict=True):
        submitted = _submitted(run)
        per_fold = [found["folds"].get(fold, {}).get(found["metric"], "") for fold in folds]
        spread = f"{found['mean']:.4f} ± {found['std']:.4f}"
        rows.append((run.name, *per_fold, spread, found["score"], submitted.get("score", "")))
    columns = ("experiment", *[f"fold {fold}" for fold in folds], "mean ± spread", "out of fold", "demo leaderboard")
    if not any(row[-1] != "" for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table(f"scores ({', '.join(metrics)})", columns, rows)
    out = console()
    for run in runs:
        submitted = _submitted(run)
        out.print(f"{run.name}: submission {submitted.get('file', 'not made yet')}", soft_wrap=True)
        out.print(f"{run.name}: pictures   {project.shown(run)}/figures and fold_*/figures", soft_wrap=True)


def _scores(run: Path) -> dict[str, Any]:
    path = run / "cv.json"
    if not path.is_file():
        raise UserError(f"'{run.name}' has no score yet; run scripts/evaluate.py {run.name} first")
    found: dict[str, Any] = read_json(path)
    return found


def _submitted(run: Path) -> dict[str, Any]:
    path = run / SUBMITTED
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found
