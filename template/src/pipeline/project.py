"""Where things lie in the repository."""

import os
from pathlib import Path

from toolkit.errors import UserError, nearest


class Project:
    """The folders of one repository; `data` is `data/raw`, or `--data`, or `DATA_DIR`."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data
        self.experiments, self.folds, self.runs = root / "experiments", root / "folds", root / "runs"
        self.submissions, self.source = root / "submissions", root / "src"
        self.cache = root / "data" / "cache"  # decoded images, whatever data folder is used

    @classmethod
    def at(cls, root: Path, data: str | Path | None = None) -> "Project":
        """The project at `root`; a relative data folder is taken from the current folder, as a shell would."""
        folder = data or os.environ.get("DATA_DIR")
        return cls(root, Path(folder).resolve() if folder else root / "data" / "raw")

    def require_data(self) -> Path:
        """The data folder; a `UserError` says how to fill it when it is not there."""
        if not self.data.is_dir():
            remedy = "put the competition's files there, or run scripts/make_demo_data.py"
            raise UserError(f"there is no data at {self.shown(self.data)}; {remedy}")
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
