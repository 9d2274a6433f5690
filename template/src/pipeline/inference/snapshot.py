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
    trained, live = run / CODE / PACKAGE, source / PACKAGE
    before, now = Code(trained), Code(live)
    names = {path.relative_to(root) for root in (trained, live) for path in code_files(root)}
    forming = before.forms_weights(), now.forms_weights()
    harmless = {
        path.relative_to(code.files[""].parent)
        for code in (before, now)
        for module, path in code.files.items()
        if forming[0].get(module) == forming[1].get(module)
    }
    pairs = [(trained / name, live / name) for name in sorted(names - harmless)]
    pairs.append((run / CODE / CLASSES, classes))
    return [pair for pair in pairs if not _same(*pair)]


def _same(saved: Path, live: Path) -> bool:
    return saved.is_file() and live.is_file() and filecmp.cmp(saved, live, shallow=False)


@contextmanager
def run_competition(run: Path) -> Iterator[Competition]:
    """The competition that a run was trained on, importable as `competition` inside the block.

    What formed the weights is the run's own. `metrics`, `submission`, `test_rows` and the settings in
    `pipeline.settings.LIVE` are those of today's `competition`, which has to be importable; where they differ, a line
    says so. Without it, or with a part that fails to import, the run's own is used, and a line says that.

    Raises:
        UserError: the snapshot is missing or cannot be imported.
    """
    code = run / CODE
    if not (code / PACKAGE / "__init__.py").is_file():
        raise UserError(f"{run} holds no snapshot of src/competition; train the experiment again with --restart")
    today = _import_today(run.name)
    live = _take_modules()
    package = Path(live[PACKAGE].__file__ or "").parent if today is not None else Path()
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        competition: Competition = importlib.import_module(PACKAGE).competition
        if today is not None:
            with_modules = functools.partial(_with_modules, live, package.parent)
            stages = {
                name: _with_today(stage, today.stages.get(name), with_modules)
                for name, stage in competition.stages.items()
            }
            competition = replace(_with_today(competition, today, with_modules), stages=stages)
            _print_newer(run, competition, package)
        yield competition
    finally:
        sys.path.remove(str(code))
        _take_modules()
        sys.modules.update(live)


def _import_today(run: str) -> Competition | None:
    """The competition as it is now, with the parts that a run takes from it; none where it cannot be had."""
    try:
        today: Competition = importlib.import_module(PACKAGE).competition
    except Exception as error:  # somebody is editing it
        print(f"note: src/competition cannot be imported ({_reason(error)}); all that '{run}' was trained with is used")
        return None
    stages = {name: _with_parts(stage) for name, stage in today.stages.items()}
    return replace(_with_parts(today), stages=stages)


def _with_parts(today: Competition) -> Competition:
    parts: dict[str, Callable[..., Any]] = {}
    for module, name in LIVE.items():
        try:
            parts[f"{module}:{name}"] = getattr(importlib.import_module(f"{today.package}.{module}"), name)
        except Exception as error:
            if today.package != PACKAGE and getattr(error, "name", "") == f"{today.package}.{module}":
                continue  # a stage need not have it
            where = f"src/{today.package.replace('.', '/')}/{module}.py"
            print(f"note: {where} cannot be imported ({_reason(error)}); the run's own {name} is used")
    return replace(today, parts=parts)


def _with_today(trained: Competition, today: Competition | None, with_modules: Callable[..., Any]) -> Competition:
    """A competition of a run, or a stage of it, with what is taken from today's."""
    if today is None:
        return trained
    settings = {name: getattr(today.settings, name) for name in LIVE_SETTINGS}
    return replace(
        trained,
        settings=trained.settings.model_copy(update=settings),
        parts={name: with_modules(part) for name, part in today.parts.items()},
        trained_with=trained.settings,
    )


def _with_modules(modules: dict[str, ModuleType], source: Path, part: Callable[..., Any]) -> Callable[..., Any]:
    """A part of today's package, which may import others of its modules while it runs."""

    @functools.wraps(part)
    def call(*args: Any) -> Any:
        trained = _take_modules()
        sys.modules.update(modules)
        sys.path.insert(0, str(source))
        try:
            return part(*args)
        finally:
            sys.path.remove(str(source))
            modules.update(_take_modules())
            sys.modules.update(trained)

    return call


def _print_newer(run: Path, competition: Competition, package: Path) -> None:
    """Print a line where what is taken from today's package differs from the run's."""
    trained, today = Code(run / CODE / PACKAGE), Code(package)
    taken = {
        f"{found.package}.{name.partition(':')[0]}".removeprefix(PACKAGE).lstrip("."): name.partition(":")[2]
        for found in (competition, *competition.stages.values())
        for name in found.parts
    }
    newer = [label(*part) for part in changed_parts(trained, today) if part[0] in taken]
    if competition.trained_with is not None:
        newer += changed_settings(
            competition.trained_with.model_dump(include=set(LIVE_SETTINGS)),
            competition.settings.model_dump(include=set(LIVE_SETTINGS)),
        )
    if newer:
        be = "is newer than the run's; today's is" if len(newer) == 1 else "are newer than the run's; today's are"
        print(f"note: {listed(newer, 9)} {be} used for '{run.name}'")


def changed_parts(before: Code, now: Code) -> list[tuple[str, str]]:
    """(module, name) of what forms no weights and is not what it was."""
    parts = dict.fromkeys([*before.parts(), *now.parts()])
    return [part for part in parts if before.reached([part]) != now.reached([part])]


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings that are not what they were, as text; where runs are shown does not matter."""
    return [
        f"{name} ({before[name]} -> {now[name]})"
        for name in LIVE_SETTINGS
        if name in before and name in now and name != "trackers" and before[name] != now[name]
    ]


def label(module: str, name: str) -> str:
    """A part as its user knows it: `submission.py`, `test_rows in tables.py`."""
    file = module.replace(".", "/") + ".py"
    return file if name in ("metrics", "submission") else f"{name} in {file}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


def _take_modules() -> dict[str, ModuleType]:
    """Remove the package from the imported modules, so that another copy of it can take its name."""
    names = [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}
