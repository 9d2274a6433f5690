"""Whole trainings on a pretended GPU."""

from pathlib import Path

import pytest

from engines import ENGINES
from pretended_gpu import ran
from projects import Renders
from training import demo_project, expect

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_walks_the_whole_path(engine: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", engine)
    expect(ran(project, "train.py", "small", "--fold", "0"))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(ran(project, script, "small"))
    assert (project / "submissions/small.csv").is_file()
