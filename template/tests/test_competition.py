"""Your own competition: that it can be imported at all. No other test depends on `src/competition`."""

from pathlib import Path

import pytest

from pipeline.competition import Competition
from pipeline.project import Project
from pipeline.registry import load
from pipeline.settings import parse_settings
from toolkit.files import read_yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def competition() -> Competition:
    from competition import competition

    return competition


def test_the_answers_can_be_read(competition: Competition) -> None:
    path = ROOT / "competition.yaml"
    assert competition.settings == parse_settings(read_yaml(path), path)


def test_all_names_can_be_imported(competition: Competition) -> None:
    for kind, names in competition.all_names().items():
        for name, reference in names.items():
            assert callable(load(reference, f"{kind} '{name}'"))


def test_the_tables_can_be_read(competition: Competition) -> None:
    project = Project.at(ROOT)
    if not (project.data / competition.settings.train_csv).is_file():
        pytest.skip(f"there is no {competition.settings.train_csv} in {project.shown(project.data)} yet")
    rows = competition.train_rows(project.data)
    assert set(competition.settings.target_columns) <= set(rows.columns)
    competition.test_rows(project.data)
