"""Fixtures: a small project with folds, and the same one with a finished run. Each test gets a copy of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from small_project import SmallProject


@pytest.fixture(scope="session")
def with_folds(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """The project that all others are copies of."""
    made = SmallProject.make(tmp_path_factory.mktemp("with_folds") / "project")
    with made.imported():
        made.make_folds()
    return made


@pytest.fixture(scope="session")
def with_run(with_folds: SmallProject, tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """The same, with the experiment `small` trained on both folds."""
    made = with_folds.copy(tmp_path_factory.mktemp("with_run") / "project")
    with made.imported():
        made.train("small")
    return made


@pytest.fixture
def project(with_folds: SmallProject, tmp_path: Path) -> Iterator[SmallProject]:
    """A project with folds and no run."""
    copy = with_folds.copy(tmp_path / "project")
    with copy.imported():
        yield copy


@pytest.fixture
def trained(with_run: SmallProject, tmp_path: Path) -> Iterator[SmallProject]:
    """A project in which `small` is trained."""
    copy = with_run.copy(tmp_path / "project")
    with copy.imported():
        yield copy
