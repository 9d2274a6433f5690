"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

import demo_data
from projects import ROOT, Renders

# Of the texts that an answer chooses, the demo in its place lacks one.
demo_data.__path__.append(str(ROOT / "variants/classification/demo_data"))


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """Rendered projects, each made once in a session."""
    return Renders(tmp_path_factory.mktemp("renders"))


@pytest.fixture
def project(renders: Renders, tmp_path: Path) -> Path:
    """A project of one's own, with the default answers."""
    return renders.copy(tmp_path / "project")
