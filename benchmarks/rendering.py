"""`copier copy` of the default answers in process."""

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Aim, Effort, Row, alone, in_turns
from benchmarks.workplace import Workplace
from projects import render

AIM = Aim("at most", 1.0)


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """From a plain folder, and from the latest tag of a git repository, as users copy."""
    tagged = tagged_repository(place)
    numbers = itertools.count()
    targets = (place.folder / "copies" / str(number) for number in numbers)
    functions: dict[str, Callable[[], float]] = {
        "copier copy from a folder": lambda: _seconds(place.template, targets),
        "copier copy from a git tag": lambda: _seconds(tagged, targets),
    }
    in_turns(functions, 1)
    times = in_turns(functions, effort.copy_rounds)
    return [alone("copy", name, "s", seconds, AIM) for name, seconds in times.items()]


def tagged_repository(place: Workplace) -> Path:
    """The template as a git repository with a version."""
    folder = place.folder / "tagged"
    folder.mkdir()
    subprocess.run(["cp", "-R", f"{place.template}/.", str(folder)], check=True)
    identity = ["-c", "user.name=benchmarks", "-c", "user.email=benchmarks@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "Template"], ["tag", "1.0.0"]):
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def _seconds(template: Path, targets: Iterator[Path]) -> float:
    began = time.perf_counter()
    render(template, next(targets))
    return time.perf_counter() - began
