"""A whole project in a temporary folder: the competition in `shapes/`, drawn pictures, folds and a small experiment.

What the scripts do with the project they lie in, `SmallProject` does with this one. Its `competition` takes the place
of the one in `src` for as long as a test lasts, so the tests stay green whatever becomes of that.
"""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd

from drawn import SMALL, draw_pictures
from pipeline.competition import Competition
from pipeline.data.command import create_folds
from pipeline.experiments import load_experiment
from pipeline.inference.command import predict_run
from pipeline.inference.evaluation import evaluate_run
from pipeline.inference.snapshot import run_competition
from pipeline.project import Project
from pipeline.submission.command import submit
from pipeline.training.fold import train
from pipeline.training.setup import Setup, prepare


@dataclass(frozen=True)
class SmallProject:
    """A project at `root`, laid out as every project is."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> "SmallProject":
        """60 pictures to train on, two in each series, and 12 to predict. The folds are still to be made."""
        code = Path(__file__).with_name("shapes")
        shutil.copytree(code, root / "src" / "competition", ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
        shutil.copy(code / "competition.yaml", root)
        (root / "experiments").mkdir()
        (root / "experiments" / "small.yaml").write_text(SMALL)
        draw_pictures(root / "data" / "raw")
        return cls(root)

    def copy(self, root: Path) -> "SmallProject":
        """The same project, with its runs, at another place."""
        return SmallProject(Path(shutil.copytree(self.root, root)))

    @property
    def project(self) -> Project:
        return Project(self.root, self.root / "data" / "raw")

    @property
    def competition(self) -> Competition:
        """What the project's own package says; for use inside `imported`."""
        found: Competition = importlib.import_module("competition").competition
        return found

    @contextmanager
    def imported(self) -> Iterator[None]:
        """Inside, `import competition` finds this project's package."""
        aside = _take_competition()
        sys.path.insert(0, str(self.root / "src"))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(str(self.root / "src"))
            _take_competition()
            sys.modules.update(aside)

    def table(self, name: str) -> pd.DataFrame:
        """A csv of the data folder, every cell as text."""
        return pd.read_csv(self.project.data / name, dtype=str)

    def make_folds(self, force: bool = False) -> None:
        """As scripts/make_folds.py does."""
        create_folds(self.project, self.competition, "folds", n_folds=2, force=force)

    def prepare(self, experiment: str, *overrides: str) -> Setup:
        """An experiment, checked and ready to be trained."""
        config = load_experiment(self.project, experiment, overrides)
        return prepare(self.project, self.competition, experiment, config)

    def train(self, experiment: str, *overrides: str, fold: str = "all", restart: bool = False) -> Path:
        """As scripts/train.py does; returns the folder of the run."""
        train(self.prepare(experiment, *overrides), fold, restart)
        return self.project.run(experiment)

    def evaluate(self, experiment: str, fold: str | None = None) -> None:
        """As scripts/evaluate.py does."""
        run = self.project.require_run(experiment)
        with run_competition(run) as competition:
            evaluate_run(self.project, competition, run, self.project.data, fold)

    def predict(self, experiment: str) -> pd.DataFrame:
        """As scripts/predict.py does; returns the predictions by id."""
        run = self.project.require_run(experiment)
        with run_competition(run) as competition:
            predict_run(self.project, competition, run, self.project.data, None, {"device": "cpu", "workers": 0})
        return pd.read_parquet(run / "test.parquet").set_index("id")

    def submit(self, experiment: str) -> pd.DataFrame:
        """As scripts/submit.py does; returns what was written, every cell as text."""
        return pd.read_csv(submit(self.project, experiment), dtype=str)


def _take_competition() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "competition"]
    return {name: sys.modules.pop(name) for name in names}
