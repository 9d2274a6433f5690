"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

import pipeline.tasks.image_level
from projects import ROOT, Renders

# Of the texts that an answer chooses, the pipeline in its place lacks one.
pipeline.tasks.image_level.__path__.append(str(ROOT / "variants/classification/image_level"))


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """Rendered projects, each made once in a session."""
    return Renders(tmp_path_factory.mktemp("renders"))


@pytest.fixture
def project(renders: Renders, tmp_path: Path) -> Path:
    """A project of one's own, with the default answers."""
    return renders.copy(tmp_path / "project")
