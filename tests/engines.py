"""Every engine and every task that the template has, in one place: a further one joins each test by its name here."""

import re
import shutil
from pathlib import Path

import pytest

from projects import ROOT, Renders
from training import SMALL, demo_project

ENGINES = ("lightning", "ignite", "fastai", "catalyst")
FIRST_ENGINE = [ENGINES[0], *(pytest.param(engine, marks=pytest.mark.full) for engine in ENGINES[1:])]  # in `make test`
TASKS = ("classification",)
BARE = "bare"  # the engine of docs/add-an-engine.md, which the others are held against


def bare_engine() -> str:
    """The code of the page on adding an engine."""
    page = (ROOT / "docs/add-an-engine.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n# src/pipeline/engine/__init__\.py\n(.*?)```", page, flags=re.DOTALL)
    return str(code)


def engine_project(renders: Renders, target: Path, engine: str, task: str = TASKS[0]) -> Path:
    """A project of an engine that logs to TensorBoard, with the demo data and folds that all of them share."""
    framework = ENGINES[0] if engine == BARE else engine
    data = renders.folder / f"data-of-engines-{task}"
    if not data.exists():
        demo_project(renders, data)
    renders.copy(target, {"task": task, "framework": framework, "trackers": ["tensorboard"]})
    shutil.copytree(data / "data", target / "data", dirs_exist_ok=True)
    shutil.copytree(data / "folds", target / "folds", dirs_exist_ok=True)
    (target / "experiments/small.yaml").write_text(SMALL)
    module = target / "src/pipeline/engine/__init__.py"
    assert module.is_file(), f"the template has no engine '{engine}'"
    if engine == BARE:
        module.write_text(bare_engine())
    return target
