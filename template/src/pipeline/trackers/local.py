"""The local files of a fold's run: `metrics.csv`, `gradients.csv`, `figures/`, `tables/`, `summary.json`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.trackers import Points, RunInfo, Tracker
from pipeline.trackers.images import png
from toolkit.files import atomic, file_of, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.csv"
GRADIENTS_FILE = "gradients.csv"  # a few columns for each block of the network, which would hide the metrics
GRADIENTS = ("gradients/", "updates/")
FIGURES_FOLDER = "figures"
TABLES_FOLDER = "tables"
SUMMARY_FILE = "summary.json"
STEP = "step"


class LocalTracker(Tracker):
    """Everything that is logged, as files in the run's folder that any program can open."""

    def __init__(self, info: RunInfo) -> None:
        self.folder = info.folder
        self.metrics = MetricsTable(info.folder / METRICS_FILE, info.step)
        self.gradients = MetricsTable(info.folder / GRADIENTS_FILE, info.step)
        self.final: dict[str, Any] = {}

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add to the row of this step."""
        of_blocks = {tag: value for tag, value in values.items() if tag.startswith(GRADIENTS)}
        others = {tag: value for tag, value in values.items() if tag not in of_blocks}
        for table, part in ((self.metrics, others), (self.gradients, of_blocks)):
            if part:
                table.add(part, step)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Write `figures/<name>.png`; the latest picture replaces the older one."""
        with atomic(file_of(self.folder / FIGURES_FOLDER, name, ".png")) as path:
            path.write_bytes(png(figure))

    def summary(self, values: dict[str, Any]) -> None:
        """Write the final values."""
        self.final.update(values)
        write_json(self.folder / SUMMARY_FILE, self.final)

    def table(self, name: str, table: pd.DataFrame, images: Sequence[np.ndarray], step: int) -> None:
        """Write `tables/<name>.csv`; its images are in the figures."""
        with atomic(file_of(self.folder / TABLES_FOLDER, name, ".csv")) as path:
            table.to_csv(path, index=False)

    def embedding(self, name: str, points: Points, step: int) -> None:
        """Write `tables/<name>.npz`, with `vectors` and `labels`."""
        with atomic(file_of(self.folder / TABLES_FOLDER, name, ".npz")) as path, path.open("wb") as file:
            np.savez_compressed(file, vectors=points.vectors, labels=np.asarray(points.labels, dtype=str))

    def finish(self, succeeded: bool) -> None:
        """Every row is in its file already."""


class MetricsTable:
    """A csv with one row per logged step and one column per tag; a new tag adds a column to all rows.

    A row is in the file as soon as it is logged, so a saved state never knows of a row that was lost. Opening it at
    `step` drops what was logged later and what a kill left half-written: a run that continues there ends with the
    same bytes as one that was never cut off.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        tags, rows = _read(path)
        rows = [row for row in rows if int(row[STEP]) <= step]
        self.last: dict[str, str] = {}
        self.last_start = 0
        self.columns = [STEP, *(tag for tag in tags[1:] if any(row[tag] for row in rows))]
        self._write(rows)

    def add(self, values: dict[str, float], step: int) -> None:
        """Log numbers; those of the step that was logged last join its row."""
        texts = {tag: f"{value:.9g}" for tag, value in values.items()}  # nine digits bring a float32 back exactly
        new = [tag for tag in texts if tag not in self.columns]
        if new:
            rows = _read(self.path)[1]
            self.columns += new
            self._write(rows)
        if self.last.get(STEP) == str(step):
            self.last.update(texts)
        else:
            self.last = {STEP: str(step), **texts}
            self.last_start = self.path.stat().st_size
        with self.path.open("r+b") as file:
            file.seek(self.last_start)
            file.write(self._lines([self.last]))
            file.truncate()

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Replace the whole file."""
        head = self._lines([dict(zip(self.columns, self.columns, strict=True)), *rows[:-1]])
        last = self._lines(rows[-1:])
        with atomic(self.path) as path:
            path.write_bytes(head + last)
        self.last = dict(rows[-1]) if rows else {}
        self.last_start = len(head)

    def _lines(self, rows: list[dict[str, str]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the whole rows; what a kill left half-written is not among them."""
    if not path.is_file():
        return [STEP], []
    lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]  # behind the last line end: half a line
    columns, *rows = list(csv.reader(lines)) or [[STEP]]
    if columns[:1] != [STEP]:
        return [STEP], []
    whole = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
    return columns, [dict(zip(columns, row, strict=True)) for row in whole]
