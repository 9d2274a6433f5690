"""The table for a person, and the same numbers as json."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

FRAMEWORKS = ("lightning", "pytorch-ignite", "fastai", "catalyst", "accelerate")
PACKAGES = (
    *("torch", "torchvision", *FRAMEWORKS),
    *("timm", "albumentations", "opencv-python-headless", "pillow", "copier"),
)
WIDTH = 1000  # of the file: the table takes what it needs of it, and no name is broken


@dataclass(frozen=True)
class Facts:
    """What the numbers depend on."""

    quick: bool
    seconds: float
    processor: str
    cores: int
    load: float  # mean number of waiting processes over the last five minutes, this one included
    system: str
    python: str
    torch_threads: int
    opencv_threads: int
    packages: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the json file."""
        return dict(vars(self))


def machine_facts(seconds: float, quick: bool) -> Facts:
    """Look at the machine."""
    import cv2
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Facts(
        quick=quick,
        seconds=round(seconds, 1),
        processor=_processor(),
        cores=cores,
        load=round(os.getloadavg()[1], 2) if hasattr(os, "getloadavg") else float("nan"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch_threads=torch.get_num_threads(),
        opencv_threads=cv2.getNumThreads(),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
    )


def print_table(rows: Sequence[Row], facts: Facts, console: Console) -> None:
    """A line per row, and below it what the numbers depend on."""
    title = "ours beside its peer" + (" (--quick: too few repetitions to trust)" if facts.quick else "")
    table = Table(title=title, title_justify="left")
    table.add_column("what", overflow="fold")
    for column in ("ours", "peer", "ratio", "min..max"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("aim", no_wrap=True)
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1].group != row.group
        table.add_row(*_cells(row), end_section=last)
    console.print(table)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        console.print(f"  {note}", soft_wrap=True)
    console.print(_summary(facts), soft_wrap=True)


def write_report(rows: Sequence[Row], facts: Facts, folder: Path) -> None:
    """`benchmarks.json` and `benchmarks.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts.as_dict(), "rows": [row.as_dict() for row in rows]}
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with (folder / "benchmarks.txt").open("w", encoding="utf-8") as file:
        print_table(rows, facts, Console(file=file, width=WIDTH, highlight=False, markup=False))


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    low, high = row.ratio_spread or row.ours_spread
    sign = "" if row.aim is None else {"at most": "<=", "at least": ">="}[row.aim.sense]
    met = "" if row.met is None else "met" if row.met else "MISSED"
    return (
        row.name + (f"\n  against {row.peer_name}" if row.peer_name else ""),
        _value(row.ours, row.unit),
        "" if row.peer is None else _value(row.peer, row.unit),
        ratio,
        f"{low:.2f}..{high:.2f}",
        "" if row.aim is None else f"{sign} {row.aim.value:g} {met}",
    )


def _value(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _summary(facts: Facts) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    return (
        f"{facts.processor}, {facts.cores} cores, load {facts.load:g}, {facts.system}; threads: torch "
        f"{facts.torch_threads}, OpenCV {facts.opencv_threads}; Python {facts.python}, {packages}; "
        f"measured in {facts.seconds:.0f} s"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
