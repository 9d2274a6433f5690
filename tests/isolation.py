"""Importing the pipeline of one project in this process, beside that of another one."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def importable(project: Path) -> Iterator[None]:
    """`import pipeline` means this project's while the context lasts, and what it meant before afterwards."""
    path = list(sys.path)
    before = _taken_out()
    sys.path.insert(0, str(project / "src"))
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(before)
        sys.path[:] = path


def _taken_out() -> dict[str, object]:
    ours = [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "competition")]
    return {name: sys.modules.pop(name) for name in ours}
