"""A rendered repository needs nothing but its own `make setup`."""

import os
import subprocess
from pathlib import Path

import pytest

from engines import ENGINES
from projects import Renders
from training import SMALL

pytestmark = pytest.mark.slow


def run(project: Path, *command: str) -> str:
    """Run a command as a user does, without this repository's environment."""
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "2"}
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_setup_and_the_path_with_nothing_else_installed(engine: str, renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"framework": engine})
    assert "make setup" in run(project, "make", "help")
    run(project, "make", "setup")
    python = str(project / ".venv/bin/python")
    installed = run(project, ".venv/bin/uv", "pip", "list", "--python", python)
    names = {line.split()[0].removeprefix("pytorch-") for line in installed.splitlines() if line.strip()}
    assert names & {*ENGINES, "tensorboard", "copier"} == {engine}, "only what the answers chose"
    (project / "experiments/small.yaml").write_text(SMALL)
    run(project, python, "scripts/make_demo_data.py")
    run(project, python, "scripts/make_folds.py")
    few = ("training.epochs=1", "training.max_rows=256")
    run(project, python, "scripts/train.py", "small", *few, "--fold", "0")
    run(project, python, "scripts/predict.py", "small", "--fold", "0")
    assert "submissions/small.csv" in run(project, python, "scripts/submit.py", "small")
