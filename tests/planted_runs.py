"""Runs whose predictions are made up, for the tests of what joins them."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.experiments import load_experiment
from pipeline.inference.predict import write_predictions
from pipeline.project import Project
from pipeline.tasks import Task
from pipeline.training.run_folder import open_run
from pipeline.training.setup import prepare
from toolkit.files import write_json
from toolkit.masks import maps


@contextlib.contextmanager
def importable(project: Path) -> Iterator[None]:
    """Inside, `import competition` finds the project's; the pipeline is the one that is imported already."""
    sys.path.insert(0, str(project / "src"))
    try:
        yield
    finally:
        sys.path.remove(str(project / "src"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "competition"]:
            del sys.modules[name]


def plant(project: Path, *names: str, folds: str = "folds", only: tuple[int, ...] = (), skill: float = 1.0) -> None:
    """Write runs of the experiment `small` as training would leave them, but with predictions made up here: the truth
    with an error of each run's own."""
    with importable(project):
        from competition import competition

        made = Project.at(project)
        for number, name in enumerate(names):
            if not (made.experiments / f"{name}.yaml").is_file():
                (made.experiments / f"{name}.yaml").write_text(f"extends: small\nfolds: {folds}\n")
            setup = prepare(made, competition, name, load_experiment(made, name))
            generator = np.random.default_rng([number, *name.encode()])
            open_run(setup, [], False, "lightning")
            run, rows = made.run(name), setup.folds.rows
            used = only or range(setup.folds.n_folds)
            for fold in used:
                table = _guess(generator, rows[rows["fold"] == fold], setup.task, skill)
                write_predictions(run / f"fold_{fold}/oof.parquet", table, fold)
                write_json(run / f"fold_{fold}/fold.json", {"fold": str(fold), "metrics": {}})
            table = _guess(generator, competition.test_rows(made.data), setup.task, skill)
            write_predictions(run / "test.parquet", table, folds=list(map(str, used)))


def _guess(generator: np.random.Generator, rows: pd.DataFrame, task: Task, skill: float) -> pd.DataFrame:
    """Predictions of rows: noise, and the truth where it is known."""
    parts, index = {}, pd.Index(rows["id"], name="id", dtype="str")
    for head in task.heads if not task.predictions.columns else ():
        for number, name in enumerate(head.classes):
            known = (
                [truth.read()[number] == 1 for truth in rows[head.name]] if head.name in rows else [np.zeros((64, 64))]
            )
            cells = [128 + skill * 60 * (2.0 * known[k % len(known)] - 1) for k in range(len(rows))]
            cells = [np.clip(cell + 60 * generator.normal(size=cell.shape), 0, 255).astype(np.uint8) for cell in cells]
            parts[f"{head.name}_{name}"] = [maps.encode(cell, cell.shape) for cell in cells]
    for columns in task.predictions.columns:
        noise = generator.normal(size=(len(rows), len(columns.names)))
        known = columns.targets(task.predictions.truth(rows)) if columns.head.name in rows else 0 * noise
        heard = noise + skill * np.nan_to_num(known)
        if columns.answers == "class":
            heard = np.exp(heard) / np.exp(heard).sum(axis=1, keepdims=True)
        if columns.answers == "labels":
            heard = 1 / (1 + np.exp(-heard))
        parts |= dict(zip(columns.names, heard.astype(np.float32).T, strict=True))
    return pd.DataFrame(parts, index=index)
