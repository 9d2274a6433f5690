"""Where things lie in the repository."""

import os
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError, nearest


@dataclass(frozen=True)
class Project:
    """The folders of one repository; `data` is `data/raw`, or `--data`, or `DATA_DIR`."""

    root: Path
    data: Path

    @classmethod
    def at(cls, root: Path, data: str | Path | None = None) -> "Project":
        """The project at `root`; a relative data folder is taken from the current folder, as a shell would."""
        folder = data or os.environ.get("DATA_DIR")
        return cls(root=root, data=Path(folder).resolve() if folder else root / "data" / "raw")

    @property
    def experiments(self) -> Path:
        return self.root / "experiments"

    @property
    def folds(self) -> Path:
        return self.root / "folds"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        """Where decoded images are kept: beside `data/raw`, whatever data folder is used."""
        return self.root / "data" / "cache"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def source(self) -> Path:
        """The folder that holds the packages `competition` and `pipeline`."""
        return self.root / "src"

    def require_data(self) -> Path:
        """The data folder; a `UserError` says how to fill it when it is not there."""
        if not self.data.is_dir():
            raise UserError(
                f"there is no data at {self.shown(self.data)}; "
                "put the competition's files there, or run scripts/make_demo_data.py"
            )
        return self.data

    def run(self, experiment: str) -> Path:
        return self.runs / experiment

    def require_run(self, experiment: str) -> Path:
        """The folder of a run that exists; a `UserError` names the nearest one otherwise."""
        folder = self.run(experiment)
        if not (folder / "config.yaml").is_file():
            known = [path.parent.name for path in self.runs.glob("*/config.yaml")]
            hint = f"{nearest(experiment, known)} (scripts/train.py {experiment} makes one)"
            raise UserError(f"there is no run of experiment '{experiment}'; {hint}")
        return folder

    def shown(self, path: Path) -> str:
        """`path` as a user would type it: relative to the project where it lies inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
