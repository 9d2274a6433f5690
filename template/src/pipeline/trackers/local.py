"""The local files of a fold's run: `metrics.csv`, `gradients.csv`, `figures/`, `tables/`, `summary.json`."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.trackers import Points, RunInfo, Tracker
from toolkit.files import atomic, file_of, write_json

METRICS_FILE = "metrics.csv"
GRADIENTS_FILE = "gradients.csv"  # a few columns for each block of the network, which would hide the metrics
GRADIENTS = ("gradients/", "updates/")
STEP = "step"


class LocalTracker(Tracker):
    """Everything that is logged, as files in the run's folder that any program can open."""

    in_order = False

    def __init__(self, info: RunInfo) -> None:
        self.folder = info.folder
        self.metrics = MetricsTable(info.folder / METRICS_FILE, info.step)
        self.gradients = MetricsTable(info.folder / GRADIENTS_FILE, info.step)
        self.final: dict[str, Any] = {}

    def scalars(self, values: dict[str, float], step: int) -> None:
        of_blocks = {tag: value for tag, value in values.items() if tag.startswith(GRADIENTS)}
        if of_blocks:
            self.gradients.add(of_blocks, step)
        if len(of_blocks) < len(values):
            self.metrics.add({tag: value for tag, value in values.items() if tag not in of_blocks}, step)

    def figure(self, name: str, figure: bytes, step: int) -> None:
        with atomic(file_of(self.folder / "figures", name, ".png")) as path:
            path.write_bytes(figure)

    def summary(self, values: dict[str, Any]) -> None:
        self.final.update(values)
        write_json(self.folder / "summary.json", self.final)

    def table(self, name: str, table: pd.DataFrame, images: Sequence[np.ndarray], step: int) -> None:
        with atomic(file_of(self.folder / "tables", name, ".csv")) as path:
            table.to_csv(path, index=False)

    def embedding(self, name: str, points: Points, step: int) -> None:
        with atomic(file_of(self.folder / "tables", name, ".npz")) as path, path.open("wb") as file:
            np.savez_compressed(file, vectors=points.vectors, labels=np.asarray(points.labels, dtype=str))

    def finish(self, succeeded: bool) -> None:
        """Every row is in its file already."""


class MetricsTable:
    """A csv with one row per logged step and one column per tag; a new tag adds a column to all rows.

    A row is in the file as soon as it is logged. Opening it at `step` drops what was logged later or half-written: a
    run that continues there ends with the same bytes as one that was never cut off.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.last = path, dict[str, str]()
        rows = [row for row in _read(path) if int(row[STEP]) <= step]
        self.columns = list(dict.fromkeys([STEP, *(tag for row in rows for tag in row)]))
        self._write(rows)

    def add(self, values: dict[str, float], step: int) -> None:
        """Log numbers; those of the step that was logged last join its row."""
        row = {STEP: str(step)} | {tag: f"{value:.9g}" for tag, value in values.items()}  # brings a float32 back
        if not row.keys() <= set(self.columns):
            self.columns = list(dict.fromkeys([*self.columns, *row]))
            self._write(_read(self.path))
        if self.last.get(STEP) == str(step):
            row = self.last | row
        else:
            self.last_start = self.path.stat().st_size
        self.last = row
        with self.path.open("r+b") as file:
            file.seek(self.last_start)
            file.write(self._lines([row]))
            file.truncate()

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Replace the whole file."""
        head = self._lines([dict(zip(self.columns, self.columns, strict=True)), *rows[:-1]])
        with atomic(self.path) as path:
            path.write_bytes(head + self._lines(rows[-1:]))
        self.last, self.last_start = (rows or [{}])[-1], len(head)

    def _lines(self, rows: Iterable[dict[str, str]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


def _read(path: Path) -> list[dict[str, str]]:
    """The whole rows, each with the cells that hold something; what a kill left half-written is not among them."""
    if not path.is_file():
        return []
    rows = csv.DictReader(path.read_bytes().decode(errors="replace").split("\n")[:-1])  # the rest is half a line
    whole = (row for row in rows if None not in (*row, *row.values()) and str(row.get(STEP)).isdigit())
    return [{tag: cell for tag, cell in row.items() if cell} for row in whole]


TRACKER = LocalTracker
