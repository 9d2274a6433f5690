"""A rendered project with the data and the finished run of a small competition, for tests of submissions."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from projects import Renders, Result, run_script

THREE = {"label": ["cat", "dog", "owl"]}
CLASS_HEADER = "image_id,cat,dog,owl"
IDS = ("00007", "00012", "img.v2.3", "scan.png", "00100", "x-1")
PACKAGE = {
    "__init__.py": """from pipeline.competition import Competition
from pipeline.settings import read_settings

competition = Competition(read_settings(__file__))
""",
    "tables.py": """import pandas as pd


def train_rows(settings, data):
    table = pd.read_csv(data / settings.train_csv, dtype=str)
    return table.assign(id=table[settings.id_column], image="")


def test_rows(settings, data):
    path = data / settings.test_csv
    ids = pd.read_csv(path, dtype=str)[settings.id_column] if path.exists() else pd.Series([], dtype=str)
    return pd.DataFrame({"id": ids, "image": "test_images/" + ids})
""",
    "targets.py": """from pipeline.competition import Head


def heads(settings, classes):
    return tuple(Head(name, "multiclass", tuple(classes[name])) for name in settings.target_columns)
""",
}


@dataclass(frozen=True)
class House:
    """A rendered project with the data and the finished run of a small competition."""

    root: Path
    metric: str
    classes: Mapping[str, Sequence[str]]

    @property
    def run(self) -> Path:
        return self.root / "runs" / "one"

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    def sample(self, columns: Sequence[str], ids: Sequence[str] = IDS, value: str = "0") -> None:
        """Write the sample submission."""
        frame = pd.DataFrame({name: ids if name == columns[0] else value for name in columns})
        frame.to_csv(self.raw / "sample_submission.csv", index=False)

    def tests(self, ids: Sequence[str]) -> None:
        """Write the test table."""
        pd.DataFrame({"image_id": list(ids)}, dtype=str).to_csv(self.raw / "test.csv", index=False)

    def predict(self, ids: Sequence[str], seed: int = 0) -> pd.DataFrame:
        """Write random test predictions."""
        generator = np.random.default_rng(seed)
        parts = {}
        for head, classes in self.classes.items():
            values = generator.dirichlet(np.ones(len(classes)), size=len(ids)).astype(np.float32)
            parts |= {f"{head}:{name}": values[:, number] for number, name in enumerate(classes)}
        frame = pd.DataFrame(parts, index=pd.Index(list(ids), name="id", dtype="str"))
        frame.to_parquet(self.run / "test.parquet")
        return frame

    def submit(self, *args: str) -> Result:
        return run_script(self.root, "submit.py", *args)

    def check(self, text: str | bytes) -> Result:
        path = self.root / "other.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return self.submit("one", "--check", "other.csv")

    def written(self) -> pd.DataFrame:
        return pd.read_csv(self.root / "submissions" / "one.csv", dtype=str, keep_default_na=False)


def make_house(
    renders: Renders,
    root: Path,
    metric: str = "accuracy",
    classes: Mapping[str, Sequence[str]] | None = None,
    columns: Sequence[str] = ("image_id", "label"),
    ids: Sequence[str] = IDS,
) -> House:
    classes = classes or {"label": [str(number) for number in range(10)]}
    renders.copy(root, {"metric": metric, "target_columns": ",".join(classes)})
    house = House(root, metric, classes)
    package = root / "src" / "competition"
    for name, text in PACKAGE.items():
        (package / name).write_text(text)
    (root / "folds" / "classes.json").write_text(json.dumps(classes))
    snapshot = house.run / "code"
    shutil.copytree(package, snapshot / "competition")
    shutil.copy(root / "competition.yaml", snapshot)
    shutil.copy(root / "folds" / "classes.json", snapshot)
    (house.run / "config.yaml").write_text("{}\n")
    house.raw.mkdir(parents=True, exist_ok=True)
    house.sample(columns, ids)
    house.tests(ids)
    return house


def csv(rows: Mapping[str, str], header: str = "image_id,label", end: str = "\n") -> str:
    return end.join([header, *(f"{name},{value}" for name, value in rows.items())]) + end


def refused(result: Result, reason: str) -> None:
    assert result.status == 2, result
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.last_line.startswith("error: other.csv would be refused: ")
    assert re.search(reason, result.stdout), result.stdout


def one_line(result: Result, *parts: str) -> None:
    assert result.status == 2, result
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.last_line
