"""`runs/<experiment>/`: what a run is, saved before its first step, and held against what is asked for later."""

import difflib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config import Experiment, differences
from pipeline.errors import UserError, listed
from pipeline.files import dump_yaml, read_json, read_yaml, write_json, write_text
from pipeline.inference.snapshot import CLASSES, CODE, PACKAGE, changed_files, save_snapshot
from pipeline.project import Project
from pipeline.settings import FILE_NAME, parse_settings

PATIENCE = 15.0  # seconds: loader processes of a killed trainer notice after a few that it is gone


def open_run(project: Project, name: str, config: Experiment, record: dict[str, Any], engine: str) -> Path:
    """The run's folder: made anew, or found unchanged.

    Args:
        record: what else the run depends on: the hash of its folds.
        engine: what trains it. Another one goes on from the same state, so a change is said and no more.

    Raises:
        UserError: a run is there, and its config, `src/competition` or folds are no longer the same.
    """
    folder = project.run(name)
    if (folder / "config.yaml").is_file():
        _refuse_changes(project, folder, config, record)
        before = read_json(folder / "run.json").get("engine", engine)
        if before != engine:
            print(f"note: the run '{name}' was begun with {before}, and {engine} goes on with it")
        return folder
    # A folder that was cut off while it was made has no config.yaml yet under its final name.
    draft = project.runs / f".{name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    save_snapshot(project.source, project.root / FILE_NAME, project.folds / CLASSES, draft)
    write_json(
        draft / "run.json", {"began": datetime.now(UTC).isoformat(timespec="seconds"), "engine": engine, **record}
    )
    write_text(draft / "config.yaml", dump_yaml(config.model_dump(mode="json")))
    draft.replace(folder)
    return folder


@contextmanager
def the_only_trainer(run: Path, job: str) -> Iterator[None]:
    """Hold the lock of one job of a run. It ends with the process, however that ends.

    Raises:
        UserError: another process is training it.
    """
    lock = FileLock(run / f".{job}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(
            f"another process is training {job} of '{run.name}'; wait for it, end it, or train another fold"
        ) from error
    try:
        yield
    finally:
        lock.release()


def set_aside(project: Project, name: str) -> Path | None:
    """Move a run out of the way, if there is one; says where it lies now."""
    folder, aside = project.run(name), project.runs / "set_aside"
    if not folder.exists():
        return None
    aside.mkdir(exist_ok=True)
    number = 1
    while (aside / f"{folder.name}.{number}").exists():
        number += 1
    target = aside / f"{folder.name}.{number}"
    folder.replace(target)
    print(f"the old run is set aside in {project.shown(target)}")
    return target


def _refuse_changes(project: Project, folder: Path, config: Experiment, record: dict[str, Any]) -> None:
    saved, asked = read_yaml(folder / "config.yaml"), config.model_dump(mode="json")
    for values in (saved, asked):
        for free in ("machine", "watch"):
            values.pop(free, None)
    changes = list(differences(saved, asked))
    answers, answers_now = _answers(folder / CODE / FILE_NAME), _answers(project.root / FILE_NAME)
    changes += list(differences(answers, answers_now, FILE_NAME))
    before = read_json(folder / "run.json")
    changes += [f"{key}: {before[key]} -> {value}" for key, value in record.items() if before.get(key, value) != value]
    remedy = "change it back, train under another name with --as NAME, or begin anew with --restart"
    if changes:
        print("\n".join(f"  {change}" for change in changes))
        raise UserError(f"the run '{folder.name}' was made with other settings ({listed(changes)}); {remedy}")
    files = changed_files(project.source, project.folds / CLASSES, folder)
    if files:
        for saved_file, live in files:
            print("".join(_diff(saved_file, live)), end="")
        names = listed(_label(live) for _, live in files)
        raise UserError(f"the run '{folder.name}' was made with other code ({names}); {remedy}")


def _answers(path: Path) -> dict[str, Any]:
    """The answers that matter to a run; where it is logged does not."""
    return parse_settings(read_yaml(path), path).model_dump(exclude={"trackers"})


def _label(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[parts.index(PACKAGE) :]) if PACKAGE in parts else path.name


def _diff(saved: Path, live: Path) -> list[str]:
    before, now = _lines(saved), _lines(live)
    return list(difflib.unified_diff(before, now, f"in the run: {_label(live)}", f"now: {_label(live)}", n=1))


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text.splitlines(keepends=True)
