"""Fixtures shared by all tests."""

from collections import Counter
from pathlib import Path

import pytest

import demo_data
from projects import ROOT, Renders

# Of the texts that an answer chooses, the demo in its place lacks one.
demo_data.__path__.append(str(ROOT / "variants/classification/demo_data"))


@pytest.hookimpl(trylast=True)  # once it is known what is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first, or one of them, begun last, would run alone for minutes."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """Rendered projects, each made once in a session."""
    return Renders(tmp_path_factory.mktemp("renders"))


@pytest.fixture
def project(renders: Renders, tmp_path: Path) -> Path:
    """A project of one's own, with the default answers."""
    return renders.copy(tmp_path / "project")
