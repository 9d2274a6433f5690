"""A run's own copy of `src/competition`: prediction uses the code the run was trained with."""

import filecmp
import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pipeline.competition import Competition
from pipeline.errors import UserError
from pipeline.settings import FILE_NAME

CODE = "code"  # runs/<experiment>/code
CLASSES = "classes.json"
PACKAGE = "competition"


def save_snapshot(source: Path, settings: Path, classes: Path, run: Path) -> None:
    """Copy the package, `competition.yaml` and the class order into the run's folder."""
    code = run / CODE
    shutil.copytree(source / PACKAGE, code / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copyfile(settings, code / FILE_NAME)
    shutil.copyfile(classes, code / CLASSES)


def changed_files(source: Path, classes: Path, run: Path) -> list[tuple[Path, Path]]:
    """Pairs (in the snapshot, live) of files that are not the same; either may be missing."""
    code = run / CODE
    names = {path.relative_to(root) for root in (code / PACKAGE, source / PACKAGE) for path in code_files(root)}
    pairs = [(code / PACKAGE / name, source / PACKAGE / name) for name in sorted(names)]
    pairs.append((code / CLASSES, classes))
    return [pair for pair in pairs if not _same(*pair)]


def code_files(root: Path) -> list[Path]:
    """What belongs to the package; caches and hidden files do not."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(root).parts)
    ]


def _same(saved: Path, live: Path) -> bool:
    return saved.is_file() and live.is_file() and filecmp.cmp(saved, live, shallow=False)


@contextmanager
def run_competition(run: Path) -> Iterator[Competition]:
    """The competition as it was when the run was trained, importable as `competition` inside the block.

    Raises:
        UserError: the snapshot is missing or cannot be imported.
    """
    code = run / CODE
    if not (code / PACKAGE / "__init__.py").is_file():
        raise UserError(f"{run} holds no snapshot of src/competition; train the experiment again with --restart")
    live = _take_modules()
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        competition: Competition = importlib.import_module(PACKAGE).competition
        yield competition
    finally:
        sys.path.remove(str(code))
        _take_modules()
        sys.modules.update(live)


def _take_modules() -> dict[str, ModuleType]:
    """Remove the package from the imported modules, so that another copy of it can take its name."""
    names = [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}
