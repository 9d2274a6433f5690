"""A run's own copy of `src/competition`: prediction uses the code the run was trained with, where it formed weights."""

import filecmp
import functools
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.competition import Competition
from pipeline.inference.code import LIVE, PACKAGE, Code, code_files
from pipeline.settings import FILE_NAME
from pipeline.settings import LIVE as LIVE_SETTINGS
from toolkit.errors import UserError, listed

CODE = "code"  # runs/<experiment>/code
CLASSES = "classes.json"
FINISHED = "fold.json"  # in a fold's folder, once the fold is trained to the end


def save_snapshot(source: Path, settings: Path, classes: Path, run: Path) -> None:
    """Copy the package, `competition.yaml` and the class order into the run's folder."""
    code = run / CODE
    shutil.copytree(source / PACKAGE, code / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copyfile(settings, code / FILE_NAME)
    shutil.copyfile(classes, code / CLASSES)


def changed_files(source: Path, classes: Path, run: Path) -> list[tuple[Path, Path]]:
    """Pairs (in the snapshot, live) of files that form weights and are not the same; either may be missing."""
    roots = run / CODE / PACKAGE, source / PACKAGE
    trained, live = (Code(root) for root in roots)
    before, now = trained.forms_weights(), live.forms_weights()
    harmless = {
        path.relative_to(root)
        for root, code in zip(roots, (trained, live), strict=True)
        for module, path in code.files.items()
        if before.get(module) == now.get(module)
    }
    names = {path.relative_to(root) for root in roots for path in code_files(root)} - harmless
    pairs = [(roots[0] / name, roots[1] / name) for name in sorted(names)] + [(run / CODE / CLASSES, classes)]
    return [pair for pair in pairs if not (all(map(Path.is_file, pair)) and filecmp.cmp(*pair, shallow=False))]


def finished_folds(run: Path) -> list[str]:
    """Names of the folds that are trained to the end: `0`, `1`, ..., `full`."""
    names = [path.parent.name.removeprefix("fold_") for path in run.glob(f"fold_*/{FINISHED}")]
    return sorted(names, key=lambda name: (len(name), name))


@contextmanager
def run_competition(run: Path) -> Iterator[Competition]:
    """The competition that a run was trained on, importable as `competition` inside the block.

    What formed the weights is the run's own. `metrics`, `submission`, `test_rows` and the settings in
    `pipeline.settings.LIVE` are today's, as far as these can be imported; a line says what differs or cannot be. A
    `UserError` where the run has no snapshot.
    """
    code = run / CODE
    if not (code / PACKAGE / "__init__.py").is_file():
        raise UserError(f"{run} holds no snapshot of src/competition; train the experiment again with --restart")
    modules: dict[str, ModuleType] = {}
    try:
        today = _with_parts(importlib.import_module(PACKAGE).competition, modules)
    except Exception as error:  # somebody is editing it
        print(f"note: src/competition cannot be imported ({_reason(error)}); all is used as '{run.name}' has it")
        today = None
    modules |= _take_modules()
    sys.modules.update(modules)
    with _importable(code, {}):
        competition: Competition = importlib.import_module(PACKAGE).competition
        if today is not None:
            competition = _with_today(competition, today)
            _print_newer(run, competition, Path(modules[PACKAGE].__file__ or "").parent)
        yield competition


def _with_parts(today: Competition, modules: dict[str, ModuleType]) -> Competition:
    """Today's competition and its stages with what a run takes from them; `modules` are of today when it is called."""

    def among_today(part: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(part)
        def call(*args: Any) -> Any:
            with _importable(Path(modules[PACKAGE].__file__ or "").parents[1], modules):  # it may import others
                return part(*args)

        return call

    parts: dict[str, Callable[..., Any]] = {}
    for module, name in LIVE.items():
        full = f"{today.package}.{module}"
        try:
            parts[f"{module}:{name}"] = among_today(getattr(importlib.import_module(full), name))
        except Exception as error:
            if today.package == PACKAGE or getattr(error, "name", "") != full:  # a stage need not have it
                where = f"src/{full.replace('.', '/')}.py"
                print(f"note: {where} cannot be imported ({_reason(error)}); the run's own {name} is used")
    stages = {name: _with_parts(stage, modules) for name, stage in today.stages.items()}
    return replace(today, parts=parts, stages=stages)


def _with_today(trained: Competition, today: Competition) -> Competition:
    """A run's competition and its stages with today's parts and settings that form no weights."""
    live = {name: getattr(today.settings, name) for name in LIVE_SETTINGS}
    settings = trained.settings.model_copy(update=live)
    stages = {name: _with_today(stage, today.stages.get(name, stage)) for name, stage in trained.stages.items()}
    return replace(trained, settings=settings, parts=today.parts, stages=stages, trained_with=trained.settings)


@contextmanager
def _importable(source: Path, modules: dict[str, ModuleType]) -> Iterator[None]:
    """Inside, `competition` is the package in `source`, of which `modules` are imported; they grow."""
    others = _take_modules()
    sys.modules.update(modules)
    sys.path.insert(0, str(source))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(source))
        modules |= _take_modules()
        sys.modules.update(others)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def _print_newer(run: Path, competition: Competition, package: Path) -> None:
    """Print a line where what is taken from today's package differs from the run's."""
    taken = {
        f"{found.package}.{name.partition(':')[0]}".removeprefix(f"{PACKAGE}.")
        for found in (competition, *competition.stages.values())
        for name in found.parts
    }
    changed = changed_parts(Code(run / CODE / PACKAGE), Code(package))
    newer = [label(*part) for part in changed if part[0] in taken]
    if competition.trained_with is not None:
        newer += changed_settings(competition.trained_with.model_dump(), competition.settings.model_dump())
    if newer:
        be = "is newer than the run's; today's is" if len(newer) == 1 else "are newer than the run's; today's are"
        print(f"note: {listed(newer, 9)} {be} used for '{run.name}'")


def changed_parts(before: Code, now: Code) -> list[tuple[str, str]]:
    """(module, name) of what forms no weights and is not what it was."""
    parts = dict.fromkeys([*before.parts(), *now.parts()])
    return [part for part in parts if before.reached([part]) != now.reached([part])]


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings that are not what they were, as text; where runs are tracked does not matter."""
    names = [name for name in LIVE_SETTINGS if name != "trackers" and before[name] != now[name]]
    return [f"{name} ({before[name]} -> {now[name]})" for name in names]


def label(module: str, name: str) -> str:
    """A part as its user knows it: `submission.py`, `test_rows in tables.py`."""
    file = module.replace(".", "/") + ".py"
    return file if name in ("metrics", "submission") else f"{name} in {file}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
