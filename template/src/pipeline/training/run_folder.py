"""`runs/<experiment>/`: what a run is, saved before its first step, and held against what is asked for later."""

import difflib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config import differences
from pipeline.inference.code import PACKAGE, Code
from pipeline.inference.predict import FINISHED
from pipeline.inference.pseudo_labels import fingerprints
from pipeline.inference.snapshot import (
    CLASSES,
    CODE,
    changed_files,
    changed_parts,
    changed_settings,
    label,
    save_snapshot,
)
from pipeline.project import Project
from pipeline.settings import FILE_NAME, LIVE, parse_settings
from pipeline.training.setup import Setup
from toolkit.errors import UserError, listed
from toolkit.files import dump_yaml, read_json, read_yaml, write_json, write_text

PATIENCE = 15.0  # seconds: loader processes of a killed trainer notice after a few that it is gone


def has_begun(fold: Path) -> bool:
    """Whether there is something to go on from in the folder of a fold."""
    patterns = ("checkpoints/state*.pt", "seed_*/checkpoints/state*.pt", FINISHED, f"seed_*/{FINISHED}")
    return any(any(fold.glob(pattern)) for pattern in patterns)


def open_run(setup: Setup, folds: Sequence[str], restart: bool, engine: str) -> tuple[bool, Path | None]:
    """Make the run's folder, with `restart` in place of the old one, or find it unchanged; returns whether it is new,
    and where the one before was set aside. Another `engine` goes on from the same state.

    Raises:
        UserError: config, folds or what forms weights in `src/competition` are not what the run began with; or the
            metric is not, and one of `folds` is unfinished.
    """
    project, folder = setup.project, setup.project.run(setup.name)
    record: dict[str, Any] = {"folds": setup.folds.hash, "n_folds": setup.folds.n_folds}
    if setup.config.pseudo:
        record["pseudo"] = fingerprints(project, setup.config.pseudo)
    old = set_aside(project, setup.name) if restart else None
    if (folder / "config.yaml").is_file():
        _refuse_changes(setup, folder, record)
        _print_changes(project, folder, [folder / f"fold_{name}" for name in folds])
        before = read_json(folder / "run.json").get("engine", engine)
        if before != engine:
            print(f"note: the run '{setup.name}' was begun with {before}, and {engine} goes on with it")
        return False, old
    # A folder that was cut off while it was made has no config.yaml yet under its final name.
    draft = project.runs / f".{setup.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    save_snapshot(project.source, project.root / FILE_NAME, project.folds / CLASSES, draft)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(draft / "run.json", {"began": began, "engine": engine, **record})
    write_text(draft / "config.yaml", dump_yaml(setup.config.model_dump(mode="json")))
    draft.replace(folder)
    return True, old


@contextmanager
def the_only_trainer(run: Path, job: str) -> Iterator[None]:
    """Hold the lock of one job of a run, which ends with the process; a UserError where another one holds it."""
    try:
        lock = FileLock(run / f".{job}.lock").acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(f"another process is training {job} of '{run.name}'; wait for it, or end it") from error
    with lock:
        yield


def set_aside(project: Project, name: str) -> Path | None:
    """Move a run out of the way, if there is one; says where it lies now."""
    folder, aside = project.run(name), project.runs / "set_aside"
    if not folder.exists():
        return None
    aside.mkdir(exist_ok=True)
    number = 1
    while (target := aside / f"{folder.name}.{number}").exists():
        number += 1
    folder.replace(target)
    print(f"the old run is set aside in {project.shown(target)}")
    return target


def _refuse_changes(setup: Setup, folder: Path, record: dict[str, Any]) -> None:
    """Refuse what forms weights and is not what the run began with; the differences are printed."""
    project = setup.project
    configs = [read_yaml(folder / "config.yaml"), setup.config.model_dump(mode="json")]
    configs = [{name: one[name] for name in one if name not in ("machine", "watch")} for one in configs]
    answers = [_answers(path / FILE_NAME) for path in (folder / CODE, project.root)]
    answers = [{name: one[name] for name in one if name not in LIVE} for one in answers]
    before = read_json(folder / "run.json")
    lines = [
        *differences(configs[0], configs[1]),
        *differences(answers[0], answers[1], FILE_NAME),
        *(f"{key}: {before[key]} -> {value}" for key, value in record.items() if before.get(key, value) != value),
    ]
    what, names, text = "settings", lines, "".join(f"  {line}\n" for line in lines)
    if not lines:
        files = changed_files(project.source, project.folds / CLASSES, folder)
        what, names = "code", [_label(live) for _, live in files]
        text = "".join(_diff(saved, live) for saved, live in files)
    if names:
        print(text, end="")
        raise UserError(
            f"the run '{folder.name}' was made with other {what} ({listed(names)}); change it back, train under "
            "another name with --as NAME, or begin anew with --restart"
        )


def _print_changes(project: Project, folder: Path, folds: Sequence[Path]) -> None:
    """Print what changed and forms no weights; refuse another metric where a fold is unfinished."""
    saved = folder / CODE
    parts = changed_parts(Code(saved / PACKAGE), Code(project.source / PACKAGE))
    settings = changed_settings(_answers(saved / FILE_NAME), _answers(project.root / FILE_NAME))
    if parts or settings:
        changes = listed([*(label(*part) for part in parts), *settings], 9)
        print(f"note: changed since '{folder.name}' began, and no reason to train anew: {changes}")
    if not any(name == "metrics" for _, name in parts) and not any(text.startswith("metric ") for text in settings):
        return
    for fold in folds:
        if has_begun(fold) and not (fold / FINISHED).is_file():
            raise UserError(
                f"{fold.name.replace('_', ' ')} of '{folder.name}' is half trained, and its best epoch so far goes by "
                f"the metric it began with; change that back, or begin this fold anew: remove {project.shown(fold)}"
            )
    finished = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{FINISHED}"))
    if finished:
        print(f"note: folds {', '.join(finished)} chose their best epoch by the metric that '{folder.name}' began with")


def _answers(path: Path) -> dict[str, Any]:
    return parse_settings(read_yaml(path), path).model_dump()


def _label(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[parts.index(PACKAGE) :]) if PACKAGE in parts else path.name


def _diff(saved: Path, live: Path) -> str:
    texts = [path.read_text("utf-8", errors="replace") if path.is_file() else "" for path in (saved, live)]
    before, now = (text.splitlines(keepends=True) for text in texts)
    return "".join(difflib.unified_diff(before, now, f"in the run: {_label(live)}", f"now: {_label(live)}", n=1))
